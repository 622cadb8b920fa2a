"""AMD GPUs, from trees of files as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router.hardware.amd import Amd

MIB = 1024**2


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "sys/class/drm").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    return tmp_path


def add_card(machine: Path, card: str, bus: str, *, total_mib: int, used_mib: int) -> Path:
    device = machine / "sys/devices/pci0000:00" / bus
    device.mkdir(parents=True)
    (device / "mem_info_vram_total").write_text(f"{total_mib * MIB}\n")
    (device / "mem_info_vram_used").write_text(f"{used_mib * MIB}\n")
    folder = machine / "sys/class/drm" / card
    folder.mkdir()
    (folder / "device").symlink_to(device)
    (machine / "sys/class/drm" / f"{card}-DP-1").mkdir()
    return device


def add_descriptor(machine: Path, pid: int, number: int, target: str, info: str) -> None:
    for name in ("fd", "fdinfo"):
        (machine / f"proc/{pid}/{name}").mkdir(parents=True, exist_ok=True)
    (machine / f"proc/{pid}/fd/{number}").symlink_to(target)
    (machine / f"proc/{pid}/fdinfo/{number}").write_text(info)


def drm(bus: str, client: int, vram_kib: int) -> str:
    return (
        f"pos:\t0\nflags:\t02100002\ndrm-driver:\tamdgpu\ndrm-client-id:\t{client}\ndrm-pdev:\t{bus}\n"
        f"drm-memory-vram:\t{vram_kib} KiB\ndrm-memory-gtt: \t4096 KiB\n"
    )


def reader(machine: Path) -> Amd:
    return Amd(sys=machine / "sys", proc=machine / "proc")


def test_cards_are_numbered_by_bus_and_plugs_are_not_cards(machine: Path) -> None:
    add_card(machine, "card1", "0000:03:00.0", total_mib=24_560, used_mib=560)
    device = add_card(machine, "card0", "0000:0a:00.0", total_mib=512, used_mib=100)
    (device / "product_name").write_text("Radeon 610M\n")
    readings = reader(machine).read()
    assert {name: (one.total_mib, one.free_mib, one.title) for name, one in readings.items()} == {
        "0": (24_560, 24_000, ""),
        "1": (512, 412, "Radeon 610M"),
    }


def test_descriptors_of_one_client_count_once_and_clients_of_one_process_add_up(machine: Path) -> None:
    add_card(machine, "card0", "0000:03:00.0", total_mib=24_560, used_mib=9_000)
    add_card(machine, "card1", "0000:04:00.0", total_mib=24_560, used_mib=0)
    for number, client, used_mib in ((5, 1, 1000), (6, 1, 1000), (7, 2, 24)):
        add_descriptor(machine, 42, number, "/dev/dri/renderD128", drm("0000:03:00.0", client, used_mib * 1024))
    add_descriptor(machine, 42, 8, "/dev/dri/renderD129", drm("0000:04:00.0", 3, 1))
    add_descriptor(machine, 43, 5, "/dev/null", drm("0000:03:00.0", 9, 4096))
    readings = reader(machine).read()
    assert readings["0"].held_mib == {42: 1024}
    assert readings["1"].held_mib == {42: 1}  # rounded up


def test_a_card_that_stops_answering_leaves_a_gap(machine: Path) -> None:
    lost = add_card(machine, "card0", "0000:03:00.0", total_mib=24_560, used_mib=0)
    add_card(machine, "card1", "0000:04:00.0", total_mib=8_000, used_mib=0)
    (lost / "mem_info_vram_used").unlink()
    assert {name: one.total_mib for name, one in reader(machine).read().items()} == {"1": 8_000}


def test_cards_of_other_makers_and_machines_without_any_give_nothing(machine: Path) -> None:
    (machine / "sys/class/drm/card0/device").mkdir(parents=True)
    assert reader(machine).read() == {}
    assert Amd(sys=machine / "nowhere", proc=machine / "nowhere").read() == {}
