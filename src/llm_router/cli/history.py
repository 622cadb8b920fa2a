"""`llm-router history`: the last loads, or the last requests, as the router wrote them down."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from llm_router.cli.guard import errors_as_json
from llm_router.cli.options import ConfigOption, JsonOption
from llm_router.cli.show import duration, memory, print_out
from llm_router.config import find, load
from llm_router.history import reading
from llm_router.history.base import LoadRecord, RequestRecord


def history(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Only this one, by name or alias.", show_default=False)
    ] = None,
    requests: Annotated[bool, typer.Option("--requests", help="The last requests instead of the last loads.")] = False,
    count: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of them.")] = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last loads: when, how long, what they held, why they failed. Or the last requests: how they ended, how
    long they waited, their tokens; a running router writes them down every ten seconds, and never what they said.

    Exit codes: 0 shown; 1 the history can't be read; 2 the configuration can't be read.
    """
    with errors_as_json(as_json):
        settings = load(find(config))
        path = settings.state_folder / "history.sqlite"
        name = None if model is None else settings.canonical(model) or model
        if requests:
            ended = reading.requests(path, model=name, count=count)
            table, records = _requests(ended), [record._asdict() for record in ended]
        else:
            begun = reading.loads(path, model=name, count=count)
            table, records = _loads(begun), [asdict(record) for record in begun]
    if as_json:
        print(json.dumps({"requests" if requests else "loads": records}, indent=2))
    elif records:
        print_out(table)
    else:
        print(f"nothing is written down yet in {path}", file=sys.stderr)


def _loads(records: Sequence[LoadRecord]) -> Table:
    table = _table(("WHEN", "MODEL"), ("TOOK", "HELD"), ("OUTCOME",))
    for record in records:
        held = ", ".join(f"{memory(mib)} of {device}" for device, mib in record.peak_mib.items())
        outcome = escape(record.error or _how(record))
        table.add_row(_when(record.at), escape(record.model), duration(record.took_s), escape(held), outcome)
    return table


def _how(record: LoadRecord) -> str:
    if record.woken:
        return "woken"
    return "ready, from memory" if record.warm else "ready"


def _requests(records: Sequence[RequestRecord]) -> Table:
    table = _table(("WHEN", "MODEL", "KIND"), ("WAITED", "FIRST TOKEN", "TOOK", "PROMPT", "ANSWER"), ("OUTCOME",))
    for record in records:
        times = map(duration, (record.wait_s, record.first_token_s, record.took_s))
        tokens = (str(number or "") for number in (record.prompt_tokens, record.completion_tokens))
        names = map(escape, (record.model, record.kind))
        table.add_row(_when(record.at), *names, *times, *tokens, escape(record.outcome))
    return table


def _table(names: Sequence[str], numbers: Sequence[str], texts: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in names:
        table.add_column(title, no_wrap=True)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    for title in texts:
        table.add_column(title, overflow="fold")
    return table


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
