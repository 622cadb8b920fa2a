"""What happened when a trace was played: to each request and to each instance. Counterparts: `engine` writes it down,
`measure` and `plot` read it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum


class Fate(IntEnum):
    """What became of a request. AHEAD: not sent, because its client still waits for an earlier one. LEFT: its client
    cancelled it. CUT: a drain deadline passed."""

    AHEAD = 0
    WAITING = 1
    RUNNING = 2
    SERVED = 3
    REFUSED = 4
    CUT = 5
    LEFT = 6


@dataclass(slots=True, eq=False)
class Stay:
    """One instance, in seconds from the start; `ready_at` None: its load failed or was broken off."""

    model: str
    devices: tuple[str, ...]
    started_at: float
    ready_at: float | None = None
    stopping_at: float | None = None
    gone_at: float | None = None


@dataclass(slots=True, eq=False)
class Outcome:
    """What happened: by request (the index in `trace.calls`) when it was sent, granted and ended, in seconds (negative:
    it wasn't), and its fate; every instance; how many events the rule has handled; when the last of them was."""

    arrived_at: array[float]
    granted_at: array[float]
    ended_at: array[float]
    fates: bytearray
    stays: list[Stay] = field(default_factory=list)
    events: int = 0
    end: float = 0.0
