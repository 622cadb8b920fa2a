"""A stand-in for the module `pynvml`: GPUs as a list that a test changes between readings."""

# ruff: noqa: N802 -- the names are NVML's

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

MIB = 1024**2


class NVMLError(Exception):
    pass


class NVMLLibraryMismatchError(Exception):
    pass


@dataclass
class Gpu:
    bus: str
    uuid: str = ""
    total_mib: int = 24564
    used_mib: int = 0
    computing: list[tuple[int, int | None]] = field(default_factory=list)
    drawing: list[tuple[int, int | None]] = field(default_factory=list)
    lost: bool = False
    tells_processes: bool = True


class ScriptedNvml:
    """`driver`: whether there is one."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError

    def __init__(self, *gpus: Gpu, driver: bool = True) -> None:
        self.gpus, self.driver = list(gpus), driver
        self.opened = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self._answering(self.gpus[index])

    def nvmlDeviceGetPciInfo(self, gpu: Gpu) -> SimpleNamespace:
        return SimpleNamespace(busId=gpu.bus)

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> SimpleNamespace:
        self._answering(gpu)
        return SimpleNamespace(
            total=gpu.total_mib * MIB, used=gpu.used_mib * MIB, free=(gpu.total_mib - gpu.used_mib) * MIB
        )

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return "NVIDIA GeForce RTX 4090"

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[SimpleNamespace]:
        if not gpu.tells_processes:
            raise NVMLLibraryMismatchError("the driver is too old")
        return _processes(gpu.computing)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: Gpu) -> list[SimpleNamespace]:
        return _processes(gpu.drawing)

    def _answering(self, gpu: Gpu) -> Gpu:
        if gpu.lost or not self.driver:
            raise NVMLError("GPU is lost")
        return gpu


def _processes(held: list[tuple[int, int | None]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used if used is None else used * MIB) for pid, used in held]
