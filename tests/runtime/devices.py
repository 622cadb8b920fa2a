"""A reader of devices that shows what a test says, and a history that only keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llm_router.hardware.base import DeviceReading
from llm_router.history.base import LoadRecord, RequestRecord


@dataclass
class ScriptedDevice:
    """`held_mib`: by process; `hidden_mib`: held by nobody the driver names."""

    total_mib: int
    held_mib: dict[int, int] = field(default_factory=dict)
    hidden_mib: int = 0
    tells_pids: bool = True

    def reading(self, name: str) -> DeviceReading:
        held = sum(self.held_mib.values()) + self.hidden_mib
        return DeviceReading(
            device=name,
            total_mib=self.total_mib,
            free_mib=self.total_mib - held,
            held_mib=dict(self.held_mib) if self.tells_pids and name != "cpu" else {},
        )


class ScriptedReader:
    """`reads`: how often it was asked. `on_read`: called before each answer with its number, on the reading thread."""

    def __init__(self, **total_mib: int) -> None:
        self.devices = {name.lstrip("d"): ScriptedDevice(total) for name, total in total_mib.items()}
        self.gone: set[str] = set()
        self.reads = 0
        self.on_read = lambda number: None
        self.is_closed = False

    def __getitem__(self, name: str) -> ScriptedDevice:
        return self.devices[name]

    def read(self) -> Mapping[str, DeviceReading]:
        self.reads += 1
        self.on_read(self.reads)
        return {name: device.reading(name) for name, device in self.devices.items() if name not in self.gone}

    def resident_mib(self, pids: frozenset[int]) -> int:
        host = self.devices.get("cpu")
        return 0 if host is None else sum(mib for pid, mib in host.held_mib.items() if pid in pids)

    def close(self) -> None:
        self.is_closed = True


class KeptHistory:
    """`peaks`: every one noted, in order."""

    def __init__(self) -> None:
        self.peaks: list[tuple[str, str, dict[str, int]]] = []
        self.loads: list[LoadRecord] = []

    def add_load(self, record: LoadRecord) -> None:
        self.loads.append(record)

    def add_requests(self, records: Sequence[RequestRecord]) -> None: ...

    def note_peak(self, model: str, launch_key: str, peak_mib: Mapping[str, int]) -> None:
        self.peaks.append((model, launch_key, dict(peak_mib)))

    def load_s(self, model: str, launch_key: str, *, warm: bool) -> float | None:
        return None

    def footprint_mib(self, model: str, launch_key: str) -> Mapping[str, int] | None:
        return next((peak for name, key, peak in reversed(self.peaks) if (name, key) == (model, launch_key)), None)

    def close(self) -> None: ...
