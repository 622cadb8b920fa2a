"""Learns when an instance is ready, and whether one still serves.

Counterpart: the backend's `Readiness`, which says what to look for. The first honest sign wins: a line the engine
pushed, or a poll that answers 200. An exit ends the wait at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_router.backends.base import Address, LaunchSpec, Loading, Ready, no_signal
from llm_router.errors import LaunchError
from llm_router.launchers import procfs
from llm_router.launchers.base import RunningProcess
from llm_router.launchers.excerpt import meaningful_tail
from llm_router.launchers.instance import TOKEN_VARIABLE
from llm_router.launchers.output import RING_LINES

# Small servers are up in a fraction of a second, and their users notice each of these; a long load can wait.
POLL_S = 0.025
FIRST_POLL_S = 0.005
FIRST_POLLS = 100
HEALTH_PATH = "/health"
# SGLang's /health takes a second when it is well; longer than this and the answer isn't coming.
ANSWER_S = 5.0
HELP_S = 10.0

_help_texts: dict[tuple[tuple[str, ...], str, int], str] = {}


async def wait_ready(
    process: RunningProcess, spec: LaunchSpec, *, deadline_s: float, on_loading: Callable[[Loading], None]
) -> None:
    """Wait for the first sign of readiness, at most `deadline_s` seconds from now; `on_loading` hears each progress
    line. Cancelling stops the polls and leaves the process as it is.

    Raises: LaunchError when the process exits or the deadline passes; its message holds the engine's last words.
    """
    pushed = asyncio.Event()

    def on_line(line: str) -> None:
        match spec.readiness.read_line(line):
            case Ready():
                pushed.set()
            case Loading() as loading if not pushed.is_set():
                on_loading(loading)
            case _:
                pass

    poll = _Poll(spec)
    end_lines = process.output.subscribe(on_line)
    try:
        for line in process.output.tail(RING_LINES):  # what it said before we listened
            on_line(line)
        async with asyncio.timeout(deadline_s):
            await _first_of(process.exited, pushed.wait(), poll.run())
    except TimeoutError as error:
        raise LaunchError(
            f"cannot use {process.identity.model}: not ready after {deadline_s:g} s ({poll.seen})"
            f"{_last_words(process)}; raise load_timeout if it only needs longer"
        ) from error
    finally:
        end_lines()
    if process.exited.done():
        end = exit_in_words(process.exited.result())
        raise LaunchError(f"cannot use {process.identity.model}: {end} while loading{_last_words(process)}")


async def wait_resumed(
    process: RunningProcess, spec: LaunchSpec, *, deadline_s: float, on_loading: Callable[[Loading], None]
) -> None:
    """`wait_ready` for an adopted process, whose old lines prove nothing: it must answer, and be the one who does.

    Raises: LaunchError.
    """
    silent = replace(spec.readiness, path=spec.readiness.path or HEALTH_PATH, read_line=no_signal)
    await wait_ready(process, replace(spec, readiness=silent), deadline_s=deadline_s, on_loading=on_loading)
    port = spec.address.port
    if stranger := procfs.strangers_on(port, process.pid, TOKEN_VARIABLE):
        raise LaunchError(f"cannot use {process.identity.model}: {stranger} has taken its port {port}")


async def is_serving(spec: LaunchSpec, timeout_s: float) -> bool:
    """Whether its readiness path answers 200 within `timeout_s`: for adopted instances and remote endpoints."""
    path = spec.readiness.path or HEALTH_PATH
    try:
        async with asyncio.timeout(timeout_s):
            return await get_status(spec.address, path, spec.readiness.headers) == 200
    except (OSError, TimeoutError, ValueError, EOFError):
        return False


async def get_status(address: Address, path: str, headers: tuple[tuple[str, str], ...] = ()) -> int:
    """GET on a connection of its own; the status of the answer, whose body isn't read. No deadline of its own.

    Raises: OSError, EOFError, ValueError for a connection that can't be made, ends early, or isn't HTTP.
    """
    context = ssl.create_default_context() if address.tls else None
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    try:
        lines = [f"GET {address.base_path}{path} HTTP/1.1", f"Host: {_authority(address)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        return _status(await reader.readline())
    finally:
        writer.transport.abort()


async def help_text(argv: tuple[str, ...]) -> str:
    """What a program prints when asked about itself, stdout and stderr; asked once per file and change of it.

    Waits at most 10 s and then takes what there is. Cancelling ends the program. Raises: LaunchError.
    """
    program, changed_ns = _find(argv[0])
    key = (argv, program, changed_ns)
    if key not in _help_texts:
        _help_texts[key] = await _output_of((program, *argv[1:]))
    return _help_texts[key]


def exit_in_words(status: int | None) -> str:
    """`it exited with status 1`, `it was killed by SIGKILL`."""
    if status is None:
        return "it ended"
    if status >= 0:
        return f"it exited with status {status}"
    try:
        return f"it was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was killed by signal {-status}"


class _Poll:
    """Asks until 200. `seen`: the last answer in words, for whoever gives up waiting."""

    def __init__(self, spec: LaunchSpec) -> None:
        self._spec = spec
        self.seen = "nothing was heard from it"

    async def run(self) -> None:
        path = self._spec.readiness.path
        if path is None:
            await asyncio.Event().wait()
            return
        port = self._spec.address.port
        for count in itertools.count():
            try:
                async with asyncio.timeout(ANSWER_S):
                    status = await get_status(self._spec.address, path, self._spec.readiness.headers)
            except ConnectionRefusedError:
                self.seen = f"port {port} refuses connections"
            except TimeoutError:
                self.seen = f"{path} on port {port} doesn't answer"
            except (OSError, ValueError, EOFError):
                self.seen = f"port {port} doesn't speak HTTP"
            else:
                if status == 200:
                    return
                self.seen = f"{path} on port {port} answers HTTP {status}"
            await asyncio.sleep(FIRST_POLL_S if count < FIRST_POLLS else POLL_S)


async def _first_of(exited: asyncio.Future[int | None], *signs: Coroutine[None, None, object]) -> None:
    """Returns when the process is gone or the first sign came; the other waits are cancelled, `exited` never is."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sign) for sign in signs]
        waits: list[asyncio.Future[Any]] = [exited, *tasks]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _last_words(process: RunningProcess) -> str:
    lines = meaningful_tail(process.output.tail(RING_LINES))
    return ": " + " | ".join(lines) if lines else ""


def _authority(address: Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _status(line: bytes) -> int:
    version, _, rest = line.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise EOFError if not line else ValueError("not HTTP")
    return int(rest[:3])


def _find(name: str) -> tuple[str, int]:
    program = shutil.which(name)
    if program is None:
        raise LaunchError(f"cannot find {name}: give the full path of an executable or install it")
    return program, Path(program).stat().st_mtime_ns


async def _output_of(argv: tuple[str, ...]) -> str:
    # Into memory rather than a pipe: it can neither block nor be lost, and needs no task to read it.
    out = os.memfd_create("help", os.MFD_CLOEXEC)
    try:
        child = _run(argv, out)
        pidfd = os.pidfd_open(child.pid)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HELP_S):
                    await procfs.wait_gone(pidfd)
        finally:
            os.close(pidfd)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return os.pread(out, os.fstat(out).st_size, 0).decode(errors="replace")
    finally:
        os.close(out)


def _run(argv: tuple[str, ...], out: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    except OSError as error:
        raise LaunchError(f"cannot run {argv[0]}: {error.strerror}; check that it is an executable") from error
