"""NVIDIA's GPUs, through NVML, the library that comes with the driver. Counterpart: `reading`, which adds the others.

Reads whole GPUs; what MIG made of one is not told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pynvml

from llm_router.hardware.base import DeviceReading
from llm_router.units import mib


class Nvidia:
    """`nvml`: something with the functions of the module `pynvml`. Not safe for two threads at once."""

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        # The second: what the driver is too old for.
        self._errors: tuple[type[Exception], ...] = (nvml.NVMLError, nvml.NVMLLibraryMismatchError)
        self._handles: list[Any] | None = None

    def read(self) -> Mapping[str, DeviceReading]:
        """Each GPU that answers. None without the driver: then the next call looks again, because a service may start
        before the driver does."""
        if self._handles is None and not self._open():
            return {}
        # A number belongs to its GPU for good: one that fell off the bus leaves a gap, and nobody takes another for it.
        readings = (self._device(str(number), handle) for number, handle in enumerate(self._handles or ()))
        found = {reading.device: reading for reading in readings if reading is not None}
        if not found:  # as after the driver was exchanged: these handles lead nowhere any more
            self.close()
        return found

    def close(self) -> None:
        if self._handles is not None:
            self._handles = None
            with suppress(*self._errors):
                self._nvml.nvmlShutdown()

    def _open(self) -> bool:
        try:
            self._nvml.nvmlInit()
        except self._errors:
            return False
        handles = []
        for index in range(self._asked(self._nvml.nvmlDeviceGetCount, otherwise=0)):
            with suppress(*self._errors):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                handles.append((str(self._nvml.nvmlDeviceGetPciInfo(handle).busId), index, handle))
        # NVML promises no order of its own; CUDA counts by bus with CUDA_DEVICE_ORDER=PCI_BUS_ID.
        self._handles = [handle for _, _, handle in sorted(handles, key=lambda entry: entry[:2])]
        return True

    def _device(self, name: str, handle: Any) -> DeviceReading | None:
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except self._errors:
            return None
        return DeviceReading(
            device=name,
            total_mib=memory.total // 1024**2,
            free_mib=memory.free // 1024**2,
            held_mib=self._held(handle),
            uuid=str(self._asked(self._nvml.nvmlDeviceGetUUID, handle, otherwise="")),
            title=str(self._asked(self._nvml.nvmlDeviceGetName, handle, otherwise="")),
        )

    def _held(self, handle: Any) -> dict[int, int]:
        """In MiB by process. A program that computes and draws is in both lists with the same figure, and on a GPU
        split by MIG one may be in a list more than once."""
        held: dict[int, int] = {}
        for list_processes in (
            self._nvml.nvmlDeviceGetComputeRunningProcesses,
            self._nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            used: dict[int, int] = {}
            for process in self._asked(list_processes, handle, otherwise=()):
                if process.usedGpuMemory is not None:  # a driver that won't tell, as in WSL
                    used[process.pid] = used.get(process.pid, 0) + process.usedGpuMemory
            for pid, size in used.items():
                held[pid] = max(held.get(pid, 0), mib(size))
        return held

    def _asked(self, question: Callable[..., Any], *about: Any, otherwise: Any) -> Any:
        try:
            return question(*about)
        except self._errors:
            return otherwise
