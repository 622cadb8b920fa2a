"""The host's memory: what there is, what is free, what processes hold. Counterpart: `reading`.

Reads /proc and the limits of our own control group (v2). Swap doesn't count: a model in it is as good as not loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm_router.hardware.base import CPU, DeviceReading

_KIB_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
_STAT_LINE = re.compile(r"^(active_file|inactive_file|file_mapped) (\d+)$", re.MULTILINE)
_PAGE_KIB = 4


class Host:
    """`proc`, `cgroups`: where those two file systems are."""

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._cgroups = cgroups

    def read(self) -> DeviceReading | None:
        """The smallest of what the machine has and what a control group around us allows.

        Free is what could be had without swapping. Pages of files count as free, as in the kernel's MemAvailable, but
        unlike there not those that a program has mapped: so do engines with their weights, and without them in
        memory they read each token's anew from the disk.
        """
        try:
            fields = dict(_KIB_LINE.findall((self._proc / "meminfo").read_text()))
            total = int(fields["MemTotal"]) * 1024
            free = (int(fields["MemAvailable"]) - int(fields.get("Mapped", 0))) * 1024
        except (OSError, KeyError):
            return None
        for folder in self._own_groups():
            limit = _number(folder / "memory.max")
            if limit is not None:
                total = min(total, limit)
                free = min(free, limit - (_number(folder / "memory.current") or 0) + _reclaimable(folder))
        return DeviceReading(device=CPU, total_mib=total // 1024**2, free_mib=max(free, 0) // 1024**2)

    def resident_mib(self, pids: Iterable[int]) -> int:
        """What they hold together, shared pages counted once; 0 for those that are gone."""
        return sum(self._held_kib(pid) for pid in pids) // 1024

    def _own_groups(self) -> Iterator[Path]:
        """Our control group's folder and those around it."""
        try:
            lines = (self._proc / "self" / "cgroup").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            if line.startswith("0::/"):
                group = self._cgroups / line.removeprefix("0::/")
                yield group
                yield from (parent for parent in group.parents if parent.is_relative_to(self._cgroups))

    def _held_kib(self, pid: int) -> int:
        folder = self._proc / str(pid)
        try:
            # A page that n processes share counts 1/n for each.
            return int(dict(_KIB_LINE.findall((folder / "smaps_rollup").read_text()))["Pss"])
        except (OSError, KeyError):  # of another user; or it has ended, and then there is no statm either
            pass
        try:
            _, resident, shared, *_ = map(int, (folder / "statm").read_text().split())
        except (OSError, ValueError):
            return 0
        return (resident - shared) * _PAGE_KIB


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return None


def _reclaimable(folder: Path) -> int:
    """Pages of files in the group that nobody has mapped, in bytes: they count as used there and go when memory is
    needed."""
    try:
        fields = dict(_STAT_LINE.findall((folder / "memory.stat").read_text()))
        return max(int(fields["active_file"]) + int(fields["inactive_file"]) - int(fields["file_mapped"]), 0)
    except (OSError, KeyError):
        return 0
