"""Other processes: starting and surely ending them, and what a whole tree has used, from /proc.

CPU time is user + system. A process counts with the larger of two figures: `utime + stime` of /proc/PID/stat, which
includes threads that have ended but is cut off to ticks of 10 ms, and the sum of /proc/PID/task/*/schedstat, which is
exact to the nanosecond but forgets threads that have ended. To this comes what its reaped children used.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


class BenchFailed(Exception):
    """A figure can't be had; the message says which and why."""


def allow_many_files() -> None:
    """Raises the limit on open files for this process and those it starts, as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(pid: int) -> list[int]:
    """`pid` and all that descends from it, as far as it runs now."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds, user + system, that the tree of `pid` has used so far."""
    return sum(_cpu_of_one_s(one) for one in tree(pid))


def rss_kib(pid: int) -> int:
    """Resident memory of the tree, KiB. Pages that processes share count once for each."""
    total = 0
    for one in tree(pid):
        try:
            total += int((_PROC / str(one) / "statm").read_text().split()[1]) * _PAGE // 1024
        except OSError:
            continue
    return total


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from `state` on: the name before them may hold anything."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _cpu_of_one_s(pid: int) -> float:
    try:
        fields = _stat(pid)
    except OSError:
        return 0.0
    exact_ns = 0
    for task in (_PROC / str(pid) / "task").glob("*/schedstat"):
        try:
            exact_ns += int(task.read_text().split()[0])
        except OSError:
            continue
    by_ticks = (int(fields[11]) + int(fields[12])) * _TICK_S
    reaped = (int(fields[13]) + int(fields[14])) * _TICK_S
    return max(by_ticks, exact_ns / 1e9) + reaped


class Processes:
    """Starts processes and ends every one of them when the `with` block is left, however it is left.

    Each gets its own session, so that Ctrl-C in the terminal reaches only us and we end them in order.
    """

    def __init__(self, log_folder: Path) -> None:
        self._logs = log_folder
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        started = [process for _, process in self._started]
        try:
            for process in started:
                process.terminate()
            for process in started:
                _wait_ended(process)
        finally:  # a second Ctrl-C shortens the waiting, not the ending
            for process in started:
                process.kill()

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """`env` is added to ours. The output goes to a file named after `name`; see `log`."""
        with self._log_path(name).open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        self._started.append((name, process))
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ends one of them before the others. Idempotent."""
        process.terminate()
        _wait_ended(process)
        self._started = [(name, other) for name, other in self._started if other is not process]

    def log(self, name: str, lines: int = 15) -> str:
        """The last lines of what `name` wrote."""
        path = self._log_path(name)
        said = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(said[-lines:])

    def wait_listening(self, name: str, process: subprocess.Popen[bytes], port: int, path: str, limit_s: float) -> None:
        """Waits until `GET path` on loopback answers 200. Raises: BenchFailed after `limit_s` or when it exits."""
        deadline = time.monotonic() + limit_s
        while not _answers(port, path):
            if process.poll() is not None:
                raise BenchFailed(f"cannot start {name}: it ended with {process.returncode}\n{self.log(name)}")
            if time.monotonic() > deadline:
                raise BenchFailed(f"cannot start {name}: no answer within {limit_s:.0f} s\n{self.log(name)}")
            time.sleep(0.02)

    def _log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def _wait_ended(process: subprocess.Popen[bytes], grace_s: float = 15.0) -> None:
    """Waits for one that was told to end, and kills it after `grace_s`. No second TERM: it may mean "at once"."""
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_strays(marker: str) -> int:
    """Ends what still runs with `marker`, a path only our processes know, in its command line. Returns how many."""
    strays = 0
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if marker.encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
                strays += 1
        except OSError:
            continue
    return strays


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            return sock.recv(64)[8:12] == b" 200"
    except OSError:
        return False
