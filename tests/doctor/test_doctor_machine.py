"""What is said of GPUs, drivers, limits and folders, on machines made of a few files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from llm_router.doctor import machine
from llm_router.doctor.finding import Finding, Verdict
from llm_router.hardware.base import DeviceReading

GPU = DeviceReading(device="0", total_mib=24576, free_mib=20480, title="RTX 4090")
HOST = DeviceReading(device="cpu", total_mib=65536, free_mib=32768)


def with_gpu(root: Path, vendor: str, *, kind: str = "0x030000") -> Path:
    device = root / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    return root


def with_driver(root: Path, *, mode: int = 0o666) -> Path:
    for name in ("proc/driver/nvidia/version", "dev/nvidiactl"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX Open Module  580.95.05  Release\n")
    (root / "dev/nvidiactl").touch(mode)
    return root


def told(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    found = list(findings)
    assert all(bool(finding.remedy) == (finding.verdict is not Verdict.OK) for finding in found), "what to do is said"
    return [(finding.about, finding.verdict.value) for finding in found]


def test_a_gpu_that_can_be_measured_is_well(tmp_path: Path) -> None:
    root = with_driver(with_gpu(tmp_path, "0x10de"))
    found = list(machine.devices({"0": GPU, "cpu": HOST}, root))
    assert told(found) == [("GPU 0", "ok"), ("driver", "ok"), ("memory", "ok")]
    assert found[0].message == "RTX 4090: 24.0 GiB, 20.0 GiB free"
    assert found[1].message == "NVIDIA 580.95.05"


def test_a_gpu_without_a_driver_is_a_problem_with_a_way_out(tmp_path: Path) -> None:
    [found] = machine.devices({}, with_gpu(tmp_path, "0x10de"))
    assert found.verdict is Verdict.PROBLEM
    assert "driver isn't loaded" in found.message
    assert "apt install nvidia-driver" in found.remedy


def test_a_driver_that_was_upgraded_under_the_kernel_wants_a_restart(tmp_path: Path) -> None:
    [found] = machine.devices({}, with_driver(with_gpu(tmp_path, "0x10de")))
    assert found.verdict is Verdict.PROBLEM
    assert "restart the machine" in found.remedy


def test_a_device_file_of_others_is_told_from_a_missing_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = with_driver(with_gpu(tmp_path, "0x10de"))
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    [found] = machine.devices({}, root)
    assert "may not use /dev/nvidiactl" in found.message


@pytest.mark.parametrize(("vendor", "kind"), [("0x8086", "0x030000"), ("0x10de", "0x040300")])
def test_a_graphics_chip_of_the_processor_or_a_cards_sound_is_no_gpu(tmp_path: Path, vendor: str, kind: str) -> None:
    [found] = machine.devices({}, with_gpu(tmp_path, vendor, kind=kind))
    assert (found.verdict, found.message) == (Verdict.WARNING, "none was found: models run on the CPU")


def test_an_amd_gpu_that_is_not_measured_is_named(tmp_path: Path) -> None:
    [found] = machine.devices({}, with_gpu(tmp_path, "0x1002"))
    assert found.verdict is Verdict.WARNING
    assert "amdgpu" in found.remedy


@pytest.mark.parametrize(("soft", "verdict"), [(256, "problem"), (1024, "warning"), (65536, "ok")])
def test_files_that_may_be_open_are_enough_or_not(soft: int, verdict: str) -> None:
    assert told([machine.open_files(soft)]) == [("open files", verdict)]


def test_a_folder_that_can_be_used_is_well_and_stays_as_it_is(tmp_path: Path) -> None:
    assert told(machine.state_folder(tmp_path, 10_000)) == [("state folder", "ok")]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_made_later_is_well_and_is_not_made_now(tmp_path: Path) -> None:
    folder = tmp_path / "later" / "state"
    assert told(machine.state_folder(folder, None)) == [("state folder", "ok")]
    assert not folder.parent.exists()


def test_a_file_in_the_way_of_the_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert told(machine.state_folder(tmp_path / "state" / "deep", None)) == [("state folder", "problem")]


def test_a_folder_that_cannot_be_written_is_a_problem() -> None:
    assert told(machine.state_folder(Path("/proc/self"), None)) == [("state folder", "problem")]


@pytest.mark.parametrize(("free_mib", "verdict"), [(20, "problem"), (500, "warning")])
def test_a_full_disk_is_told_before_it_hurts(tmp_path: Path, free_mib: int, verdict: str) -> None:
    assert told(machine.state_folder(tmp_path, free_mib)) == [("state folder", "ok"), ("disk", verdict)]
