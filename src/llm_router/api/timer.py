"""How long one request waited for its model, and what is done as soon as it has it. Counterpart: `converse`, which puts
it between the relay and the dispatcher."""

from __future__ import annotations

import time
from collections.abc import Callable

from llm_router.errors import LlmRouterError
from llm_router.relay.lease import Dispatcher, Upstream, Waiter
from llm_router.relay.status_text import Progress


class Timer:
    """Implements `dialects.ollama_reply.Clock`, and `Dispatcher`: it sees when the lease is asked for and granted.

    `on_granted`: called with each lease that this request is granted. `was_granted`: whether there was one.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._timed: _Timed | None = None
        self.on_granted: Callable[[], None] | None = None
        self.was_granted = False
        self._began = time.monotonic()
        self._granted = self._began

    def wall_s(self) -> float:
        return time.time()

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def loading_s(self) -> float:
        return self._granted - self._began

    def open(self, model: str, *, request_class: str, waiter: Waiter) -> int:
        if self._timed is None or self._timed.waiter is not waiter:  # who asks again is still the same
            self._timed = _Timed(self, waiter)
        return self._dispatcher.open(model, request_class=request_class, waiter=self._timed)

    def close(self, request: int, *, lost: bool = False) -> None:
        self._dispatcher.close(request, lost=lost)

    def suspect(self, instance: int) -> None:
        self._dispatcher.suspect(instance)

    def progress(self, request: int) -> Progress | None:
        return self._dispatcher.progress(request)

    def granted(self) -> None:
        self._granted = time.monotonic()
        self.was_granted = True
        if self.on_granted is not None:
            self.on_granted()


class _Timed:
    """A waiter that tells the timer first."""

    def __init__(self, timer: Timer, waiter: Waiter) -> None:
        self._timer = timer
        self.waiter = waiter

    def granted(self, request: int, upstream: Upstream) -> None:
        self._timer.granted()
        self.waiter.granted(request, upstream)

    def refused(self, error: LlmRouterError) -> None:
        self.waiter.refused(error)

    def cut(self, error: LlmRouterError) -> None:
        self.waiter.cut(error)
