"""Runs `llm-router` in a fork of a process that has imported it already: a start costs 0.1 s instead of one second.

Everything but the imports is as in the installed program: a process of its own with arguments, output, signals and an
exit code. Counterpart: `routing`, which uses this or the installed program.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import multiprocessing
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from llm_router import backends
from llm_router.launchers import ports

# Where the backends of the tests are installed (`hasty`).
PROGRAMS = Path(__file__).parent.parent / "programs"

_context = multiprocessing.get_context("forkserver")
# pytest too, because each child imports what its parent's main module is; the others are imported by a router when it
# first needs them, which is half of what a short life of it costs.
_context.set_forkserver_preload(
    [
        *("llm_router.app", "llm_router.cli.commands", "pydantic.v1", "pytest"),
        *(f"llm_router.backends.{module.name}" for module in pkgutil.iter_modules(backends.__path__)),
        *("anyio._backends._asyncio", "certifi", "httpcore", "typer._adapters", "uvicorn.lifespan.off"),
    ]
)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


Run = Callable[[list[str], Connection, str], None]


def run(argv: list[str], output: Connection, log: str) -> None:
    """What the fork does: `output` is its stdout, `log` the file for its stderr."""
    gc.freeze()  # or else the first collection visits, and so copies, every page that is shared with the parent
    # A test run that is cut off takes its routers with it, and they take their engines.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.dup2(output.fileno(), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.environ.update(NO_COLOR="1", COLUMNS="200")
    sys.path.append(str(PROGRAMS))
    sys.argv = ["llm-router", *argv]
    from llm_router.cli import main

    main()


def _run_among(own: range, run: Run, argv: list[str], output: Connection, log: str) -> None:
    """The router's engines get ports of those that this process of the tests has for itself."""
    ports._PREFERRED = own
    run(argv, output, log)


class Child:
    """One run of the program, with `argv`. Its stderr is appended to the file `log`. `run`: another way to it."""

    def __init__(self, argv: list[str], log: Path, run: Run = run) -> None:
        reading, writing = _context.Pipe(duplex=False)
        args = (ports._PREFERRED, run, argv, writing, str(log))
        self._process: ForkServerProcess = _context.Process(target=_run_among, args=args)
        self._process.start()
        writing.close()
        self._output = os.fdopen(os.dup(reading.fileno()), "rb", buffering=0)
        reading.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    async def first_line(self) -> str:
        """Of its stdout; what comes after it is thrown away. Empty: it ended without one."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._output)
        try:
            return (await reader.readline()).decode()
        finally:
            transport.close()

    async def wait(self) -> int:
        self._output.close()
        with _readable(self._process.sentinel) as ended:
            await ended.wait()
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


@contextlib.contextmanager
def _readable(fd: int) -> Iterator[asyncio.Event]:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        yield event
    finally:
        loop.remove_reader(fd)
