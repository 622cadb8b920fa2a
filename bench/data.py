"""The data plane: what moving the bytes costs, each proxy in turn on the same upstream.

Every workload runs on every target before the next workload begins, and all of it once per round, so that noise of
the machine hits all alike; the order within a round rotates. Figures are medians over the rounds, ratios the median of
each round's own ratio. Counterpart: `load`, which makes the traffic, and `report`, which judges.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import load, procs
from bench.load import Chat, Endpoint, Outcome
from bench.procs import BenchFailed

MODEL = "bench-model"
ONE_BY_ONE = "request, one at a time"
PACED_16 = "16 paced streams"
_PER_REQUEST = 3.0
_PER_CHUNK = 1.35
_LARGE_BODY_BYTES = 32 * 1024
_GAP_US = 10_000
_HELD_GAP_US = 600_000_000
# What a proxy still does after the last byte (logs, figures, pools) belongs to the request: wait this long for it.
_SETTLE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something to send requests to. `pid`: root of the process tree to be charged; None: nothing to charge."""

    name: str
    endpoint: Endpoint
    pid: int | None = None
    model: str = MODEL
    include_usage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything. `flood_chunks`: per stream, far more than sockets buffer; `held`: silent streams;
    `idle_s`: how long nobody asks, some of the longest pauses between anything that a proxy does by itself."""

    rounds: int
    request_s: float
    paced_chunks: int
    flood_chunks: int
    held: int
    idle_s: float


FULL = Scale(rounds=5, request_s=0.8, paced_chunks=200, flood_chunks=4000, held=500, idle_s=3.0)
QUICK = Scale(rounds=1, request_s=0.6, paced_chunks=80, flood_chunks=4000, held=200, idle_s=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`unit` is what the CPU time is divided by: "request" or "chunk". `goal`: at most so many times nginx's."""

    name: str
    unit: str
    run: Callable[[Target], Coroutine[Any, Any, Outcome]]
    goal: float | None = None


@dataclass(slots=True)
class Cell:
    """One workload on one target: a figure per round, and the times of all rounds together."""

    cpu_us: list[float] = field(default_factory=list)
    upstream_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    first_us: list[float] = field(default_factory=list)
    delay_us: list[float] = field(default_factory=list)

    def add(self, outcome: Outcome, unit: str, cpu_s: float | None, upstream_s: float) -> None:
        count = outcome.replies if unit == "request" else outcome.chunks
        self.per_s.append(count / outcome.elapsed_s)
        self.upstream_us.append(upstream_s / count * 1e6)
        if cpu_s is not None:
            self.cpu_us.append(cpu_s / count * 1e6)
        self.first_us.extend(outcome.first_us)
        self.delay_us.extend(outcome.delay_us)


@dataclass(slots=True)
class AtRest:
    """What the tree costs beside the work. `after_kib`: resident after everything; `per_stream_kib`: for each open
    stream that is silent; `idle_ms_per_s`: CPU time while nobody asks."""

    after_kib: int | None = None
    per_stream_kib: float | None = None
    idle_ms_per_s: float | None = None


@dataclass(slots=True)
class DataPlane:
    """All that was measured; `broken` holds why a target was left out from some point on, `notes` what else to know."""

    targets: list[str]
    workloads: list[Workload]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    at_rest: dict[str, AtRest] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def cell(self, workload: str, target: str) -> Cell:
        return self.cells.setdefault((workload, target), Cell())


def workloads(scale: Scale) -> list[Workload]:
    """The rows, in the order in which they run."""

    def request(body_bytes: int, connections: int = 16) -> Callable[[Target], Coroutine[Any, Any, Outcome]]:
        return lambda target: load.requests(
            target.endpoint,
            Chat(model=target.model, stream=False, body_bytes=body_bytes),
            connections=connections,
            seconds=scale.request_s,
        )

    def stream(count: int, chunks: int, gap_us: int, times: int) -> Callable[[Target], Coroutine[Any, Any, Outcome]]:
        return lambda target: load.streams(
            target.endpoint,
            Chat(model=target.model, stream=True, chunks=chunks, gap_us=gap_us, include_usage=target.include_usage),
            count=count,
            times=times,
        )

    return [
        Workload(name="request, 1 KB", unit="request", run=request(1024), goal=_PER_REQUEST),
        Workload(name="request, 32 KB", unit="request", run=request(_LARGE_BODY_BYTES), goal=_PER_REQUEST),
        Workload(name=ONE_BY_ONE, unit="request", run=request(1024, 1)),
        Workload(
            name="64 paced streams", unit="chunk", run=stream(64, scale.paced_chunks, _GAP_US, 1), goal=_PER_CHUNK
        ),
        Workload(name=PACED_16, unit="chunk", run=stream(16, scale.paced_chunks, _GAP_US, 1), goal=_PER_CHUNK),
        Workload(name="flood, 8 streams", unit="chunk", run=stream(8, scale.flood_chunks, 0, 1)),
    ]


def measure(targets: Sequence[Target], upstream_pid: int, scale: Scale, say: Callable[[str], None]) -> DataPlane:
    """Runs everything on all targets. A target that fails is left out from there on and noted in `broken`."""
    rows = workloads(scale)
    plane = DataPlane(targets=[target.name for target in targets], workloads=rows)

    def standing() -> list[Target]:
        return [target for target in targets if target.name not in plane.broken]

    for target in targets:
        say(f"data: {target.name} at rest, and with {scale.held} silent streams")
        with _noted(plane, target):
            _warm_up(target)
            plane.at_rest[target.name] = AtRest(
                idle_ms_per_s=_idle_ms_per_s(target.pid, scale.idle_s),
                per_stream_kib=_per_silent_stream_kib(plane, target, scale.held),
            )
    for number in range(scale.rounds):
        for row in rows:
            for target in _rotated(standing(), number):
                say(f"data: round {number + 1} of {scale.rounds}, {row.name}, {target.name}")
                with _noted(plane, target):
                    _one(plane.cell(row.name, target.name), row, target, upstream_pid)
    for target in standing():
        if target.pid is not None:
            plane.at_rest[target.name].after_kib = procs.rss_kib(target.pid)
    return plane


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def ratio(cell: Cell, reference: Cell) -> float | None:
    """CPU time against the reference's, the median of each round's own ratio; None where one has no figures."""
    pairs = [ours / theirs for ours, theirs in zip(cell.cpu_us, reference.cpu_us, strict=False) if theirs]
    return statistics.median(pairs) if pairs else None


@contextmanager
def _noted(plane: DataPlane, target: Target) -> Iterator[None]:
    """Turns the failure of one target into a note, so that the others go on."""
    try:
        yield
    except BenchFailed as error:
        plane.broken[target.name] = str(error)


def _rotated(targets: Sequence[Target], by: int) -> Iterator[Target]:
    for number in range(len(targets)):
        yield targets[(number + by) % len(targets)]


def _one(cell: Cell, row: Workload, target: Target, upstream_pid: int) -> None:
    upstream_before_s = procs.cpu_s(upstream_pid)
    before_s = procs.cpu_s(target.pid) if target.pid is not None else 0.0
    outcome = load.run(row.run(target))
    time.sleep(_SETTLE_S)
    cpu_s = procs.cpu_s(target.pid) - before_s if target.pid is not None else None
    cell.add(outcome, row.unit, cpu_s, procs.cpu_s(upstream_pid) - upstream_before_s)


def _warm_up(target: Target) -> None:
    """Code is loaded and pools are filled, so that neither is charged to the first workload."""
    whole = Chat(model=target.model, stream=False)
    paced = Chat(model=target.model, stream=True, chunks=10, gap_us=1000)
    load.run(load.requests(target.endpoint, whole, connections=16, seconds=0.2))
    load.run(load.streams(target.endpoint, paced, count=16))


def _idle_ms_per_s(pid: int | None, seconds: float) -> float | None:
    if pid is None:
        return None
    time.sleep(_SETTLE_S)
    before_s = procs.cpu_s(pid)
    time.sleep(seconds)
    return (procs.cpu_s(pid) - before_s) * 1000 / seconds


def _per_silent_stream_kib(plane: DataPlane, target: Target, count: int) -> float | None:
    pid = target.pid
    if pid is None:
        return None
    silent = Chat(model=target.model, stream=True, chunks=2, gap_us=_HELD_GAP_US)
    before_kib = procs.rss_kib(pid)
    try:
        during_kib = load.run(load.hold(target.endpoint, silent, count=count, measure=lambda: procs.rss_kib(pid)))
    except BenchFailed as error:  # a proxy may well limit its connections; the other rows need only 64
        plane.notes.append(f"{target.name}: {count} streams at a time: {error}")
        return None
    return (during_kib - before_kib) / count
