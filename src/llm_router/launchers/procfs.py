"""Reads /proc: when a process started, who belongs to a group, who carries a token, who listens on a port.

Counterpart: `process`, which acts on what is found here. Reads only; a process that vanishes while it is looked at
simply isn't there. Zombies count as gone: nothing of them but their number is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_NO_FILES = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """A line of /proc/PID/stat, as far as it matters here. `started`: clock ticks since the machine booted."""

    pid: int
    state: str
    group: int
    session: int
    started: int

    @property
    def is_alive(self) -> bool:
        return self.state not in "ZX"


def parse_stat(line: str) -> Stat:
    """The command name may hold spaces and brackets, so the fields are counted from its last bracket (proc(5))."""
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    return Stat(
        pid=int(head.split(" ", 1)[0]),
        state=fields[0],
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
    )


def read_stat(pid: int, *, strict: bool = False) -> Stat | None:
    """None: no such process any more. `strict`: raises OSError where no file can be opened, which tells nothing."""
    try:
        return parse_stat(_read(f"/proc/{pid}/stat").decode(errors="replace"))
    except OSError as error:
        if strict and error.errno in _NO_FILES:
            raise
        return None
    except (ValueError, IndexError):
        return None


def boot_id() -> str:
    """Start times count from boot, so they only mean something together with this."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read(path: str) -> bytes:
    """Without pathlib: a look at all processes happens on the event loop and should be over in a few milliseconds."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, 65536), b""))
    finally:
        os.close(fd)


def pids() -> Iterator[int]:
    with os.scandir(PROC) as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdigit())


def environment_value(pid: int, name: str, *, strict: bool = False) -> str | None:
    """`name` in the environment the process was started with; None: not set, or not ours to read.

    `strict`: raises OSError where no file can be opened.
    """
    wanted = name.encode() + b"="
    try:
        entries = _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError as error:
        if strict and error.errno in _NO_FILES:
            raise
        return None
    found = next((entry for entry in entries if entry.startswith(wanted)), None)
    return None if found is None else found[len(wanted) :].decode(errors="replace")


def command_line(pid: int) -> tuple[str, ...]:
    """What the process was started with; empty: it is gone, or a zombie."""
    try:
        return tuple(item.decode(errors="replace") for item in _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1])
    except OSError:
        return ()


def members(group: int, leader_started: int, variable: str, token: str) -> list[Stat]:
    """Living processes of a process group or session, and those that carry `variable=token` wherever they moved.

    Both are needed: a child that left the session keeps the token, one that renamed itself (setproctitle writes over
    its environment) keeps the group. What started before the leader can be neither. Where the leader's number belongs
    to a later process, the group is another one. Raises: OSError where it can't be seen, for want of files.
    """
    found = (read_stat(pid, strict=True) for pid in pids())
    later = [stat for stat in found if stat is not None and stat.started >= leader_started]
    if any(stat.pid == group and stat.started != leader_started for stat in later):
        group = 0
    return [
        stat
        for stat in later
        if stat.is_alive
        and stat.pid != os.getpid()
        and (
            (group and group in (stat.group, stat.session))
            or environment_value(stat.pid, variable, strict=True) == token
        )
    ]


def oom_kills() -> int | None:
    """How many processes the kernel has ended for want of memory since the machine booted; None: it doesn't say."""
    try:
        lines = (PROC / "vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def describe(pid: int) -> str:
    """`pid 4711 (llama-server)`."""
    try:
        return f"pid {pid} ({(PROC / str(pid) / 'comm').read_text().strip()})"
    except OSError:
        return f"pid {pid}"


def listener(port: int) -> str | None:
    """Who listens on a TCP port of this machine, described; None: nobody does."""
    inodes = _listening_on(port)
    if not inodes:
        return None
    owner = next((pid for pid in pids() if inodes & _sockets(pid)), None)
    return "another user's process" if owner is None else describe(owner)


def strangers_on(port: int, leader: int, variable: str, *, only_older: bool = False) -> str | None:
    """Who listens on a TCP port of this machine and belongs neither to the session of `leader` nor carries the same
    value of `variable`; None: nobody, as far as we may know. `only_older`: what started after it doesn't count."""
    inodes = _listening_on(port)
    owners = [stat for pid in pids() if inodes & _sockets(pid) and (stat := read_stat(pid))] if inodes else []
    token = environment_value(leader, variable)
    for stat in owners:
        if leader in (stat.session, stat.group) or (
            token is not None and environment_value(stat.pid, variable) == token
        ):
            return None
    if only_older:
        began = read_stat(leader)
        owners = [stat for stat in owners if began is not None and stat.started < began.started]
    return describe(owners[0].pid) if owners else None


def _listening_on(port: int) -> set[str]:
    return {inode for table in ("net/tcp", "net/tcp6") for inode in _listening(PROC / table, port)}


def _listening(table: Path, port: int) -> Iterator[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for fields in (line.split() for line in lines):
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: LISTEN, net/tcp_states.h
            yield fields[9]


def _sockets(pid: int) -> set[str]:
    return {target[8:-1] for target in open_files(pid) if target.startswith("socket:[")}


def open_files(pid: int) -> set[str]:
    """What the process has open: paths, `socket:[INODE]` and the like, as far as it may be seen."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.add(str(entry.readlink()))
    return found


async def wait_gone(pidfd: int) -> None:
    """Wait until the process behind `pidfd` has ended. No deadline of its own; cancelling leaves nothing behind."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)
