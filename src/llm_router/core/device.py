"""What the scheduler knows of a device, and which ones a model may use. Counterpart: `geometry`: what fits there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_router.core.specs import ANY_DEVICE, HOST, ModelSpec

# Memory by device, in MiB; None: all of that device, because nobody knows how much.
Reserved = Mapping[str, int | None]


@dataclass(slots=True, eq=False)
class Device:
    """`configured_mib`: what models may use of it; None: nobody said. `available_mib`: what is really there for them,
    as measured last; None: never measured. `most_mib`: the most that was ever measured."""

    name: str
    configured_mib: int | None
    available_mib: int | None = None
    most_mib: int | None = None
    is_gone: bool = False

    @property
    def budget_mib(self) -> int | None:
        """What instances may use now; None: unknown."""
        if self.is_gone:
            return 0
        if self.configured_mib is None or self.available_mib is None:
            return self.available_mib if self.configured_mib is None else self.configured_mib
        return min(self.configured_mib, self.available_mib)

    @property
    def nominal_mib(self) -> int | None:
        """What instances may use while no other program holds anything; None: unknown."""
        return self.most_mib if self.configured_mib is None else self.configured_mib


def devices_for(spec: ModelSpec, devices: Mapping[str, Device]) -> tuple[str, ...]:
    """The devices for what takes memory at all, in order."""
    if ANY_DEVICE in devices:
        return (ANY_DEVICE,)
    if spec.devices is not None:
        return spec.devices
    return tuple(name for name in devices if name != HOST) or (HOST,)
