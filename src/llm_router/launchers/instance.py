"""One running child process: its exit noticed at once, its end carried out step by step.

Counterpart: `process`, which starts and adopts. Built on callbacks (pidfd, timers) instead of tasks, so that nobody's
cancellation leaves a stop half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from llm_router.backends.base import StopPlan
from llm_router.launchers import procfs
from llm_router.launchers.base import Identity
from llm_router.launchers.output import LogFile
from llm_router.launchers.remains import Remains

TOKEN_VARIABLE = "LLM_ROUTER_INSTANCE"  # noqa: S105 - a name


class Process:
    """Implements `launchers.base.RunningProcess`. `pid` leads its own session and group.

    `is_child`: ours to reap. It stays a zombie until all its group is gone: so long its number can't be given to a
    stranger whom we would then signal. `on_told` is called once, before it is told to end; `on_gone` once, when nothing
    of it is left.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        pid: int,
        started: int,
        token: str,
        stdin: Path,
        output: LogFile,
        is_child: bool,
        on_told: Callable[[Process], None],
        on_gone: Callable[[Process], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.identity = identity
        self.pid = pid
        self.output = output
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        self._started = started
        self._token = token
        self._stdin = stdin
        self._is_child = is_child
        self._on_told = on_told
        self._on_gone = on_gone
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._is_told = False
        self._is_out_of_patience = False
        self._remains: Remains | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    async def stop(self, plan: StopPlan) -> None:
        """See `launchers.base`. A later call adds its own deadlines: a shorter plan speeds up a running stop."""
        if not self._gone.done():
            if not self._is_told:
                self._is_told = True
                self._on_told(self)
                self._say(plan.farewell)
                self._send(signal.SIGTERM)
            if plan.second_term:
                self._timers.append(self._loop.call_later(plan.grace_s, self._send, signal.SIGTERM))
            kill_s = plan.grace_s + plan.kill_after_s
            self._timers.append(self._loop.call_later(kill_s, self._send, signal.SIGKILL))
        await asyncio.shield(self._gone)

    def detach(self) -> None:
        """Let go of it and leave it running, for the next router to adopt. Idempotent."""
        if self._gone.done():
            return
        self._cancel_timers()
        if self._remains is not None:
            self._remains.detach()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.output.detach()
        self._gone.set_result(None)

    def _say(self, line: str) -> None:
        """To its stdin, as far as it reads it: what it doesn't hear, the signals will tell it."""
        if not line:
            return
        with contextlib.suppress(OSError):
            fd = os.open(self._stdin, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)

    def _send(self, number: signal.Signals) -> None:
        self._is_out_of_patience |= number is signal.SIGKILL
        if self._remains is not None:
            self._remains.send(number)
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, 0)  # an adopted leader may be gone and its number given away
            os.killpg(self.pid, number)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        status = self._wait_status(os.WNOWAIT)
        self.output.catch_up()
        if not self.exited.done():  # cancelled by whoever awaited it bare
            self.exited.set_result(status)
        # A wrapper script dies of the first TERM while the engine it started still uses its grace; after a crash
        # there is nothing to wait for.
        is_over = not self._is_told or self._is_out_of_patience
        self._remains = Remains(self._find, kill=is_over, told_group=self.pid)
        self._remains.gone.add_done_callback(self._on_nothing_left)

    def _find(self) -> list[procfs.Stat]:
        return procfs.members(self.pid, self._started, TOKEN_VARIABLE, self._token)

    def _on_nothing_left(self, _: object) -> None:
        if self._gone.done():
            return
        self._cancel_timers()
        self._wait_status(0)
        os.close(self._pidfd)
        self.output.finish()
        self._on_gone(self)
        self._gone.set_result(None)

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _wait_status(self, option: int) -> int | None:
        """The exit status, negative for a signal; None where the process isn't our child."""
        if not self._is_child:
            return None
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | option)
        except ChildProcessError:  # someone else in this program waited for it
            return None
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
