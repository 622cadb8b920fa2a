"""A router whose state folder is a small disk of its own, which a test can fill, and make read-only.

The disk is a tmpfs in a mount namespace of the router: nothing else sees it, and it goes with the last process there.
Needs root. Counterpart: `nursery`, whose forks these are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from nursery import run
from routing import RouterProcess

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # linux/mount.h
_SIZE = "3m"
_libc = ctypes.CDLL(None, use_errno=True)


def needs_mounts() -> pytest.MarkDecorator:
    may = os.geteuid() == 0 and subprocess.run(("unshare", "-m", "true"), capture_output=True, check=False).returncode
    return pytest.mark.skipif(may != 0, reason="mounting a small disk needs root, and a system that lets it")


def _run_apart(argv: list[str], output: Connection, log: str) -> None:
    folder = Path(argv[-1]).parent
    known = folder / "disk"
    if known.exists():
        _checked(_libc.setns(os.open(known.read_text(), os.O_RDONLY | os.O_CLOEXEC), _CLONE_NEWNS))
    else:
        state = folder / "state"
        state.mkdir()
        _checked(_libc.unshare(_CLONE_NEWNS))
        _checked(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
        _checked(_libc.mount(b"tmpfs", os.fsencode(state), b"tmpfs", 0, f"size={_SIZE}".encode()))
    (folder / "tmp").mkdir(exist_ok=True)
    tempfile.tempdir = str(folder / "tmp")  # where a router goes whose state folder can't be used
    run(argv, output, log)


class DiskRouter(RouterProcess):
    """`disk`: the state folder as this process can reach it, while the router or one of its engines lives."""

    run = staticmethod(_run_apart)

    @property
    def disk(self) -> Path:
        return Path(f"/proc/{self.pid}/root{self.folder}/state")

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.disk / "filling").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        (self.disk / "filling").unlink()

    def make_read_only(self) -> None:
        """For whatever is opened from now on."""
        state = f"{self.folder}/state"
        script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
        subprocess.run(("nsenter", "-t", str(self.pid), "-m", "sh", "-c", script, state), check=True)

    def stay(self, pid: int) -> None:
        """The next start is on the disk that this process sees."""
        (self.folder / "disk").write_text(f"/proc/{pid}/ns/mnt")


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
