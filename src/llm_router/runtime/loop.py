"""Turns the handle: events go in one at a time, the scheduler decides, its commands are carried out in order.

All on one thread, synchronously: an event posted from inside a command waits in the inbox until that command is done,
so the scheduler never sees a state that is half changed, and a warm request costs no task switch.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from llm_router.core.commands import Command
from llm_router.core.events import Event
from llm_router.core.scheduler import Scheduler

_log = logging.getLogger(__name__)


class Handle:
    """`carry_out` is called with each command; one that fails costs itself only, with a logged traceback."""

    def __init__(self, scheduler: Scheduler, carry_out: Callable[[Command], None]) -> None:
        self.scheduler = scheduler
        self._carry_out = carry_out
        self._inbox: deque[Event] = deque()
        self._turning = False

    def post(self, event: Event) -> None:
        """Handle `event` now, or right after the one being handled."""
        self._inbox.append(event)
        if self._turning:
            return
        self._turning = True
        try:
            while self._inbox:
                for command in self.scheduler.handle(self._inbox.popleft()):
                    try:
                        self._carry_out(command)
                    except Exception:  # noqa: BLE001 -- one command must not cost the others
                        _log.exception("cannot carry out %r", command)
        finally:
            self._turning = False
