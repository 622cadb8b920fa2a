"""What `llm-router simulate` does: find or read a trace, play it under each rule, show who waited how long.

Counterpart: `cli.simulate`, the command's options; apart from it, so that other commands don't load all this.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from llm_router.cli.show import print_out
from llm_router.core.specs import PolicySpec
from llm_router.errors import ConfigError
from llm_router.simulation import files, plot, public, report
from llm_router.simulation.builtin import BUILTIN
from llm_router.simulation.compare import RULES, Run, play
from llm_router.simulation.faults import Faults
from llm_router.simulation.trace import Trace

_PNG_ZOOM = 2  # sharp on a screen of today


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    machine: Path | None
    rules: Sequence[str]
    seed: int
    limit: int | None
    stretch: float
    policy: PolicySpec
    faults: Faults


def run(sources: Sequence[str], options: Options, *, as_json: bool, picture: Path | None) -> None:
    """Plays one trace and prints the figures. Raises: LlmRouterError, telling what is wrong with the sources."""
    _check(options.rules, picture)
    trace = find(sources, options)
    with Reporter(Console(stderr=True)) as tell:
        runs = play(trace, options.policy, rules=options.rules, faults=options.faults, tell=tell)
    comparison = report.compare(trace, runs, options.policy)
    if as_json:
        print(json.dumps(report.as_json(comparison), indent=2))
    else:
        print(f"{trace.name}: {len(trace.calls)} requests; {trace.about}")
        print_out(_table(comparison))
    if picture is not None:
        _draw(trace, runs, picture)
        print(f"drawn: {picture}", file=sys.stderr)


def run_all() -> None:
    """Plays all built-in traces and prints the page that the documentation has about them."""
    with Reporter(Console(stderr=True)) as tell:
        print(report.page(tell), end="")


def write(sources: Sequence[str], options: Options) -> None:
    """Prints the trace itself, as JSON lines."""
    for line in files.lines(find(sources, options)):
        print(line)


def find(sources: Sequence[str], options: Options) -> Trace:
    """A built-in trace by its name, else files: one of ours, or public csv files that are one trace together."""
    machine = None if options.machine is None else _readable(options.machine)
    first = sources[0]
    if len(sources) == 1 and first in BUILTIN:
        trace = BUILTIN[first](options.seed)
        if machine is not None:
            described = files.read_machine(machine)
            trace = files.assemble(first, list(trace.calls), replace(described, name=first, about=trace.about), first)
    else:
        paths = [_readable(Path(source)) for source in sources]
        if all(path.suffix == ".csv" for path in paths):
            trace = public.read(paths, None if machine is None else files.read_machine(machine))
        elif len(paths) == 1:
            trace = files.read(paths[0], machine)
        else:
            raise ConfigError("cannot read several traces at once, except csv files; name one")
    trace = trace if options.limit is None else trace.head(options.limit)
    return trace if options.stretch == 1 else trace.stretched(options.stretch)


class Reporter:
    """A bar on a terminal, elsewhere nothing: runs of a second need no words."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=1.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, rule: str, share: float) -> None:
        self._progress.update(self._task, description=rule, completed=share)


def _check(rules: Sequence[str], picture: Path | None) -> None:
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise ConfigError(f"cannot play {unknown[0]}: no such rule; there are {', '.join(RULES)}")
    if picture is not None and picture.suffix not in {".svg", ".png"}:
        raise ConfigError(f"cannot draw {picture}: the name must end with .svg or .png")
    if picture is not None and picture.suffix == ".png":
        _png_maker()


def _readable(path: Path) -> Path:
    if path.is_file():
        return path
    known = ", ".join(BUILTIN)
    raise ConfigError(f"cannot read {path}: no such file, and no built-in trace either; those are {known}")


def _table(comparison: report.Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(report.HEAD):
        table.add_column(title.upper(), justify="right" if number else "left", no_wrap=True)
    for row in report.rows(comparison):
        table.add_row(*row, style="dim" if row[0] == report.BEST else "")
    return table


def _draw(trace: Trace, runs: Sequence[Run], picture: Path) -> None:
    drawing = plot.svg(trace, runs)
    content = drawing.encode() if picture.suffix == ".svg" else _png_maker()(drawing)
    try:
        picture.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"cannot write {picture}: {error.strerror}; name another file") from error


def _png_maker() -> Callable[[str], bytes]:
    """Looked for before anything is played, so that a long run isn't in vain. Raises: ConfigError."""
    try:
        import resvg_py
    except ImportError as error:
        raise ConfigError(
            "cannot draw a .png without the package resvg-py: pip install 'llm-router[plot]', or name a .svg"
        ) from error
    return lambda drawing: bytes(resvg_py.svg_to_bytes(svg_string=drawing, zoom=_PNG_ZOOM))
