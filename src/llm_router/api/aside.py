"""Asks a model's server something on the side, for an answer that no client waits for as such.

It goes the way of every request (a lease, the server's own key), but never loads a model, nor waits for one: where the
model isn't ready, there is no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace

from llm_router.relay.exchange import Exchange
from llm_router.relay.headers import Headers, RequestHead
from llm_router.relay.lease import Dispatcher, Waiter
from llm_router.relay.request import Kind, Model, Target
from llm_router.relay.services import Services

_LIMIT_S = 10.0
_LARGEST = 8 * 1024 * 1024
_HEAD = RequestHead([(b"content-type", b"application/json")])


class _AsIs(Mapping[str, Model]):
    """The same models; what is asked of them goes as it is."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def __getitem__(self, name: str) -> Model:
        return replace(self._models[name], parameters=None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


class _Aside:
    """Implements `relay.lease.Dispatcher` before another one: whatever is asked is asked aside."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.close, self.suspect, self.progress = dispatcher.close, dispatcher.suspect, dispatcher.progress

    def open(self, model: str, *, request_class: str, waiter: Waiter) -> int:
        return self._dispatcher.open(model, request_class="aside", waiter=waiter)


class _Answer:
    """A sink that keeps the reply."""

    def __init__(self) -> None:
        self.complete: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._pieces: list[bytes] = []
        self._size = 0

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        if not self.complete.done():
            self.complete.set_result((status, body))

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        self._status = status

    def data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= _LARGEST:
            self._pieces.append(data)

    def end(self) -> None:
        self.reply(self._status if self._size <= _LARGEST else 0, [], b"".join(self._pieces))

    def abort(self) -> None:
        self.reply(0, [], b"")


async def ask(services: Services, path: bytes, body: bytes) -> tuple[int, bytes]:
    """POST `body`, which names the model, to `path` of its server. Returns status and body of the reply; 0: there is
    none worth reading.

    Waits ten seconds at most. Cancelling it leaves no lease.
    """
    answer = _Answer()
    # The kind of route where only the model's name is rewritten.
    target = Target(kind=Kind.EMBEDDING, method=b"POST", path=path)
    asking = replace(services, models=_AsIs(services.models), dispatcher=_Aside(services.dispatcher))
    exchange = Exchange(asking, answer, target, _HEAD)
    exchange.start(body)
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await answer.complete
    except TimeoutError:
        return 0, b""
    finally:
        exchange.client_gone()
