"""AMD's GPUs, from what the kernel's driver (amdgpu) shows in sysfs. Counterpart: `reading`, which adds the others.

Video memory only: system memory that a GPU borrows (GTT) counts as the host's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_router.hardware.base import DeviceReading
from llm_router.units import mib

_CARD = re.compile(r"card\d+")  # and not card0-DP-1, which is a plug
_FIELD = re.compile(r"^drm-(pdev|client-id|memory-vram):\s*(\S+)", re.MULTILINE)


class Amd:
    """`sys`, `proc`: where those two file systems are."""

    def __init__(self, sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
        self._cards = sys / "class" / "drm"
        self._proc = proc

    def read(self) -> Mapping[str, DeviceReading]:
        """Each GPU with video memory, numbered by bus. Who holds it: those whose files we may read."""
        folders = sorted(self._folders(), key=lambda folder: folder.name)
        if not folders:
            return {}
        held = self._held()
        readings = (self._device(str(number), folder, held) for number, folder in enumerate(folders))
        return {reading.device: reading for reading in readings if reading is not None}

    def _folders(self) -> Iterator[Path]:
        """Of the GPUs; the name of each is its place on the bus, such as 0000:03:00.0."""
        try:
            cards = [card for card in self._cards.iterdir() if _CARD.fullmatch(card.name)]
        except OSError:
            return
        for card in cards:
            if (card / "device" / "mem_info_vram_total").exists():
                yield (card / "device").resolve()

    def _device(self, name: str, folder: Path, held: Mapping[str, Mapping[int, int]]) -> DeviceReading | None:
        try:
            total = int((folder / "mem_info_vram_total").read_text())
            used = int((folder / "mem_info_vram_used").read_text())
        except (OSError, ValueError):
            return None
        return DeviceReading(
            device=name,
            total_mib=total // 1024**2,
            free_mib=max(total - used, 0) // 1024**2,
            held_mib=held.get(folder.name, {}),
            uuid=_line(folder / "unique_id"),
            title=_line(folder / "product_name"),
        )

    def _held(self) -> dict[str, dict[int, int]]:
        """In MiB, by place on the bus and process (Linux, drm-usage-stats.rst)."""
        held: dict[str, dict[int, int]] = {}
        for folder in self._proc.glob("[0-9]*"):
            clients: dict[tuple[str, str], int] = {}
            for text in _open_gpus(folder):
                fields = dict(_FIELD.findall(text))
                if "pdev" in fields and fields.get("memory-vram", "").isdigit():
                    # Several descriptors of one client show the same memory.
                    clients[fields["pdev"], fields.get("client-id", "")] = int(fields["memory-vram"])
            for (place, _), used_kib in clients.items():
                processes = held.setdefault(place, {})
                processes[int(folder.name)] = processes.get(int(folder.name), 0) + mib(used_kib * 1024)
        return held


def _open_gpus(process: Path) -> Iterator[str]:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:  # gone, or someone else's
        return
    for descriptor in descriptors:
        try:
            if str(descriptor.readlink()).startswith("/dev/dri/"):
                yield (process / "fdinfo" / descriptor.name).read_text()
        except OSError:
            continue


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
