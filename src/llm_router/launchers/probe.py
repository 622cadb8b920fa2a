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
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from llm_router.backends.base import Address, Failed, LaunchSpec, Loading, Ready, no_signal
from llm_router.errors import LaunchError
from llm_router.launchers import procfs
from llm_router.launchers.base import RunningProcess
from llm_router.launchers.container import container_of
from llm_router.launchers.instance import TOKEN_VARIABLE
from llm_router.launchers.lines import RING_LINES
from llm_router.launchers.waiting import Stall, until

# Small servers are up in a fraction of a second, and their users notice each of these; a long load can wait.
POLL_S = 0.025
FIRST_POLL_S = 0.005
FIRST_POLLS = 100
HEALTH_PATH = "/health"
# SGLang's /health takes a second when it is well; longer than this and the answer isn't coming.
ANSWER_S = 5.0
# Among equal endpoints the first is preferred, but not for longer than this.
PREFERENCE_S = 0.3
HELP_S = 10.0

_help_texts: dict[tuple[tuple[str, ...], str, int], str] = {}


async def wait_ready(
    process: RunningProcess,
    spec: LaunchSpec,
    *,
    deadline_s: float,
    on_loading: Callable[[Loading], None],
    stall: Stall | None = None,
) -> None:
    """Wait for the first sign of readiness, at most `deadline_s` seconds from now and as long as `stall` allows;
    `on_loading` hears each progress line. Cancelling stops the polls and leaves the process as it is.

    Raises: LaunchError when the server says that it failed, when the process exits, the deadline passes or nothing
    moves any more; its message holds the engine's last words.
    """
    stall = stall or Stall()
    stall.beat()
    pushed = asyncio.Event()
    failures: list[str] = []

    def on_line(line: str) -> None:
        stall.beat()
        match spec.readiness.read_line(line):
            case Ready():
                pushed.set()
            case Failed(message=message):
                failures.append(message)
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
        await until(
            pushed.wait(),
            poll.run(),
            model=process.identity.model,
            process=process,
            deadline_s=deadline_s,
            stall=stall,
            lines=lambda: process.output.tail(RING_LINES),
            seen=lambda: poll.seen,
        )
    finally:
        end_lines()
    if failures:
        raise LaunchError(f"cannot use {process.identity.model}: {failures[0]}")


async def wait_resumed(
    process: RunningProcess, spec: LaunchSpec, *, deadline_s: float, on_loading: Callable[[Loading], None]
) -> None:
    """`wait_ready` for an adopted process, whose old lines prove nothing: it must answer, and be the one who does.

    Raises: LaunchError.
    """
    silent = replace(spec.readiness, path=spec.readiness.path or HEALTH_PATH, read_line=no_signal)
    await wait_ready(process, replace(spec, readiness=silent), deadline_s=deadline_s, on_loading=on_loading)
    port = spec.address.port
    # What listens for a container is no child of its client's: there, what began after the client counts as its own.
    is_client = container_of(procfs.command_line(process.pid)) is not None
    if stranger := procfs.strangers_on(port, process.pid, TOKEN_VARIABLE, only_older=is_client):
        raise LaunchError(f"cannot use {process.identity.model}: {stranger} has taken its port {port}")


async def refuse_squatter(process: RunningProcess, port: int) -> None:
    """Make sure that a server which answers on a configured port isn't one that was there before `process`: that one
    couldn't bind then, and TabbyAPI for one goes on at the next port.

    What started later counts as its own: a script may well hand its server over to a container or a service.
    Raises: LaunchError, naming it.
    """
    find = partial(procfs.strangers_on, port, process.pid, TOKEN_VARIABLE, only_older=True)
    if stranger := await asyncio.to_thread(find):  # all open files of all processes are looked at
        raise LaunchError(
            f"cannot use {process.identity.model}: {stranger} has its port {port}; end it or configure another port"
        )


async def is_serving(spec: LaunchSpec, timeout_s: float) -> bool:
    """Whether its readiness path answers 200 within `timeout_s`: for adopted instances and remote endpoints."""
    readiness = spec.readiness
    try:
        async with asyncio.timeout(timeout_s):
            status = await get_status(spec.address, readiness.path or HEALTH_PATH, readiness.headers)
            if status == 404 and readiness.older_path is not None:
                status = await get_status(spec.address, readiness.older_path, readiness.headers)
            return status == 200
    except (OSError, TimeoutError, ValueError, EOFError):
        return False


async def first_serving(spec: LaunchSpec, timeout_s: float) -> Address | None:
    """The first of equal endpoints that serves, in the order of the spec; None: none does within `timeout_s`.

    All are asked at once. One that answers waits for those before it no longer than `PREFERENCE_S`.
    """
    addresses = (spec.address, *spec.alternatives)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(is_serving(replace(spec, address=address), timeout_s)) for address in addresses]
        waiting = set(asked)
        while waiting and _first_yes(asked) is None:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if before := asked[: _first_yes(asked) or 0]:
            await asyncio.wait(before, timeout=PREFERENCE_S)
        for task in asked:
            task.cancel()
    found = _first_yes(asked)
    return None if found is None else addresses[found]


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
                if status == 404 and self._spec.readiness.older_path is not None:
                    path = self._spec.readiness.older_path
                self.seen = f"{path} on port {port} answers HTTP {status}"
            await asyncio.sleep(FIRST_POLL_S if count < FIRST_POLLS else POLL_S)


def _first_yes(asked: Sequence[asyncio.Task[bool]]) -> int | None:
    return next((i for i, task in enumerate(asked) if task.done() and not task.cancelled() and task.result()), None)


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
