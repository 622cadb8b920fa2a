"""The last decisions with their reasons, for people. Counterpart: `why`, which shows them beside the state.

Nothing is decided by what stands here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

_KEPT = 500


class Action(Enum):
    """What was decided about a model. EVICTED: it makes room for another. LEFT: it leaves for another reason.
    PARKED, WOKEN: it gives its memory back and stays; it is brought back from that.
    STAYED: it was to make room, and needn't any more. TURN_ENDED: it is told to leave though it is in use. SHRANK,
    RESTORED: a device, whose name stands for the model's."""

    STARTED = "started"
    WAITS = "waits"
    REFUSED = "refused"
    EVICTED = "evicted"
    LEFT = "left"
    PARKED = "parked"
    WOKEN = "woken"
    STAYED = "stayed"
    TURN_ENDED = "turn_ended"
    CUT = "cut"
    FAILED = "failed"
    FOOTPRINT_CHANGED = "footprint_changed"
    SHRANK = "shrank"
    RESTORED = "restored"


class Decision(NamedTuple):
    """`at`: monotonic seconds. `model`: whom it is about. `reason`: half a sentence that goes on from the action."""

    at: float
    model: str
    action: Action
    reason: str


class Decisions:
    """The last ones, oldest first. One that says the same about the same model as its last one isn't kept again."""

    def __init__(self) -> None:
        self._ring: deque[Decision] = deque(maxlen=_KEPT)
        self._last: dict[str, tuple[Action, str]] = {}

    def note(self, at: float, model: str, action: Action, reason: str) -> None:
        if self._last.get(model) != (action, reason):
            self._last[model] = action, reason
            self._ring.append(Decision(at, model, action, reason))

    def of(self, model: str | None = None) -> Iterable[Decision]:
        return (decision for decision in self._ring if model is None or decision.model == model)
