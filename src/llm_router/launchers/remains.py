"""Ends what is left of an instance's processes and tells when nothing is.

Counterpart: `process`, which knows the leader and when to be harsher; `procfs` finds the processes. Callbacks on the
running loop and no task, so that cancelling whoever waits doesn't stop the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence

from llm_router.launchers import procfs
from llm_router.launchers.remedies import next_step

log = logging.getLogger(__name__)

# Until the next look, where the system refused one: there are no files to be had now.
_AGAIN_S = 0.1


class Remains:
    """Watches all that `find` returns until it returns nothing any more; looks again each time the watched are gone,
    since they may have had children meanwhile.

    `told_group`: its members have had a TERM already, and a second one means "at once" to some engines.
    `gone` is done when nothing is left.
    """

    def __init__(self, find: Callable[[], Sequence[procfs.Stat]], *, kill: bool, told_group: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._find = find
        self._signal = signal.SIGKILL if kill else signal.SIGTERM
        self._told_group = told_group
        self._told: set[int] = set()
        self._out_of_reach: set[int] = set()
        self._watched: dict[int, int] = {}  # pidfd -> pid
        self._later: asyncio.TimerHandle | None = None
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._look()

    def send(self, number: signal.Signals) -> None:
        """To everything watched. After a KILL, what is found later is killed too."""
        if number is signal.SIGKILL:
            self._signal = number
        for pidfd, pid in self._watched.items():
            self._send(pidfd, pid, number)

    def detach(self) -> None:
        """Stop watching; leaves the processes as they are."""
        if self._later is not None:
            self._later.cancel()
        for pidfd in list(self._watched):
            self._forget(pidfd)

    def _look(self) -> None:
        try:
            self._look_now()
        except OSError as error:
            if self._later is None:
                step = next_step(error, "it is tried again and again")
                log.warning("cannot see whether all processes of a server are gone: %s; %s", error, step)
            self._later = self._loop.call_later(_AGAIN_S, self._look)

    def _look_now(self) -> None:
        while not self._watched:
            found = [stat for stat in self._find() if stat.pid not in self._out_of_reach]
            if not found:
                self.gone.set_result(None)
                return
            for stat in found:
                self._watch(stat)

    def _watch(self, stat: procfs.Stat) -> None:
        try:
            pidfd = os.pidfd_open(stat.pid)
        except ProcessLookupError:
            return
        try:
            now = procfs.read_stat(stat.pid, strict=True)
        except OSError:
            os.close(pidfd)
            raise
        if now is None or now.started != stat.started or not self._tell(pidfd, stat):
            os.close(pidfd)
            return
        self._watched[pidfd] = stat.pid
        self._loop.add_reader(pidfd, self._on_end, pidfd)

    def _tell(self, pidfd: int, stat: procfs.Stat) -> bool:
        if self._signal is not signal.SIGKILL and (stat.group == self._told_group or stat.pid in self._told):
            return True
        self._told.add(stat.pid)
        return self._send(pidfd, stat.pid, self._signal)

    def _send(self, pidfd: int, pid: int, number: signal.Signals) -> bool:
        with contextlib.suppress(ProcessLookupError):
            try:
                signal.pidfd_send_signal(pidfd, number)
            except PermissionError:
                log.warning("cannot end %s: it runs as another user; end it by hand", procfs.describe(pid))
                self._out_of_reach.add(pid)
                return False
        return True

    def _on_end(self, pidfd: int) -> None:
        self._forget(pidfd)
        if not self._watched:
            self._look()

    def _forget(self, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        del self._watched[pidfd]
        os.close(pidfd)
