"""Starts instances as processes of their own session, and finds those that an earlier router left behind.

Counterpart: `instance`, which is one of them while it runs; `ledger`, which remembers them; `backends`, which say what
to run. What outlives the router lives in the state folder: the log files, the stdin pipes, the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Awaitable, Iterator, Sequence
from functools import partial
from pathlib import Path

from llm_router.backends.base import LaunchSpec
from llm_router.errors import LaunchError
from llm_router.launchers import procfs
from llm_router.launchers.base import Identity, RunningProcess
from llm_router.launchers.instance import TOKEN_VARIABLE, Process
from llm_router.launchers.ledger import Entry, Ledger
from llm_router.launchers.output import LogFile
from llm_router.launchers.places import Places
from llm_router.launchers.remains import Remains
from llm_router.launchers.remedies import next_step
from llm_router.launchers.state import StateFolder, abandoned, forgotten, open_state

log = logging.getLogger(__name__)

_Carriers = dict[str, list[procfs.Stat]]

_OURS_ALONE = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "LLM_ROUTER_KEY"}
)


class ProcessLauncher:
    """Implements `launchers.base.Launcher` for local processes. Use it on one event loop; `close` it at the end.

    A state folder that can't be written or that another router is using costs a warning: another one takes its place.
    """

    def __init__(self, state_dir: Path) -> None:
        self._places = Places(open_state(state_dir))
        self.running: dict[Process, Entry] = {}

    async def start(self, spec: LaunchSpec, identity: Identity) -> Process:
        """See `launchers.base`. Without an await inside: it happens wholly or not at all."""
        try:
            place, path = self._places.new_log(_slug(identity.model), identity.instance)
        except OSError as error:
            raise LaunchError(_why_not(spec, error)) from error
        entry = Entry(
            identity=identity,
            token=f"{place.id}:{identity.instance}:{secrets.token_hex(8)}",
            log=str(path),
            boot=procfs.boot_id(),
        )
        self._remember(entry)  # before the start: a router killed right after it must still know the token
        try:
            output = LogFile(path)
            try:
                return self._spawn(spec, entry, output)
            except OSError:
                output.detach()
                raise
        except OSError as error:
            self._forget(place, entry)
            raise LaunchError(_why_not(spec, error)) from error

    def hand_over(self, process: RunningProcess, identity: Identity) -> None:
        """See `launchers.base`."""
        assert isinstance(process, Process)
        process.identity = identity
        entry = self.running[process] = self.running[process].handed_over(identity)
        self._remember(entry)

    async def survivors(self) -> Sequence[Process]:
        """See `launchers.base`. Call it once, before the first start. Waits until what it ends is gone."""
        adopted: list[Process] = []
        ending: list[Awaitable[None]] = []
        carriers = _carriers()
        for state in self._places.inherited():
            for entry in Ledger(state.instances).entries():
                process = self._adopted(entry, carriers.pop(entry.token, []))
                if process is None:
                    ending.append(self._ended(state, entry))
                else:
                    adopted.append(process)
            ending += _ended_unknown(state, carriers)
        shared = list(abandoned(self._places.main))
        for state in shared:
            ending += self._cleared(state, carriers)
        for token in forgotten(self._places.main, carriers):
            log.warning("cannot take over what an earlier router started: the state folder that knew it is gone")
            ending.append(_ended_token(token, carriers[token]))
        await asyncio.gather(*ending)
        for state in shared:
            state.close()
        return adopted

    def _adopted(self, entry: Entry, carrying: Sequence[procfs.Stat]) -> Process | None:
        living = None if entry.leaving else _identify(entry, carrying)
        output = None if living is None else self._reopen(living)
        if living is None or output is None:
            return None
        if living is not entry:
            self._remember(living)
        return self._own(living, output, is_child=False)

    def _cleared(self, state: StateFolder, carriers: _Carriers) -> Iterator[Awaitable[None]]:
        """What a router left that shared our folder: it isn't coming back for it."""
        for entry in Ledger(state.instances).entries():
            carriers.pop(entry.token, None)
            yield self._ended(state, entry)
        yield from _ended_unknown(state, carriers)

    def close(self) -> None:
        """Let go of what still runs, without stopping it, and of the state folder. Idempotent."""
        for process in list(self.running):
            process.detach()
        self.running.clear()
        self._places.close()

    def _spawn(self, spec: LaunchSpec, entry: Entry, output: LogFile) -> Process:
        stdin_path = self._places.of(entry).stdin(entry.key)
        os.mkfifo(stdin_path, 0o600)
        # Opened for both directions, so that the engine itself holds the writing end: it never reads an end of file,
        # whatever becomes of us (llama.cpp exits at once on one), and a later router can still open and write it.
        with (
            os.fdopen(os.open(stdin_path, os.O_RDWR | os.O_CLOEXEC), "rb", buffering=0) as stdin,
            Path(entry.log).open("ab", buffering=0) as stdout,
        ):
            child = subprocess.Popen(
                spec.argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stdout,
                env={**_inherited(), **spec.env, TOKEN_VARIABLE: entry.token},
                cwd=spec.directory,
                start_new_session=True,
                close_fds=True,
            )
        # Reaped by `Process`. A Popen that thinks so too neither warns nor reaps behind our back when it is dropped.
        child.returncode = 0
        try:
            stat = procfs.read_stat(child.pid)
            entry = entry.completed(child.pid, stat.started if stat else 0)
            self._remember(entry)
            return self._own(entry, output, is_child=True)
        except OSError:
            os.killpg(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            raise

    def _own(self, entry: Entry, output: LogFile, *, is_child: bool) -> Process:
        process = Process(
            identity=entry.identity,
            pid=entry.pid,
            started=entry.started,
            token=entry.token,
            stdin=self._places.of(entry).stdin(entry.key),
            output=output,
            is_child=is_child,
            on_told=self._on_told,
            on_gone=self._on_gone,
        )
        self.running[process] = entry
        return process

    def _on_told(self, process: Process) -> None:
        entry = self.running[process] = self.running[process].told_to_leave()
        self._remember(entry)

    def _on_gone(self, process: Process) -> None:
        entry = self.running.pop(process)
        self._forget(self._places.of(entry), entry)

    def _remember(self, entry: Entry) -> None:
        place = self._places.of(entry)
        try:
            Ledger(place.instances).write(entry)
        except OSError as error:
            step = next_step(error, "let the router write there")
            log.warning("cannot write the ledger in %s: %s; a restarted router may not know how %s is; %s", place.path,
                        error, entry.identity.model, step)  # fmt: skip

    def _forget(self, state: StateFolder, entry: Entry) -> None:
        """The entry last: if we are killed in between, it leads the next router to the rest."""
        with contextlib.suppress(OSError):  # the ledger says it
            state.stdin(entry.key).unlink(missing_ok=True)
        Ledger(state.instances).remove(entry)

    def _reopen(self, entry: Entry) -> LogFile | None:
        try:
            return LogFile(Path(entry.log), from_end=True)
        except OSError as error:
            log.warning("cannot follow %s (%s): %s is stopped", entry.log, error, entry.identity.model)
            return None

    async def _ended(self, state: StateFolder, entry: Entry) -> None:
        group = entry.pid if entry.boot == procfs.boot_id() else 0
        find = partial(procfs.members, group, entry.started, TOKEN_VARIABLE, entry.token)
        await Remains(find, kill=True).gone
        self._forget(state, entry)


def _ended_unknown(state: StateFolder, carriers: _Carriers) -> Iterator[Awaitable[None]]:
    """Of this folder, and in none of its entries. Takes them out of `carriers`."""
    for token in [token for token in carriers if token.startswith(f"{state.id}:")]:
        yield _ended_token(token, carriers.pop(token))


async def _ended_token(token: str, carrying: Sequence[procfs.Stat]) -> None:
    log.warning("ending processes of an instance that the ledger doesn't know (%s)", token)
    leader = _leader(carrying)
    group, started = (leader.pid, leader.started) if leader else (0, 0)
    await Remains(partial(procfs.members, group, started, TOKEN_VARIABLE, token), kill=True).gone


def _carriers() -> _Carriers:
    """Living processes by the token that they carry, of whichever router."""
    found: _Carriers = {}
    for pid in procfs.pids():
        token = procfs.environment_value(pid, TOKEN_VARIABLE)
        if token is None or pid == os.getpid():
            continue
        stat = procfs.read_stat(pid)
        if stat is not None and stat.is_alive:
            found.setdefault(token, []).append(stat)
    return found


def _identify(entry: Entry, carrying: Sequence[procfs.Stat]) -> Entry | None:
    """The entry with its living leader: the process it names, or, where only the intent was written, the session
    leader that carries its token. None: it is gone."""
    if entry.pid:
        stat = procfs.read_stat(entry.pid)
        is_same = stat is not None and stat.is_alive and stat.started == entry.started
        return entry if is_same and entry.boot == procfs.boot_id() else None
    leader = _leader(carrying)
    return entry.completed(leader.pid, leader.started) if leader else None


def _leader(carrying: Sequence[procfs.Stat]) -> procfs.Stat | None:
    return next((stat for stat in carrying if stat.pid == stat.session), None)


def _inherited() -> dict[str, str]:
    """Our environment without what is ours alone: a child that says READY to systemd would speak for the router."""
    return {name: value for name, value in os.environ.items() if name not in _OURS_ALONE}


def _slug(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:60] or "model"


def _why_not(spec: LaunchSpec, error: OSError) -> str:
    program = spec.argv[0]
    path = Path(spec.directory or "", program)
    if spec.directory is not None and error.filename == spec.directory:
        return f"cannot start {program} in {spec.directory}: {error.strerror}; correct the folder it is to run in"
    if error.filename is not None and str(error.filename) != program:
        step = next_step(error, "check the state folder and its free space")
        return f"cannot start {program}: {error.filename}: {error.strerror}; {step}"
    if error.errno == errno.ENOENT and path.exists():
        return f"cannot start {program}: the interpreter named in its first line doesn't exist; correct that line"
    if error.errno == errno.ENOENT:
        return f"cannot start {program}: no such file; give the full path or install it"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f'cannot start {program}: it is not executable; run "chmod +x {program}"'
    if error.errno == errno.ENOEXEC:
        return f'cannot start {program}: it is not a program; if it is a script, begin it with "#!/bin/sh"'
    step = next_step(error, "see the router's log")
    return f"cannot start {program}: {error.strerror or error}; {step}"
