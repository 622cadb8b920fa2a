"""The options of `llm-router simulate`. Counterpart: `cli.compare`, which does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llm_router.cli.options import JsonOption
from llm_router.core.specs import PolicySpec
from llm_router.errors import ConfigError

# Written out, because what they name takes long to import; a test compares.
BUILTIN = "agent-ping-pong, poisson, lab-week, burst"
RULES = "llm-router, ready-first, lru, fifo, fifo-alone"
_DEFAULTS = PolicySpec()


def simulate(
    traces: Annotated[
        list[str] | None,
        typer.Argument(metavar="TRACE", help=f"A built-in trace ({BUILTIN}), or files.", show_default=False),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Play all built-in traces; print the page of the docs.")] = False,
    machine: Annotated[
        Path | None, typer.Option("--models", help="A file with devices and models, instead of the trace's own.")
    ] = None,
    rules: Annotated[
        list[str] | None, typer.Option("--rule", help=f"Play only this rule; may be repeated: {RULES}.")
    ] = None,
    patience_s: Annotated[
        float, typer.Option("--patience", min=0, help="Our own rule's shortest turn, in seconds.")
    ] = _DEFAULTS.patience_s,
    drain_timeout_s: Annotated[
        float, typer.Option("--drain-timeout", min=0, help="Our own rule's time for open requests, in seconds.")
    ] = _DEFAULTS.drain_timeout_s,
    queue_limit: Annotated[
        int, typer.Option("--queue-limit", min=1, help="Requests that may wait at the same time, under any rule.")
    ] = _DEFAULTS.queue_limit,
    seed: Annotated[int, typer.Option(help="Another one makes other built-in traces and other faults.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first requests of the trace.")] = None,
    stretch: Annotated[float, typer.Option(min=0.0, help="So many times the time between requests.")] = 1.0,
    load_failures: Annotated[float, typer.Option(min=0, max=1, help="Share of the loads that fail.")] = 0.0,
    cancellations: Annotated[float, typer.Option(min=0, max=1, help="Share of the clients that leave early.")] = 0.0,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Draw waits and loaded models into this .svg or .png.")
    ] = None,
    dump: Annotated[bool, typer.Option("--dump", help="Print the trace as JSON lines instead of playing it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Play a trace of requests through the real scheduler on a virtual clock, and through the rules of other tools.

    Shows switches and waits under each rule, beside what no rule can beat. Needs no router, no model and no device.

    Exit codes: 0 shown; 1 the trace can't be used; 2 wrong usage; 130 interrupted.
    """
    from llm_router.cli import compare
    from llm_router.simulation.faults import Faults

    if every:
        compare.run_all()
        return
    if not traces:
        raise ConfigError(f"cannot play without a trace: name a file, or one of {BUILTIN}; or use --all")
    options = compare.Options(
        machine=machine,
        rules=rules or RULES.split(", "),
        seed=seed,
        limit=limit,
        stretch=stretch,
        policy=replace(_DEFAULTS, patience_s=patience_s, drain_timeout_s=drain_timeout_s, queue_limit=queue_limit),
        faults=Faults(seed=seed, load_failures=load_failures, cancellations=cancellations),
    )
    if dump:
        compare.write(traces, options)
    else:
        compare.run(traces, options, as_json=as_json, picture=picture)
