"""What people see of a decision: `llm-router why`. Pure."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from llm_router.cli.show import budget, duration, memory


def why(found: dict[str, Any]) -> Group:
    """The answer in one sentence, then what stands behind it."""
    parts: list[RenderableType] = [Text(found["reason"], style="bold"), _facts(found)]
    if found["devices"]:
        parts += ["", _rooms(found["devices"])]
    if found["decisions"]:
        parts += ["", _decisions(found["decisions"])]
    return Group(*parts)


def _facts(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    waiting = f", {found['waiting']} waiting" if found["waiting"] else ""
    table.add_row("state", f"{found['state']}{waiting}")
    table.add_row("needs", escape(_needs(found)))
    if found["load_s"] is not None:
        table.add_row("loads in", f"about {duration(found['load_s'])}")
    for title, key in (("comes after", "ahead"), ("would leave for it", "would_leave")):
        if found[key]:
            table.add_row(title, escape(", ".join(found[key])))
    if len(found["urgency"]) > 1:
        table.add_row("order", escape(", ".join(_due(model, s) for model, s in found["urgency"].items())))
    if found["never"]:
        table.add_row("never", escape(found["never"]))
    return table


def _due(model: str, due_s: float) -> str:
    return f"{model} (due for {duration(due_s)})" if due_s >= 0 else f"{model} (due in {duration(-due_s)})"


def _needs(found: dict[str, Any]) -> str:
    if found["footprint_mib"] == 0:
        return "no room of its own: it lives beside the others"
    places = [f"{memory(mib) or 'all'} of {device}" for device, mib in found["needs_mib"].items()]
    return ", ".join(places) or memory(found["footprint_mib"]) or "a whole device, since nothing is known about it"


def _rooms(devices: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("DEVICE", no_wrap=True)
    table.add_column("BUDGET", justify="right", no_wrap=True)
    table.add_column("RESERVED BY", overflow="fold")
    for device in devices:
        reserved = (f"{model} {memory(mib) or '(all)'}" for model, mib in device["reserved_mib"].items())
        table.add_row(escape(device["device"]), budget(device), escape(", ".join(reserved)))
    return table


def _decisions(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("AGO", justify="right", no_wrap=True)
    table.add_column("MODEL", no_wrap=True)
    table.add_column("DECISION", no_wrap=True)
    table.add_column("REASON", overflow="fold")
    for one in found:
        action = one["action"].replace("_", " ")
        table.add_row(duration(one["ago_s"]), escape(one["model"]), escape(action), escape(one["reason"]))
    return table
