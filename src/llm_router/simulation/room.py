"""Memory as the rivals know it: who holds what on which device, and where one more fits.

Counterpart: `core.placement`, of which this deliberately uses nothing: the rivals share the geometry, not our rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from llm_router.core.specs import ModelSpec

# What a model holds: MiB by device; None: the whole device.
Shares = Mapping[str, int | None]


class Room:
    """`one_at_a_time`: nothing that needs room is ever placed beside another."""

    def __init__(self, devices: Mapping[str, int | None], *, one_at_a_time: bool = False) -> None:
        self._devices = devices
        self._one_at_a_time = one_at_a_time
        self._held: dict[str, Shares] = {}

    def take(self, model: str, shares: Shares) -> None:
        self._held[model] = shares

    def release(self, model: str) -> None:
        self._held.pop(model, None)

    def place(self, spec: ModelSpec, without: Collection[str] = ()) -> Shares | None:
        """Where the model fits once these others are gone; None: nowhere. A model that is too large for one device is
        spread evenly over all of its devices."""
        others = [shares for model, shares in self._held.items() if model not in without]
        if spec.footprint_mib == 0:
            return {}
        if self._one_at_a_time and any(others):
            return None
        for shares in self._ways(spec):
            if all(self._is_free(device, share, others) for device, share in shares.items()):
                return shares
        return None

    def _ways(self, spec: ModelSpec) -> Iterator[Shares]:
        """The best first: the smallest device that is large enough, else all of them."""
        footprint = spec.footprint_mib
        if footprint is None or spec.devices is not None:
            devices = spec.devices or tuple(self._devices)
            yield {device: None if footprint is None else -(-footprint // len(devices)) for device in devices}
            return
        sizes = sorted(self._devices.items(), key=lambda item: (item[1] is None, item[1] or 0))
        single = [device for device, size in sizes if size is None or size >= footprint]
        yield from ({device: footprint} for device in single)
        if not single:
            yield {device: -(-footprint // len(self._devices)) for device in self._devices}

    def _is_free(self, device: str, share: int | None, others: Collection[Shares]) -> bool:
        held = [shares[device] for shares in others if device in shares]
        size = self._devices[device]
        known = [one for one in held if one is not None]
        if share is None or size is None or len(known) < len(held):
            return not held
        return sum(known) + share <= size
