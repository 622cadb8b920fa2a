"""The host's memory, from trees of files as the kernel lays them out, and from the real ones."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from llm_router.hardware.host import Host

GIB = 1024**3


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:       33554432 kB\nMemFree: 1 kB\nMemAvailable:   25165824 kB\nMapped:          4194304 kB\n"
    )
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/llm-router.service\n")
    (tmp_path / "cgroup/system.slice/llm-router.service").mkdir(parents=True)
    return tmp_path


def limit(folder: Path, limit_gib: str, used_gib: float, files_gib: int = 0, mapped_gib: int = 0) -> None:
    (folder / "memory.max").write_text(limit_gib if limit_gib == "max" else str(int(limit_gib) * GIB))
    (folder / "memory.current").write_text(str(int(used_gib * GIB)))
    (folder / "memory.stat").write_text(
        f"anon 5\nfile {files_gib * GIB}\nfile_mapped {mapped_gib * GIB}\ninactive_anon 7\n"
        f"active_file {files_gib * GIB}\ninactive_file 0\n"
    )


def read(machine: Path) -> tuple[int, int]:
    reading = Host(proc=machine / "proc", cgroups=machine / "cgroup").read()
    assert reading is not None
    assert reading.device == "cpu"
    return reading.total_mib // 1024, reading.free_mib // 1024


def test_without_limits_it_is_what_the_machine_has(machine: Path) -> None:
    assert read(machine) == (32, 20)
    limit(machine / "cgroup/system.slice", "max", 3)
    assert read(machine) == (32, 20)


def test_the_tightest_control_group_around_us_counts(machine: Path) -> None:
    limit(machine / "cgroup/system.slice/llm-router.service", "16", 1)
    assert read(machine) == (16, 15)
    limit(machine / "cgroup/system.slice", "8", 6)
    assert read(machine) == (8, 2)


def test_pages_of_files_in_the_group_can_be_had(machine: Path) -> None:
    limit(machine / "cgroup/system.slice/llm-router.service", "16", 15, files_gib=10)
    assert read(machine) == (16, 11)


def test_weights_that_a_program_has_mapped_are_not_free(machine: Path) -> None:
    limit(machine / "cgroup/system.slice/llm-router.service", "16", 15, files_gib=10, mapped_gib=8)
    assert read(machine) == (16, 3)
    meminfo = machine / "proc/meminfo"
    meminfo.write_text(meminfo.read_text().replace("4194304", "23068672"))
    assert read(machine) == (16, 2)


def test_a_group_over_its_limit_has_nothing_free(machine: Path) -> None:
    limit(machine / "cgroup/system.slice/llm-router.service", "16", 17)
    assert read(machine) == (16, 0)


def test_a_container_sees_its_own_group_as_the_root(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/\n")
    limit(machine / "cgroup", "4", 1)
    assert read(machine) == (4, 3)


def test_shared_pages_are_counted_once_and_the_gone_hold_nothing(machine: Path) -> None:
    for pid, share in ((10, 300), (11, 200)):
        (machine / f"proc/{pid}").mkdir()
        (machine / f"proc/{pid}/smaps_rollup").write_text(
            f"00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 999999 kB\nPss:   {share * 1024} kB\nPss_Anon: 1 kB\n"
        )
    assert Host(proc=machine / "proc").resident_mib({10, 11, 12}) == 500


def test_another_user_s_process_is_estimated_without_what_it_shares(machine: Path) -> None:
    (machine / "proc/10").mkdir()
    (machine / "proc/10/statm").write_text("900000 51200 25600 1 0 1 0\n")  # pages: size, resident, shared
    assert Host(proc=machine / "proc").resident_mib({10}) == 100


def test_a_machine_that_tells_nothing_has_no_such_device(tmp_path: Path) -> None:
    assert Host(proc=tmp_path, cgroups=tmp_path).read() is None


def test_our_own_memory_is_seen_to_grow() -> None:
    host = Host()
    before = host.resident_mib({os.getpid()})
    with mmap.mmap(-1, 64 << 20) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1
        assert 60 <= host.resident_mib({os.getpid()}) - before <= 70
    reading = host.read()
    assert reading is not None
    assert 0 < reading.free_mib < reading.total_mib
