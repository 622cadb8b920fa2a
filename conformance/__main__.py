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
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "tests/programs")]

from conformance import switch, table  # noqa: E402
from conformance.cache import Cache, InstallError, Say, default_folder  # noqa: E402
from conformance.points import POINTS, CannotRunError, Point, Subject  # noqa: E402
from conformance.real import ENGINES, Prepare, Prepared, subject  # noqa: E402
from conformance.result import CANNOT_RUN, DIFFERS, WORKS, Result  # noqa: E402

# Above all that the points wait for by themselves.
_POINT_S = 900.0


def main() -> int:
    options = _parser().parse_args()
    # Ctrl-C and TERM both end the router, and that its engine. A shell's background jobs begin with INT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console(stderr=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(
            f"{time.monotonic() - began:6.1f} s  {text}", style="dim", markup=False, highlight=False, soft_wrap=True
        )

    cache = Cache(folder=options.dir or default_folder(), say=say)
    say(f"engines are installed into {cache.folder}")
    points = {name: point for name, point in POINTS.items() if options.point in (None, name)}
    results = _earlier(options.earlier)
    try:
        chosen = {name: prepare for name, prepare in ENGINES.items() if _is_chosen(name, options)}
        results |= {name: _ask(name, prepare, points, cache, say) for name, prepare in chosen.items()}
        if _is_chosen(switch.NAME, options) and options.point is None:
            results[switch.NAME] = _switch(cache, say, options.stream)
    except KeyboardInterrupt:
        say("interrupted; everything that was started has been ended")
        return 130
    return _told([results[name] for name in (*ENGINES, switch.NAME) if name in results], options, cache)


def _earlier(files: list[Path]) -> dict[str, Result]:
    found = [Result(**one) for file in files for one in json.loads(file.read_text())]
    return {result.engine: result for result in found}


def _told(results: list[Result], options: argparse.Namespace, cache: Cache) -> int:
    """On the terminal and in the files that were asked for. Returns the exit code."""
    table.show(Console(width=None if sys.stdout.isatty() else 160), results)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    if options.page is not None:  # which is for people who don't have this machine's folders
        options.page.write_text(table.page(results).replace(str(cache.folder), "the cache folder"))
    if any(result.is_broken for result in results):
        return 2
    return int(any(verdict == DIFFERS for result in results for verdict, _ in result.points.values()))


def _ask(name: str, prepare: Prepare, points: dict[str, Point], cache: Cache, say: Say) -> Result:
    result = Result(engine=name, when=table.when(ROOT))
    # Not inside the loop: nothing there would notice a Ctrl-C while an engine is installed.
    prepared = _prepared(result, prepare, cache)
    if prepared is not None:
        asyncio.run(_ask_points(result, prepared, points, cache, say))
    return result


def _prepared(result: Result, prepare: Prepare, cache: Cache) -> Prepared | None:
    try:
        prepared = prepare(cache)
    except CannotRunError as reason:
        result.trouble = str(reason)
        return None
    except (InstallError, OSError) as error:
        result.trouble, result.is_broken = str(error), True
        return None
    result.version = prepared.version
    return prepared


async def _ask_points(result: Result, prepared: Prepared, points: dict[str, Point], cache: Cache, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(subject(prepared, cache, Path(folder) / "router"))
            for name, point in points.items():
                began = time.monotonic()
                result.points[name] = verdict = await _verdict(point, running)
                took = f"{time.monotonic() - began:.1f} s"
                say(f"{result.engine}: {table.words(name)}: {verdict[0]} ({took}) {verdict[1]}")
        if left := running.left():
            result.points["nothing_is_left_of_it"] = (DIFFERS, f"processes {left}")
        elif points:
            result.points["nothing_is_left_of_it"] = (WORKS, "")


def _switch(cache: Cache, say: Say, stream: Path | None) -> Result:
    """From engine to engine; only those that can be had."""
    result = Result(engine=switch.NAME, when=table.when(ROOT))
    stops = {name: _prepared(result, prepare, cache) for name, prepare in switch.STOPS.items()}
    result.version = ""
    if any(prepared is None for prepared in stops.values()):
        return result
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        known = {name: prepared for name, prepared in stops.items() if prepared is not None}
        received = asyncio.run(switch.run(result, known, Path(folder) / "router", say))
    if stream is not None:
        stream.write_text(received)
    return result


async def _verdict(point: Point, running: Subject) -> tuple[str, str]:
    try:
        async with asyncio.timeout(_POINT_S):
            return WORKS, await point(running) or ""
    except CannotRunError as reason:
        return CANNOT_RUN, str(reason)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in a point is what it found
        return DIFFERS, f"{type(error).__name__}: {error}"[:600]


def _is_chosen(name: str, options: argparse.Namespace) -> bool:
    words: list[str] | None = options.only
    if words is None:
        return not options.earlier
    return any(word.lower() in name.lower() for word in words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="ENGINE", help=f"a part of its name, or of {switch.NAME!r}; may be repeated"
    )
    parser.add_argument("--point", choices=POINTS, help="one point alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the results as a page of the documentation")
    parser.add_argument(
        "--earlier",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="show an earlier run's --json too, but for engines that are asked again; without --only, no "
        "engine is; may be repeated",
    )
    parser.add_argument("--stream", type=Path, metavar="FILE", help="write what the client of the switch received")
    parser.add_argument("--dir", type=Path, help="where engines are installed (LLM_ROUTER_CONFORMANCE_DIR)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
