"""What a reader of devices offers. Counterpart: `runtime`, which draws the conclusions. Pure values.

Devices have the names that the configuration and the engines use: GPUs their number in bus order ("0", "1", …), the
host's memory "cpu".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One device at one moment, in MiB. `free_mib`: what a new program could have. `held_mib`: by process id, where the
    driver tells (host memory: never here, see `resident_mib`). `uuid`, `title`: for people; "" where there is none."""

    device: str
    total_mib: int
    free_mib: int
    held_mib: Mapping[int, int] = field(default_factory=dict)
    uuid: str = ""
    title: str = ""


class Reader(Protocol):
    """Reads devices. Calls are synchronous and may take some milliseconds: keep them off the event loop."""

    def read(self) -> Mapping[str, DeviceReading]:
        """Each device that can be read now, by name; one that fell off the bus is missing. Never raises."""
        ...

    def resident_mib(self, pids: frozenset[int]) -> int:
        """Host memory these processes hold together, shared pages counted once. 0 for those that are gone."""
        ...

    def close(self) -> None: ...
