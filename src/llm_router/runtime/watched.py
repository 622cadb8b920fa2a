"""The memory of one instance as it was seen so far, and what of it is news to the scheduler.

Counterparts: `look`, which sees it; `memory`, which tells the news. Reads nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

_SHARE, _LEAST_MIB = 0.02, 64  # a smaller change isn't worth a decision
_GROWTH_MIB = 16  # a process that does nothing still gains or loses some pages


def differs(mib: int, told_mib: int) -> bool:
    """Whether it is worth telling again."""
    return abs(mib - told_mib) > max(_SHARE * told_mib, _LEAST_MIB)


@dataclass(slots=True, kw_only=True)
class Watched:
    """`reserved_mib`: what was kept for it at its start; `held_mib`, `peak_mib`: what it holds and held at most;
    `told_mib`: what of that the scheduler knows. All by device, where something was seen. `marked_mib`: host and
    devices together when it last grew, at `grew_at`. `ready_at`: None: it still loads, or is being woken."""

    pid: int
    devices: tuple[str, ...]
    reserved_mib: Mapping[str, int]
    pids: frozenset[int] = frozenset()
    held_mib: dict[str, int] = field(default_factory=dict)
    peak_mib: dict[str, int] = field(default_factory=dict)
    told_mib: dict[str, int] = field(default_factory=dict)
    told_as_ready: bool = False
    is_parked: bool = False
    marked_mib: int = 0
    grew_at: float = -math.inf
    ready_at: float | None = None

    def park(self) -> None:
        """From now on it is news what is held now, also where that gets less: no peak."""
        self.is_parked = True
        self.told_mib = dict(self.held_mib)

    def wake(self, reserved_mib: Mapping[str, int]) -> None:
        """As if it were loading."""
        self.is_parked = self.told_as_ready = False
        self.ready_at, self.reserved_mib = None, reserved_mib
        self.peak_mib, self.told_mib = {}, {}

    def take_in(self, pids: frozenset[int], held_mib: Mapping[str, int], moved_mib: int, at: float) -> None:
        self.pids = pids or self.pids  # the last ones known, for when it has ended
        self.held_mib = dict(held_mib)
        for device, mib in held_mib.items():
            self.peak_mib[device] = max(mib, self.peak_mib.get(device, 0))
        if abs(moved_mib - self.marked_mib) >= _GROWTH_MIB:
            self.grew_at = at if moved_mib > self.marked_mib else self.grew_at
            self.marked_mib = moved_mib

    def news(self, looked_at: float, devices: Collection[str]) -> Mapping[str, int] | None:
        """What it holds, by device, where that is news since the last call; of one that is parked only what it holds of
        these devices. `looked_at`: when the look began whose result was taken in last.

        1. Once it is ready its peak counts, from a look that began afterwards, and each time it has grown.
        2. Before, it is still growing and says nothing yet, unless it has outgrown what was reserved for it.
        3. While it is parked, what it holds now counts, whenever that is more or less by enough.
        """
        if self.is_parked:  # 3
            return self._news_of_parked(devices)
        peak_mib = self.peak_mib
        has_grown = any(mib > (1 + _SHARE) * self.told_mib.get(device, 0) for device, mib in peak_mib.items())
        if self.ready_at is not None and looked_at >= self.ready_at:  # 1
            if not has_grown and self.told_as_ready:
                return None
            self.told_as_ready = True
        elif not has_grown or all(mib <= self.reserved_mib.get(device, mib) for device, mib in peak_mib.items()):  # 2
            return None
        self.told_mib = dict(peak_mib)
        return self.told_mib

    def _news_of_parked(self, devices: Collection[str]) -> Mapping[str, int] | None:
        held_mib = {device: mib for device, mib in self.held_mib.items() if device in devices}
        if not any(differs(mib, self.told_mib.get(device, 0)) for device, mib in held_mib.items()):
            return None
        self.told_mib = dict(self.held_mib)
        return held_mib
