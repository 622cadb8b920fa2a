"""The options of `llm-router discover`. Counterparts: `cli.finding` and `cli.importing`, which do it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_router.cli.guard import errors_as_json
from llm_router.cli.options import JsonOption
from llm_router.errors import ConfigError


def discover(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Where to look, instead of the usual places.", show_default=False),
    ] = None,
    *,
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Make a new configuration (.json or .yaml).")
    ] = None,
    merge: Annotated[
        Path | None,
        typer.Option("--merge", "-m", metavar="FILE", help="Add what is new to this configuration; the rest stays."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --write or --merge: show what would change, and change nothing.")
    ] = False,
    select: Annotated[
        list[str] | None,
        typer.Option("--select", metavar="GLOB", help="Only models whose name, path or origin matches; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="None of these; may be repeated.")
    ] = None,
    context: Annotated[
        int, typer.Option("--context", min=256, help="Context window in tokens, to reckon with and to write.")
    ] = 8192,
    limit_s: Annotated[
        float, typer.Option("--time-limit", min=0.1, help="Stop looking into one place after this many seconds.")
    ] = 60.0,
    llama_swap: Annotated[
        Path | None,
        typer.Option(
            "--from-llama-swap", metavar="FILE", help="Take the models from a configuration of llama-swap instead."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the models on this machine, say what serves each and what it takes in memory, and write them into a
    configuration.

    Looks for GGUF files and folders with safetensors in the folders given, else in ~/models, /models, /opt/models, the
    Hugging Face cache, and where LM Studio, Ollama and llama.cpp keep theirs. Changes no file without --write or
    --merge.

    Exit codes: 0 found, or imported; 1 nothing found, or it can't be written; 2 wrong usage; 130 interrupted.
    """
    from llm_router.cli import finding, importing
    from llm_router.cli.target import Target

    with errors_as_json(as_json):
        if write is not None and merge is not None:
            raise ConfigError("cannot both write and merge: use --write for a new file, or --merge for one that exists")
        target = Target(write=write, merge=merge, dry_run=dry_run)
        if llama_swap is None:
            chosen = finding.Choice(select=tuple(select or ()), exclude=tuple(exclude or ()))
            finding.run(folders or [], target, chosen, context=context, limit_s=limit_s, as_json=as_json)
        elif folders or select or exclude:
            raise ConfigError("cannot search folders and import at once: leave one of the two away")
        else:
            importing.run(llama_swap, target, as_json=as_json)
