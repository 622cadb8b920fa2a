"""What people see: the status table, a load's progress, durations. Pure, except for drawing on a console."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Table

_NARROWEST = 80
_ONE_LINE = 500
_COLOURS = {
    "ready": "green",
    "failed": "red",
    "parked": "cyan",
    **dict.fromkeys(("starting", "waking", "draining", "parking", "stopping"), "yellow"),
}


def print_out(what: RenderableType) -> None:
    """On stdout. Into a pipe every row is one line, however long. A terminal of fewer columns wraps the lines itself:
    made to fit, names would be cut off and notes would have a letter a line."""
    width = max(shutil.get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else _ONE_LINE
    Console(width=width, highlight=False).print(what)


def duration(seconds: float | None) -> str:
    """`0.4s`, `23s`, `4m10s`, `2h05m`; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole // 60 % 60:02d}m"


def status_table(status: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("MODEL", "BACKEND", "STATE"):
        table.add_column(title, no_wrap=True)
    for title in ("LEASES", "WAITING", "SINCE"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("NOTE", overflow="fold")
    for model in status["models"]:
        state, colour = model["state"], _COLOURS.get(model["state"], "dim")
        table.add_row(
            escape(model["id"]),
            escape(model["backend"]),
            f"[{colour}]{escape(state)}[/]",
            str(model["leases"] or ""),
            str(model["waiting"] or ""),
            duration(model["since_s"]),
            escape(_note(model)),
        )
    return table


def problem(found: dict[str, Any]) -> str:
    """`FILE:LINE: key: what is wrong: what to write instead`."""
    where = f"{found['file']}:{found['line']}" if found["line"] else str(found["file"])
    return f"{where}: {found['key'] + ': ' if found['key'] else ''}{found['message']}: {found['remedy']}"


def configuration(status: dict[str, Any]) -> Iterable[str]:
    """What is to be said of the file since the router has started; nothing where all of it is in force."""
    problems = status.get("config_problems", [])
    if any(found["fatal"] for found in problems):
        yield "the configuration file has mistakes, so what was read before stays in force:"
    yield from (f"  {problem(found)}" for found in problems)
    if names := status.get("needs_restart"):
        yield f"in force after a restart: {', '.join(names)}"


_RELOADED = {
    "added": "added",
    "removed": "removed",
    "restarted": "to be started anew",
    "changed": "changed",
    "settings": "in force now",
    "needs_restart": "in force after a restart",
}


def reloaded(outcome: dict[str, Any]) -> list[str]:
    lines = [f"{words}: {', '.join(outcome[key])}" for key, words in _RELOADED.items() if outcome[key]]
    return lines or ["nothing has changed"]


def device_table(status: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("DEVICE", no_wrap=True)
    for title in ("BUDGET", "RESERVED", "HELD", "FREE"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("RESERVED BY", overflow="fold")
    for device in status["devices"]:
        reserved = device["reserved_mib"]
        known = [mib for mib in reserved.values() if mib is not None]
        table.add_row(
            escape(f"{device['device']} {device['title']}".strip()),
            budget(device),
            "all" if len(known) < len(reserved) else memory(sum(known)) if known else "",
            memory(device["held_mib"]),
            memory(device["free_mib"]),
            escape(", ".join(f"{model} {memory(mib) or '(alone)'}" for model, mib in reserved.items())),
        )
    return table


def budget(device: dict[str, Any]) -> str:
    """What models may use of a device together. Where nobody knows or says how much that is, each has it alone."""
    if not device["is_there"]:
        return "[red]gone[/]"
    return memory(device["budget_mib"]) or "one model"


def memory(mib: int | None) -> str:
    """`800 MiB`, `13.4 GiB`; nothing for None."""
    if mib is None:
        return ""
    return f"{mib} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def _note(model: dict[str, Any]) -> str:
    parts = []
    if model["fraction"] is not None and model["state"] == "starting":
        parts.append(f"{model['fraction']:.0%}")
    if model["error"]:
        parts.append(str(model["error"]).strip().splitlines()[0])
        if model["retry_after_s"]:
            parts.append(f"tries again after {duration(model['retry_after_s'])}")
    elif model["pid"] is not None:
        parts.append(f"pid {model['pid']}, port {model['port']}")
    if model["held_mib"]:
        parts.append(", ".join(f"{memory(mib)} of {device}" for device, mib in model["held_mib"].items()))
    return "; ".join(parts)


def load_progress(console: Console, model: str, steps: Iterable[dict[str, Any]]) -> float:
    """Draw a load until it is done; returns the seconds it took. On anything but a terminal: one line per phase."""
    if not console.is_terminal:
        return _load_lines(console, model, steps)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=False),
        TextColumn("{task.fields[clock]}"),
    )
    elapsed_s = 0.0
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{escape(model)}: asked", total=None, clock="")
        for step in steps:
            elapsed_s = step.get("elapsed_s", elapsed_s)
            if "phase" in step:
                expected, done = _expected(step)
                progress.update(
                    task,
                    description=f"{escape(model)}: {step['phase']}",
                    total=expected,
                    completed=done,
                    clock=_clock(step),
                )
    return elapsed_s


def _load_lines(console: Console, model: str, steps: Iterable[dict[str, Any]]) -> float:
    phase, elapsed_s = None, 0.0
    for step in steps:
        elapsed_s = step.get("elapsed_s", elapsed_s)
        if step.get("phase", phase) != phase:
            phase = step["phase"]
            console.print(f"{escape(model)}: {phase} {_clock(step)}", highlight=False)
    return elapsed_s


def _expected(step: dict[str, Any]) -> tuple[float | None, float]:
    """Length of the bar and how much of it is full: what the engine says, else time against past loads."""
    if step.get("fraction") is not None:
        return 1.0, step["fraction"]
    if step.get("estimate_s"):
        return step["estimate_s"], min(step["elapsed_s"], 0.99 * step["estimate_s"])
    return None, 0.0


def _clock(step: dict[str, Any]) -> str:
    limit = f" / {step['limit_s']:.0f}s" if step.get("limit_s") else ""
    return f"{step.get('elapsed_s', 0):.0f}s{limit}"
