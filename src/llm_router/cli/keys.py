"""`llm-router keys`: makes keys for clients. Writes nothing: whoever keeps the configuration pastes the line."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from llm_router.cli.options import JsonOption
from llm_router.config.keys import new

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make keys for clients.")


@app.callback()
def _group() -> None:
    pass


@app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for; stands in logs.", show_default=False)],
    admin: Annotated[bool, typer.Option("--admin", help="It may manage the router too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a new key, once, and the line for "keys" in the configuration, which holds only its hash.

    Exit codes: 0 printed.
    """
    key, hashed = new()
    section: dict[str, object] = {"key": hashed, **({"admin": True} if admin else {})}
    if as_json:
        print(json.dumps({"name": name, "key": key, "section": section}))
        return
    print(key)
    print(
        f'Give this key to {name}; nobody can show it again. In the configuration, under "keys":\n'
        f"  {json.dumps(name)}: {json.dumps(section)}",
        file=sys.stderr,
    )
