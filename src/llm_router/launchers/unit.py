"""One running systemd unit: its end noticed at once, whoever caused it, and its stop carried out step by step.

Counterpart: `systemd`, which starts and adopts. The main process is watched through a pidfd, the unit through systemd's
own signals; the first of them counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from llm_router.backends.base import StopPlan
from llm_router.errors import LaunchError
from llm_router.launchers.base import Identity
from llm_router.launchers.journal import Journal

log = logging.getLogger(__name__)


def unit_name(service: str) -> str:
    """As systemctl reads it: a name without a suffix is a service's."""
    return service if service.endswith(".service") else f"{service}.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """A unit as systemd sees it. `pid`: of its main process, 0: none. `started_us`: when that began, microseconds since
    1970. `status`: how it ended, a signal as a negative number; None: it runs, or never did.

    `result`: systemd's word for how the unit's last run ended, as "exit-code" or "start-limit-hit".
    """

    load: str
    active: str
    pid: int = 0
    started_us: int = 0
    status: int | None = None
    result: str = "success"

    @property
    def is_up(self) -> bool:
        """It runs, or is about to."""
        return self.active in ("active", "activating", "reloading")


class UnitManager(Protocol):
    """What is needed of `manager.Manager`; see there."""

    is_own: bool

    async def state(self, unit: str) -> UnitState: ...
    async def begin(self, verb: str, unit: str) -> asyncio.Future[str]: ...
    async def kill(self, unit: str, number: int) -> None: ...
    async def forgive(self, unit: str) -> None: ...
    async def watch(self, unit: str, on_change: Callable[[], None]) -> Callable[[], None]: ...
    async def like(self, unit: str) -> str | None: ...
    def close(self) -> None: ...


class Unit:
    """Implements `launchers.base.RunningProcess`. `pid`: the unit's main process.

    `unwatch` ends what tells it of changes: `look` is to be called on each. `on_told` is called once, before it is told
    to end; `on_gone` once, when nothing of it is left.
    """

    def __init__(
        self,
        *,
        name: str,
        identity: Identity,
        pid: int,
        manager: UnitManager,
        output: Journal,
        on_told: Callable[[Unit], None],
        on_gone: Callable[[Unit], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.name = name
        self.identity = identity
        self.pid = pid
        self.output = output
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        self.unwatch: Callable[[], None] = lambda: None
        self._manager = manager
        self._on_told = on_told
        self._on_gone = on_gone
        self._stopping: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._is_gone = False
        self._timers: list[asyncio.TimerHandle] = []
        self._chores: set[asyncio.Task[None]] = set()
        self._pidfd: int | None = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    async def stop(self, plan: StopPlan) -> None:
        """See `launchers.base`. TERM, and KILL after the unit's own TimeoutStopSec, are systemd's; a plan that is
        shorter goes before. A later call adds its own deadlines. Raises: LaunchError where systemd refuses."""
        if self._is_gone:
            return
        if self._stopping is None or (self._stopping.done() and not self._is_gone):
            self._on_told(self)
            self._stopping = self._spawn(self._stop())
        if plan.second_term:
            self._timers.append(self._loop.call_later(plan.grace_s, self._send, signal.SIGTERM))
        kill_s = plan.grace_s + plan.kill_after_s
        self._timers.append(self._loop.call_later(kill_s, self._send, signal.SIGKILL))
        await asyncio.shield(self._stopping)

    def look(self) -> None:
        """Something of the unit changed: see whether it still runs its process."""
        if self._looking is not None and not self._looking.done():
            self._look_again = True
        elif not self.exited.done() and not self._is_gone:
            self._looking = self._spawn(self._look())

    def detach(self) -> None:
        """Let go of it and leave it running, for the next router to adopt. Idempotent."""
        if self._is_gone:
            return
        self._let_go()
        self.output.detach()

    async def _stop(self) -> None:
        """Also after a crash: systemd might be about to start it again by itself."""
        try:
            await self._job("Stop")
        finally:
            self._cancel_timers()
        state = await self._state()
        self._note_exit(None if state is None else state.status)
        self._let_go()
        self.output.finish()
        self._on_gone(self)

    async def _job(self, verb: str) -> None:
        job = await self._manager.begin(verb, self.name)
        await asyncio.wait([job])
        state = await self._state()
        if state is not None and state.is_up and state.pid:
            raise LaunchError(
                f"cannot stop {self.name}: systemd says “{job.result()}”, and it still runs as pid {state.pid}; "
                f"see `systemctl status {self.name}`"
            )

    async def _look(self) -> None:
        while True:
            self._look_again = False
            state = await self._state()
            if state is None and self._pidfd is not None:
                return  # systemd can't be asked; the process will tell
            if state is None or state.pid != self.pid:
                if self._stopping is None:
                    await self.output.last_words()
                self._note_exit(None if state is None else state.status)
                return
            if not self._look_again:
                return

    async def _state(self) -> UnitState | None:
        try:
            return await self._manager.state(self.name)
        except LaunchError as error:
            log.warning("%s", error)
            return None

    def _on_exit(self) -> None:
        """The kernel says so before systemd does; how it ended, only systemd knows, which reaps it: moments later."""
        assert self._pidfd is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = None
        self.look()

    def _note_exit(self, status: int | None) -> None:
        if not self.exited.done():
            self.exited.set_result(status)

    def _send(self, number: signal.Signals) -> None:
        self._spawn(self._kill(number))

    async def _kill(self, number: signal.Signals) -> None:
        try:
            await self._manager.kill(self.name, number)
        except LaunchError as error:
            log.debug("%s", error)  # it has ended meanwhile, or its own TimeoutStopSec must do

    def _let_go(self) -> None:
        self._is_gone = True
        self._cancel_timers()
        self.unwatch()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Owned by the unit; whoever cancels the wait for it doesn't stop it."""
        task = self._loop.create_task(work, name=f"unit-{self.name}")
        self._chores.add(task)
        task.add_done_callback(partial(_ended, self._chores))
        return task


def _ended(chores: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    chores.discard(task)
    with contextlib.suppress(asyncio.CancelledError):
        if (error := task.exception()) is not None and not isinstance(error, LaunchError):
            log.error("%s crashed", task.get_name(), exc_info=error)
