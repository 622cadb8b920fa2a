"""From figures to a table, a verdict for each goal, and JSON.

The goals are the project's own: per request at most 3 times nginx, per paced chunk at most 1.35 times, less than 60 ms
of a switch, three loads for the burst. A verdict is "met", "missed", or "–" where there is nothing to hold against.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from bench.data import ONE_BY_ONE, PACED_16, Cell, DataPlane, percentile, ratio
from bench.switch import Switching

REFERENCE = "nginx"
DIRECT = "direct"
ROUTER = "llm-router"
PASS_THROUGH = "llm-router, pass-through"

_SWITCH_MS = 60.0
_BURST_LOADS = 3
_NOTHING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`met` None: it couldn't be judged."""

    goal: str
    measured: str
    met: bool | None


def verdicts(plane: DataPlane | None, switching: Switching | None) -> list[Verdict]:
    """Every goal that what was run can speak to."""
    found = []
    for row in plane.workloads if plane is not None else ():
        limit = row.goal
        if plane is None or limit is None:
            continue
        for target in (name for name in plane.targets if name.startswith(ROUTER)):
            times = ratio(plane.cell(row.name, target), plane.cell(row.name, REFERENCE))
            measured = _NOTHING if times is None else f"{times:.2f} ×"
            goal = f"{target}, {row.name}: at most {limit:g} × nginx"
            found.append(Verdict(goal=goal, measured=measured, met=None if times is None else times <= limit))
    if switching is not None:
        found += _switch_verdicts(switching)
    return found


def _switch_verdicts(switching: Switching) -> list[Verdict]:
    found = []
    for row in switching.alternations:
        median = statistics.median(row.overhead_ms) if row.overhead_ms else None
        goal = f"switch overhead, S = {row.startup_s:.1f} s: median below {_SWITCH_MS:.0f} ms"
        measured = _NOTHING if median is None else f"{median:.1f} ms"
        found.append(Verdict(goal=goal, measured=measured, met=None if median is None else median < _SWITCH_MS))
    burst = switching.burst
    found.append(
        Verdict(
            goal=f"burst from an empty device: {_BURST_LOADS} loads",
            measured=_NOTHING if burst is None else f"{burst.loads} loads",
            met=None if burst is None else burst.loads <= _BURST_LOADS,
        )
    )
    return found


def show(console: Console, plane: DataPlane | None, switching: Switching | None, load_before: float) -> None:
    """Prints all tables and what went wrong. `load_before`: processes that wanted to run when the benchmark began."""
    if plane is not None:
        console.print(_cost_table(plane))
        console.print(_delay_table(plane))
        console.print(_rest_table(plane))
        for name, why in plane.broken.items():
            console.print(f"{name} was left out: {why}", style="red", markup=False, highlight=False)
        for note in plane.notes:
            console.print(note, style="yellow", markup=False, highlight=False)
    if switching is not None:
        console.print(_switch_table(switching))
        _show_crowd(console, switching)
        for why in switching.broken:
            console.print(f"a switch row ended early: {why}", style="red", markup=False, highlight=False)
    console.print(_verdict_table(verdicts(plane, switching)))
    cpus = os.cpu_count() or 1
    if load_before > cpus / 4:
        text = f"Others used this machine (load {load_before:.1f} on {cpus} CPUs): delays and switches read too long"
        console.print(text, style="yellow", highlight=False)


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _cost_table(plane: DataPlane) -> Table:
    title = "CPU time of the whole process tree, µs per request or chunk (× nginx), and how many a second"
    table = _table(title, "", *plane.targets)
    for row in plane.workloads:
        cells = [plane.cell(row.name, target) for target in plane.targets]
        reference = plane.cell(row.name, REFERENCE)
        table.add_row(f"{row.name}: µs/{row.unit}", *(_cost(cell, reference) for cell in cells))
    table.add_section()
    for row in plane.workloads:
        if "paced" not in row.name and row.name != ONE_BY_ONE:  # the pace is given, or the delay says it all
            table.add_row(f"{row.name}: {row.unit}s/s", *(_rate(plane.cell(row.name, t)) for t in plane.targets))
    return table


def _cost(cell: Cell, reference: Cell) -> str:
    if not cell.cpu_us:
        return _NOTHING
    times = ratio(cell, reference)
    return f"{statistics.median(cell.cpu_us):.1f}" + ("" if times is None else f" ({times:.2f} ×)")


def _rate(cell: Cell) -> str:
    return f"{statistics.median(cell.per_s):,.0f}" if cell.per_s else _NOTHING


def _delay_table(plane: DataPlane) -> Table:
    names = ("request p50", "p99", "first byte p50", "p99", "chunk p50", "p99")
    title = "Added delay over the direct connection, ms: requests one at a time, and 16 paced streams"
    table = _table(title, f"({DIRECT}: the delay itself)", *names)
    for target in plane.targets:
        whole, paced = plane.cell(ONE_BY_ONE, target), plane.cell(PACED_16, target)
        bases = (Cell(), Cell())
        if target != DIRECT:
            bases = (plane.cell(ONE_BY_ONE, DIRECT), plane.cell(PACED_16, DIRECT))
        values = (
            *added_us(whole.first_us, bases[0].first_us),
            *added_us(paced.first_us, bases[1].first_us),
            *added_us(paced.delay_us, bases[1].delay_us),
        )
        table.add_row(target, *(_NOTHING if value is None else f"{value / 1000:.3f}" for value in values))
    return table


def added_us(values: Sequence[float], base: Sequence[float]) -> tuple[float | None, float | None]:
    """p50 and p99 of `values`, each less the same of `base` (nothing: less 0). Microseconds."""
    if not values:
        return None, None
    p50, p99 = (percentile(values, percent) - (percentile(base, percent) if base else 0.0) for percent in (50, 99))
    return p50, p99


def _rest_table(plane: DataPlane) -> Table:
    columns = ("RSS after all, MiB", "per silent stream, KiB", "CPU while idle, ms/s")
    table = _table("The whole process tree at rest", "", *columns)
    for target, rest in plane.at_rest.items():
        if target != DIRECT:
            after = _NOTHING if rest.after_kib is None else f"{rest.after_kib / 1024:.0f}"
            each = _NOTHING if rest.per_stream_kib is None else f"{rest.per_stream_kib:.1f}"
            idle = _NOTHING if rest.idle_ms_per_s is None else f"{rest.idle_ms_per_s:.2f}"
            table.add_row(target, after, each, idle)
    return table


def _switch_table(switching: Switching) -> Table:
    columns = ("switches", "overhead median", "p95", "worst", "own start", "request to token, beyond S")
    table = _table("Switching, A B A B; milliseconds", "backend's start", *columns)
    for row in switching.alternations:
        if not row.overhead_ms:
            continue
        table.add_row(
            f"S = {row.startup_s:.1f} s",
            str(len(row.overhead_ms)),
            f"{statistics.median(row.overhead_ms):.1f}",
            f"{percentile(row.overhead_ms, 95):.1f}",
            f"{max(row.overhead_ms):.1f}",
            f"{statistics.median(row.own_ms):.1f}",
            f"{statistics.median(row.beyond_s_ms):.1f}",
        )
    table.caption = f"started without a router, the same backend needs {switching.alone_ms:.1f} ms at S = 0"
    table.caption_justify = "left"
    return table


def _show_crowd(console: Console, switching: Switching) -> None:
    burst = switching.burst
    if burst is not None:
        console.print(
            f"Burst {' '.join(burst.sent)} at once, empty device, S = 0.3 s, replies of 0.5 s: {burst.loads} loads, "
            f"served {' '.join(burst.order)}, all done after {burst.total_s:.2f} s, "
            f"longest wait {burst.worst_wait_s:.2f} s",
            highlight=False,
        )
    contended = switching.contended
    if contended is not None:
        waited = contended.waited_s
        text = f"no answer within {contended.limit_s:.0f} s" if waited is None else f"{waited:.2f} s"
        console.print(f"One request for B while three clients keep A busy: {text}", highlight=False)
    if switching.left_behind:
        console.print(f"{switching.left_behind} backends were left behind when the router ended", style="red")


def _verdict_table(found: list[Verdict]) -> Table:
    table = _table("Goals", "goal", "measured", "verdict")
    words = {True: "[green]met[/]", False: "[red]missed[/]", None: _NOTHING}
    for verdict in found:
        table.add_row(verdict.goal, verdict.measured, words[verdict.met])
    return table


def as_json(plane: DataPlane | None, switching: Switching | None, load_before: float) -> dict[str, object]:
    """Everything as plain values: medians, and each round's figures for who wants to look closer."""
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "load_before": load_before,
            "kernel": platform.release(),
            "arch": platform.machine(),
            "python": platform.python_version(),
        },
        "data": None if plane is None else _plane_json(plane),
        "switch": None if switching is None else _switching_json(switching),
        "verdicts": [
            {"goal": verdict.goal, "measured": verdict.measured, "met": verdict.met}
            for verdict in verdicts(plane, switching)
        ],
    }


def _plane_json(plane: DataPlane) -> dict[str, object]:
    rows = []
    for row in plane.workloads:
        for target in plane.targets:
            cell = plane.cell(row.name, target)
            direct = Cell() if target == DIRECT else plane.cell(row.name, DIRECT)
            first_50, first_99 = added_us(cell.first_us, direct.first_us)
            chunk_50, chunk_99 = added_us(cell.delay_us, direct.delay_us)
            rows.append(
                {
                    "workload": row.name,
                    "target": target,
                    "unit": row.unit,
                    "cpu_us": statistics.median(cell.cpu_us) if cell.cpu_us else None,
                    "times_nginx": ratio(cell, plane.cell(row.name, REFERENCE)),
                    "cpu_us_rounds": cell.cpu_us,
                    "upstream_cpu_us_rounds": cell.upstream_us,
                    "per_s": statistics.median(cell.per_s) if cell.per_s else None,
                    "added_first_us": {"p50": first_50, "p99": first_99},
                    "added_chunk_us": {"p50": chunk_50, "p99": chunk_99},
                }
            )
    return {
        "rows": rows,
        "at_rest": {
            target: {
                "after_kib": rest.after_kib,
                "per_silent_stream_kib": rest.per_stream_kib,
                "idle_ms_per_s": rest.idle_ms_per_s,
            }
            for target, rest in plane.at_rest.items()
        },
        "broken": plane.broken,
        "notes": plane.notes,
    }


def _switching_json(switching: Switching) -> dict[str, object]:
    burst, contended = switching.burst, switching.contended
    return {
        "alone_ms": switching.alone_ms,
        "alternations": [
            {
                "startup_s": row.startup_s,
                "overhead_ms": row.overhead_ms,
                "beyond_s_ms": row.beyond_s_ms,
                "own_ms": row.own_ms,
            }
            for row in switching.alternations
        ],
        "burst": None
        if burst is None
        else {
            "sent": burst.sent,
            "order": burst.order,
            "loads": burst.loads,
            "total_s": burst.total_s,
            "worst_wait_s": burst.worst_wait_s,
        },
        "contended": None if contended is None else {"waited_s": contended.waited_s, "limit_s": contended.limit_s},
        "left_behind": switching.left_behind,
        "broken": switching.broken,
    }
