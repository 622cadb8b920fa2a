"""Loads that are under way: those on the same device share its speed, as they share what the weights are read through.

Counterpart: `engine`, which asks again when each of them is done whenever one begins or ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class _Load:
    """`left_s`: how long it would still take alone, at `since`; `sharing`: how many share the speed from then on."""

    devices: frozenset[str]
    left_s: float
    since: float
    sharing: int = 0


class Loading:
    def __init__(self) -> None:
        self._loads: dict[int, _Load] = {}

    def begin(self, instance: int, devices: tuple[str, ...], load_s: float, at: float) -> None:
        self._loads[instance] = _Load(frozenset(devices), load_s, at)

    def end(self, instance: int) -> bool:
        """Done or broken off; False: it wasn't loading."""
        return self._loads.pop(instance, None) is not None

    def changed(self, at: float) -> Iterator[tuple[int, float]]:
        """The loads whose end is another one than at the last call, with that end (seconds)."""
        for instance, load in self._loads.items():
            others = (other for other in self._loads.values() if other is not load)
            sharing = 1 + sum(not load.devices.isdisjoint(other.devices) for other in others)
            if sharing == load.sharing:
                continue
            if load.sharing:
                load.left_s -= (at - load.since) / load.sharing
            load.since, load.sharing = at, sharing
            yield instance, at + max(0.0, load.left_s) * sharing
