"""A `hardware.base.Reader` that reads what a test says: devices, and who holds how much of them.

What nobody holds is free, less `unfree`, which is memory that belongs to no process (any more or yet).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llm_router.hardware.base import CPU, DeviceReading


@dataclass
class ScriptedDevice:
    total_mib: int
    held_mib: dict[int, int] = field(default_factory=dict)
    unfree_mib: int = 0
    vanished: bool = False


class ScriptedReader:
    """`ScriptedReader(cpu=32_000, gpus=(24_000, 24_000))`; then `take`, `release`, `vanish` in any order."""

    def __init__(self, *, cpu: int = 32_000, gpus: tuple[int, ...] = ()) -> None:
        self.devices = {str(number): ScriptedDevice(total_mib) for number, total_mib in enumerate(gpus)}
        self.devices[CPU] = ScriptedDevice(cpu)
        self.closed = False
        self.reads = 0

    def take(self, device: str, pid: int, held_mib: int) -> None:
        """A process holds this much from now on: one of ours that loads or grows, or a stranger."""
        self.devices[device].held_mib[pid] = held_mib

    def release(self, pid: int, *, late: bool = False) -> None:
        """A process is gone. `late`: what it held comes back only with `settle`."""
        for device in self.devices.values():
            held = device.held_mib.pop(pid, 0)
            device.unfree_mib += held if late else 0

    def settle(self) -> None:
        for device in self.devices.values():
            device.unfree_mib = 0

    def vanish(self, device: str) -> None:
        self.devices[device].vanished = True

    def read(self) -> Mapping[str, DeviceReading]:
        self.reads += 1
        return {
            name: DeviceReading(
                device=name,
                total_mib=device.total_mib,
                free_mib=max(device.total_mib - sum(device.held_mib.values()) - device.unfree_mib, 0),
                held_mib={} if name == CPU else dict(device.held_mib),
            )
            for name, device in self.devices.items()
            if not device.vanished
        }

    def resident_mib(self, pids: frozenset[int]) -> int:
        return sum(held for pid, held in self.devices[CPU].held_mib.items() if pid in pids)

    def close(self) -> None:
        self.closed = True
