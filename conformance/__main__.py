"""`python -m conformance`: the contract asked of real engines, through a router. See README.md.

Exit code 0: every point that can run holds. 1: something differs. 2: an engine could not be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "tests/programs")]

from routing import leftovers  # noqa: E402 - the paths come first

from conformance.cache import Cache, InstallError, Say, default_folder  # noqa: E402
from conformance.points import POINTS, CannotRunError, Point, Subject  # noqa: E402
from conformance.real import ENGINES, Prepare, subject  # noqa: E402

WORKS, DIFFERS, CANNOT_RUN = "works", "differs", "can't run here"
_SIGNS = {WORKS: "[green]works[/]", DIFFERS: "[red]differs[/]", CANNOT_RUN: "[dim]–[/]"}
# Above all that the points wait for by themselves.
_POINT_S = 900.0


@dataclass(slots=True, kw_only=True)
class Result:
    """`points`: by name, the verdict and what there is to say. `trouble`: why none could be asked."""

    engine: str
    version: str = ""
    points: dict[str, tuple[str, str]] = field(default_factory=dict)
    trouble: str = ""
    is_broken: bool = False


def main() -> int:
    options = _parser().parse_args()
    # Ctrl-C and TERM both end the router, and that its engine. A shell's background jobs begin with INT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console(stderr=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {text}", style="dim", markup=False, highlight=False)

    cache = Cache(folder=options.dir or default_folder(), say=say)
    say(f"engines are installed into {cache.folder}")
    chosen = {name: prepare for name, prepare in ENGINES.items() if _is_chosen(name, options.only)}
    points = {name: point for name, point in POINTS.items() if options.point in (None, name)}
    try:
        results = [asyncio.run(_ask(name, prepare, points, cache, say)) for name, prepare in chosen.items()]
    except KeyboardInterrupt:
        say("interrupted; everything that was started has been ended")
        return 130
    show(Console(width=None if sys.stdout.isatty() else 160), results)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    if any(result.is_broken for result in results):
        return 2
    return int(any(verdict == DIFFERS for result in results for verdict, _ in result.points.values()))


async def _ask(name: str, prepare: Prepare, points: dict[str, Point], cache: Cache, say: Say) -> Result:
    result = Result(engine=name)
    try:
        prepared = prepare(cache)
    except CannotRunError as reason:
        result.trouble = str(reason)
        return result
    except (InstallError, OSError) as error:
        result.trouble, result.is_broken = str(error), True
        return result
    result.version = prepared.version
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(subject(prepared, cache, Path(folder) / "router"))
            for point_name, point in points.items():
                began = time.monotonic()
                result.points[point_name] = verdict = await _verdict(point, running)
                took = f"{time.monotonic() - began:.1f} s"
                say(f"{name}: {_words(point_name)}: {verdict[0]} ({took}) {verdict[1]}")
        if left := leftovers(running.router):
            result.points["nothing_is_left_of_it"] = (DIFFERS, f"processes {left}")
        elif points:
            result.points["nothing_is_left_of_it"] = (WORKS, "")
    return result


async def _verdict(point: Point, running: Subject) -> tuple[str, str]:
    try:
        async with asyncio.timeout(_POINT_S):
            await point(running)
    except CannotRunError as reason:
        return CANNOT_RUN, str(reason)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in a point is what it found
        return DIFFERS, f"{type(error).__name__}: {error}"[:400]
    return WORKS, ""


def show(console: Console, results: list[Result]) -> None:
    table = Table(title="What a client may rely on, engine by engine")
    table.add_column("point")
    for result in results:
        table.add_column(f"{result.engine}\n[dim]{result.version or 'not run'}[/]", justify="center")
    for name in dict.fromkeys(name for result in results for name in result.points):
        table.add_row(_words(name), *(_SIGNS[result.points.get(name, (CANNOT_RUN,))[0]] for result in results))
    console.print(table)
    for result in results:
        if result.trouble:
            console.print(f"{result.engine}: can't run here: {result.trouble}", markup=False)
        for name, (verdict, reason) in result.points.items():
            if verdict == DIFFERS:
                console.print(f"{result.engine}: {_words(name)}: {reason}", markup=False)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _is_chosen(name: str, only: list[str] | None) -> bool:
    return only is None or any(word.lower() in name.lower() for word in only)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--only", action="append", metavar="ENGINE", help="a part of its name; may be repeated")
    parser.add_argument("--point", choices=POINTS, help="one point alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the results as JSON")
    parser.add_argument("--dir", type=Path, help="where engines are installed (LLM_ROUTER_CONFORMANCE_DIR)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
