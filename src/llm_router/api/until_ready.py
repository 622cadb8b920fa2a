"""Who wants nothing of a model but that it is ready. Counterpart: `relay.exchange`, which sends a request on."""

from __future__ import annotations

import asyncio

from llm_router.errors import LlmRouterError
from llm_router.relay.lease import Dispatcher, Upstream


class UntilReady:
    """Implements `relay.lease.Waiter`: returns the lease at once. `outcome`: None, or why it isn't ready."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.outcome: asyncio.Future[LlmRouterError | None] = asyncio.get_running_loop().create_future()

    def granted(self, request: int, upstream: Upstream) -> None:
        self._dispatcher.close(request)
        self._end(None)

    def refused(self, error: LlmRouterError) -> None:
        self._end(error)

    def cut(self, error: LlmRouterError) -> None:
        self._end(error)

    def _end(self, error: LlmRouterError | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(error)
