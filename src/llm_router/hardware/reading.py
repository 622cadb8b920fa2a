"""All devices of this machine in one reading. Counterpart: `runtime`, which draws the conclusions."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Protocol

from llm_router.hardware.amd import Amd
from llm_router.hardware.base import DeviceReading, Reader
from llm_router.hardware.host import Host
from llm_router.hardware.nvidia import Nvidia


class _Gpus(Protocol):
    def read(self) -> Mapping[str, DeviceReading]: ...


class _Driver(_Gpus, Protocol):
    def close(self) -> None: ...


class Devices:
    """Implements `hardware.base.Reader`. May be called from any thread; one reads at a time.

    Where there are NVIDIA GPUs, AMD ones are passed over: mostly they are the small one inside the processor, and two
    kinds can't share one numbering that the engines' own variables understand.
    """

    def __init__(self, nvidia: _Driver, amd: _Gpus, host: Host) -> None:
        self._nvidia, self._amd, self._host = nvidia, amd, host
        self._has_nvidia = False
        self._lock = Lock()

    def read(self) -> Mapping[str, DeviceReading]:
        with self._lock:
            gpus = self._nvidia.read()
            # For good: when the only GPU falls off the bus, another must not take its number.
            self._has_nvidia = self._has_nvidia or bool(gpus)
            if not self._has_nvidia:
                gpus = self._amd.read()
            memory = self._host.read()
            return {**gpus, memory.device: memory} if memory is not None else dict(gpus)

    def resident_mib(self, pids: frozenset[int]) -> int:
        return self._host.resident_mib(pids)

    def close(self) -> None:
        with self._lock:
            self._nvidia.close()


def open_reader() -> Reader:
    """The devices of this machine. Costs nothing before the first reading; `close` it at the end."""
    return Devices(Nvidia(), Amd(), Host())
