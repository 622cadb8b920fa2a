"""The machine itself: devices and their driver, limits, the state folder. Counterpart: `engines`, for what is to run
on it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_router.doctor.finding import Finding, ok, problem, warning
from llm_router.hardware.base import CPU, DeviceReading

_NVIDIA, _AMD = "0x10de", "0x1002"
_GPU_CLASSES = ("0x0300", "0x0302", "0x0380")  # VGA, 3D and other display controllers
# Each request that is relayed needs two, each server of ours a few more.
_FEW_FILES, _ENOUGH_FILES = 512, 4096
_LITTLE_DISK_MIB, _ENOUGH_DISK_MIB = 100, 1024
_MIB = 1024**2


def devices(readings: Mapping[str, DeviceReading], root: Path = Path("/")) -> Iterator[Finding]:
    """`readings`: what the router can measure. `root`: where the machine's files are.

    1. What is measured works. 2. A GPU that is in the machine and can't be measured: its driver isn't loaded, isn't for
    this user, or was exchanged since the start. 3. No GPU at all: everything runs on the CPU.
    """
    gpus = [reading for name, reading in readings.items() if name != CPU]
    for reading in gpus:  # 1
        size = f"{_gib(reading.total_mib)}, {_gib(reading.free_mib)} free"
        yield ok(f"GPU {reading.device}", f"{reading.title or 'a GPU'}: {size}")
    vendors = set(_gpu_vendors(root))
    if not gpus and _NVIDIA in vendors:  # 2
        yield _without_driver(root)
    elif not gpus and _AMD in vendors:
        yield warning(
            "GPU", "an AMD GPU is there, but the kernel doesn't say what memory it has", "load its driver, `amdgpu`"
        )
    elif not gpus:  # 3
        yield warning("GPU", "none was found: models run on the CPU", "nothing, if that is meant")
    elif (version := _driver_version(root)) is not None:
        yield ok("driver", f"NVIDIA {version}")
    if (memory := readings.get(CPU)) is not None:
        yield ok("memory", f"{_gib(memory.total_mib)}, {_gib(memory.free_mib)} free")


def _without_driver(root: Path) -> Finding:
    if (root / "proc/driver/nvidia/version").exists() and (root / "dev/nvidiactl").exists():
        if not os.access(root / "dev/nvidiactl", os.R_OK | os.W_OK):
            return problem(
                "GPU",
                "this user may not use /dev/nvidiactl",
                "add the user to the group that owns it (`ls -l /dev/nvidia*`), or allow the devices in its unit",
            )
        return problem(
            "GPU",
            "the driver is loaded, but its library doesn't answer: most often it was upgraded and the kernel still has "
            "the old one",
            "see what `nvidia-smi` says; restart the machine after an upgrade",
        )
    return problem(
        "GPU",
        "an NVIDIA GPU is in the machine, but its driver isn't loaded",
        "`sudo ubuntu-drivers install`, or `sudo apt install nvidia-driver`, then restart; if it is installed, see "
        "`journalctl -k | grep -i nvidia` (Secure Boot refuses unsigned modules)",
    )


def _gpu_vendors(root: Path) -> Iterator[str]:
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            kind = (device / "class").read_text().strip()
            vendor = (device / "vendor").read_text().strip()
        except OSError:
            continue
        if kind.startswith(_GPU_CLASSES):
            yield vendor


def _driver_version(root: Path) -> str | None:
    try:
        found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", (root / "proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return None if found is None else found[1]


def open_files(soft: int) -> Finding:
    """`soft`: how many files and sockets the router may have open."""
    remedy = "`ulimit -n 65536` before the start, or `LimitNOFILE=65536` in its unit"
    if soft < _FEW_FILES:
        return problem("open files", f"only {soft} are allowed: each running request needs two", remedy)
    if soft < _ENOUGH_FILES:
        return warning("open files", f"{soft} are allowed: enough for {soft // 2 - 100} requests at a time", remedy)
    return ok("open files", f"{soft} are allowed")


def state_folder(folder: Path, free_mib: int | None) -> Iterator[Finding]:
    """`free_mib`: of its file system; None: unknown. Writes a file there and takes it away again."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    remedy = f'`sudo chown -R {_user()} {nearest}`, or set "state_dir" to a folder of the router\'s own'
    if not nearest.is_dir():
        yield problem("state folder", f"{nearest} is in its way: it isn't a folder", 'choose another "state_dir"')
    elif not _can_write(nearest):
        yield problem("state folder", f"can't write to {nearest}: estimates, logs and adoption are lost", remedy)
    elif nearest != folder:
        yield ok("state folder", f"{folder}, which is made at the first start")
    else:
        yield ok("state folder", str(folder))
    if free_mib is not None and free_mib < _ENOUGH_DISK_MIB:
        found = problem if free_mib < _LITTLE_DISK_MIB else warning
        yield found(
            "disk",
            f"only {free_mib} MiB are free below {nearest}: logs and history need some",
            'make room there, or set "state_dir" to another disk',
        )


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError:
        return False
    return True


def _user() -> str:
    return os.environ.get("USER") or str(os.geteuid())


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
