"""All devices in one reading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scripted_nvml import Gpu, ScriptedNvml

from llm_router.hardware.base import DeviceReading
from llm_router.hardware.host import Host
from llm_router.hardware.nvidia import Nvidia
from llm_router.hardware.reading import Devices, open_reader


class Radeon:
    def read(self) -> Mapping[str, DeviceReading]:
        return {"0": DeviceReading(device="0", total_mib=512, free_mib=400, title="Radeon")}


def devices(nvml: ScriptedNvml, host: Host | None = None) -> Devices:
    return Devices(Nvidia(nvml), Radeon(), host or Host())


def test_gpus_and_the_host_are_read_together() -> None:
    readings = devices(ScriptedNvml(Gpu("00000000:01:00.0"))).read()
    assert sorted(readings) == ["0", "cpu"]
    assert readings["0"].title.startswith("NVIDIA")


def test_amd_is_read_where_there_is_no_nvidia() -> None:
    assert devices(ScriptedNvml(driver=False)).read()["0"].title == "Radeon"


def test_a_lost_gpu_s_number_never_goes_to_the_one_in_the_processor() -> None:
    gpu = Gpu("00000000:01:00.0")
    reader = devices(ScriptedNvml(gpu))
    reader.read()
    gpu.lost = True
    assert sorted(reader.read()) == ["cpu"]


def test_a_machine_that_tells_nothing_gives_an_empty_reading(tmp_path: Path) -> None:
    gone = Gpu("00000000:01:00.0", lost=True)
    reader = Devices(Nvidia(ScriptedNvml(gone)), NoGpus(), Host(proc=tmp_path, cgroups=tmp_path))
    assert reader.read() == {}


class NoGpus:
    def read(self) -> Mapping[str, DeviceReading]:
        return {}


def test_this_machine_can_be_read() -> None:
    reader = open_reader()
    assert reader.read()["cpu"].total_mib > 0
    assert reader.resident_mib(frozenset()) == 0
    reader.close()
