"""Switching: what the router adds to the time that a backend needs anyway, and in which order it serves a crowd.

The backends are `upstream` programs started by the router from a `command`, whose own start takes S seconds. Both
sides write CLOCK_MONOTONIC times, so that one switch comes apart without a guess:

    overhead = (first token at the client − request sent) − (backend ready − backend process created)

In the overhead is all that the router does or waits for: taking the request, stopping the model before and seeing it
gone, creating the process, noticing that it is ready (a poll that comes late counts), and relaying. Not in it is the
backend's own part, from the creation of its process to the moment from which `/health` answers 200. A wrapper that
the router puts before the command would hide in the backend's part; so the same program is also started alone a few
times, and both times are reported. "beyond S" is the plain difference, with the Python start of the fake backend in
it: compare it with other routers only for the same backend program.

Counterpart: `turns`, which asks, and `upstream --mark`, which writes down what it did.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import load, router, turns
from bench.load import Chat, Endpoint
from bench.procs import BenchFailed, Processes, end_strays, free_port

_UPSTREAM = str(Path(__file__).with_name("upstream.py"))
_SWITCH_LIMIT_S = 30.0
_BURST = "ABAACABC"
_CROWD_STARTUP_S = 0.3
_REPLY_S = 0.5
_CLIENTS = 3
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """`startups_s`: the S of the backends; `switches` for each; how long one waits for an answer while A is busy."""

    startups_s: tuple[float, ...]
    switches: int
    contended_limit_s: float


FULL = Scale(startups_s=(0.0, 0.3, 1.0), switches=12, contended_limit_s=60.0)
QUICK = Scale(startups_s=(0.0, 0.3), switches=4, contended_limit_s=20.0)


@dataclass(slots=True)
class Alternation:
    """A B A B with backends that need `startup_s`. Milliseconds, one figure per switch."""

    startup_s: float
    overhead_ms: list[float] = field(default_factory=list)
    beyond_s_ms: list[float] = field(default_factory=list)
    own_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """`order`: models by their first token. `loads`: backends started, from an empty device."""

    sent: str
    order: str
    loads: int
    total_s: float
    worst_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contended:
    """Seconds until the first token of the model that had to wait; None: no answer within `limit_s`."""

    waited_s: float | None
    limit_s: float


@dataclass(slots=True)
class Switching:
    """All that was measured; None where it wasn't. `alone_ms`: own start of the fake backend without any router."""

    alone_ms: float
    alternations: list[Alternation] = field(default_factory=list)
    burst: Burst | None = None
    contended: Contended | None = None
    left_behind: int | None = None
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of a fake backend as it noted it; CLOCK_MONOTONIC seconds."""

    model: str
    created_s: float
    ready_s: float | None


def read_marks(file: Path) -> list[Start]:
    """The starts in the order in which they were noted."""
    starts: dict[str, Start] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        event, at, model, pid = line.split(" ")
        if event == "start":
            starts[pid] = Start(model=model, created_s=float(at), ready_s=None)
        elif event == "ready":
            starts[pid] = Start(model=model, created_s=starts[pid].created_s, ready_s=float(at))
    return list(starts.values())


def measure(folder: Path, scale: Scale, say: Callable[[str], None]) -> Switching:
    """Runs all switch rows; a row that fails is noted and the others go on."""
    mark = folder / "marks"
    try:
        result = _measure(folder, mark, scale, say)
    finally:  # also when interrupted
        left_behind = end_strays(str(mark))
    result.left_behind = left_behind
    return result


def _measure(folder: Path, mark: Path, scale: Scale, say: Callable[[str], None]) -> Switching:
    with Processes(folder) as processes:
        say("switch: the backend alone")
        result = Switching(alone_ms=_alone_ms(processes, folder))
        with _noted(result):
            _alternate(processes, folder, mark, scale, result, say)
        say(f"switch: burst {' '.join(_BURST)}")
        with _noted(result):
            result.burst = _burst(processes, folder, folder / "marks-burst")
        say("switch: one request for B while three clients keep A busy")
        with _noted(result):
            result.contended = _contended(processes, folder, folder / "marks-busy", scale.contended_limit_s)
    return result


@contextmanager
def _noted(result: Switching) -> Iterator[None]:
    """Turns the failure of one row into a note, so that the others go on."""
    try:
        yield
    except BenchFailed as error:
        result.broken.append(str(error))


@contextmanager
def _serving(processes: Processes, name: str, models: Mapping[str, object], folder: Path) -> Iterator[Endpoint]:
    """The router with these models for as long as the block lasts; a failure inside is told with the router's log.

    One model at a time: these backends are so small that they would all be loaded side by side once that is known."""
    running = router.start(processes, name, models, folder, memory="exclusive")
    try:
        yield Endpoint(port=running.port)
    except BenchFailed as error:
        raise BenchFailed(f"{error}; the router said:\n{processes.log(name)}") from error
    finally:
        processes.stop(running.process)


def _models(names: Iterable[str], startup_s: float, mark: Path) -> dict[str, object]:
    return {
        name: {
            "backend": "openai",
            "command": [
                sys.executable,
                _UPSTREAM,
                *("--port", "${PORT}", "--model", "${MODEL}"),
                *("--startup-s", str(startup_s), "--mark", str(mark)),
            ],
        }
        for name in names
    }


def _chat(model: str, reply_s: float = 0.0) -> Chat:
    return Chat(model=model, stream=True, chunks=2, gap_us=int(reply_s / 2 * 1e6))


def _alone_ms(processes: Processes, folder: Path, times: int = 5) -> float:
    """Median time from creating the process to its being ready, S = 0, milliseconds."""
    took = []
    for number in range(times):
        mark = folder / f"marks-alone-{number}"
        port = free_port()
        began_s = time.monotonic()
        process = processes.start("alone", [sys.executable, _UPSTREAM, "--port", str(port), "--mark", str(mark)])
        processes.wait_listening("alone", process, port, "/health", 10)
        processes.stop(process)
        ready_s = read_marks(mark)[0].ready_s
        assert ready_s is not None
        took.append((ready_s - began_s) * 1000)
    return statistics.median(took)


def _alternate(
    processes: Processes, folder: Path, mark: Path, scale: Scale, result: Switching, say: Callable[[str], None]
) -> None:
    models: dict[str, object] = {}
    for startup_s in scale.startups_s:
        models |= _models((f"a-{startup_s}", f"b-{startup_s}"), startup_s, mark)
    with _serving(processes, "router-switch", models, folder) as endpoint:
        for startup_s in scale.startups_s:
            row = Alternation(startup_s=startup_s)
            result.alternations.append(row)
            _one_switch(endpoint, f"b-{startup_s}", mark, None)  # so that the first counted one replaces its like
            for number in range(scale.switches):
                say(f"switch: S = {startup_s:.1f} s, {number + 1} of {scale.switches}")
                _one_switch(endpoint, f"{'ab'[number % 2]}-{startup_s}", mark, row)


def _one_switch(endpoint: Endpoint, model: str, mark: Path, row: Alternation | None) -> None:
    known = len(read_marks(mark))
    (turn,) = load.run(turns.together(endpoint, [_chat(model)], _SWITCH_LIMIT_S))
    started = [start for start in read_marks(mark)[known:] if start.model == model and start.ready_s is not None]
    if not started:
        raise BenchFailed(f"cannot measure a switch: {model} answered, but was not started for it")
    if row is None:
        return
    last = started[-1]  # starts that came to nothing before it are the router's
    own_s = (last.ready_s or 0.0) - last.created_s
    waited_s = (turn.first_ns - turn.sent_ns) / 1e9
    row.own_ms.append(own_s * 1000)
    row.overhead_ms.append((waited_s - own_s) * 1000)
    row.beyond_s_ms.append((waited_s - row.startup_s) * 1000)


def _burst(processes: Processes, folder: Path, mark: Path) -> Burst:
    """All requests at once to a router that has loaded nothing yet."""
    chats = [_chat(model, _REPLY_S) for model in _BURST]
    with _serving(processes, "router-burst", _models("ABC", _CROWD_STARTUP_S, mark), folder) as endpoint:
        answered = load.run(turns.together(endpoint, chats, _SWITCH_LIMIT_S))
    sent_ns = min(turn.sent_ns for turn in answered)
    return Burst(
        sent=_BURST,
        order="".join(turn.model for turn in sorted(answered, key=lambda turn: turn.first_ns)),
        loads=len(read_marks(mark)),
        total_s=(max(turn.ended_ns for turn in answered) - sent_ns) / 1e9,
        worst_wait_s=max(turn.first_ns - turn.sent_ns for turn in answered) / 1e9,
    )


def _contended(processes: Processes, folder: Path, mark: Path, limit_s: float) -> Contended:
    with _serving(processes, "router-busy", _models("AB", _CROWD_STARTUP_S, mark), folder) as endpoint:
        load.run(turns.together(endpoint, [_chat("A")], _SWITCH_LIMIT_S))
        work = turns.contended(
            endpoint, _chat("A", _REPLY_S), _chat("B"), clients=_CLIENTS, after_s=_PAUSE_S, limit_s=limit_s
        )
        turn = load.run(work)
    return Contended(waited_s=None if turn is None else (turn.first_ns - turn.sent_ns) / 1e9, limit_s=limit_s)
