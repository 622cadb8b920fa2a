"""What the scheduler says of its decisions, as JSON. Counterpart: `core.why`, which knows monotonic times only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llm_router.core.decisions import Decision
from llm_router.core.why import Why


class Clocks:
    """`now`: monotonic seconds; `wall`: seconds since the epoch, at the same moment."""

    def __init__(self, now: float, wall: float) -> None:
        self._now = now
        self._wall = wall

    def ago_s(self, at: float) -> float:
        return round(self._now - at, 3)

    def wall(self, at: float) -> float:
        return round(self._wall - (self._now - at), 3)


def decisions(found: Iterable[Decision], clocks: Clocks) -> list[dict[str, Any]]:
    """Oldest first. `at`: seconds since the epoch."""
    return [
        {
            "at": clocks.wall(decision.at),
            "ago_s": clocks.ago_s(decision.at),
            "model": decision.model,
            "action": decision.action.value,
            "reason": decision.reason,
        }
        for decision in found
    ]


def why(found: Why, clocks: Clocks) -> dict[str, Any]:
    """`urgency`: the models in need in the order in which they are served, and for how many seconds each has been due;
    below zero: in how many it will be."""
    return {
        "model": found.model,
        "state": "unloaded" if found.state is None else found.state.value,
        "waiting": found.waiting,
        "reason": found.reason,
        "footprint_mib": found.footprint_mib,
        "load_s": None if found.load_s is None else round(found.load_s, 3),
        "needs_mib": dict(found.needs_mib),
        "devices": [
            {
                "device": room.device,
                "budget_mib": room.budget_mib,
                "is_there": not room.is_gone,
                "reserved_mib": dict(room.reserved_mib),
            }
            for room in found.rooms
        ],
        "would_leave": list(found.would_leave),
        "never": found.never,
        "ahead": list(found.ahead),
        "urgency": {model: clocks.ago_s(due) for model, due in found.urgency.items()},
        "decisions": decisions(found.decisions, clocks),
    }
