"""The relay as a plain ASGI application: on public interfaces only, for every server and for what `protocol` can't take
(pipelined and HTTP/1.0 requests, `/upstream/…`). Counterpart: `protocol`."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message, Receive, Scope, Send

from llm_router.errors import RequestTooLarge
from llm_router.relay.exchange import Exchange
from llm_router.relay.headers import Headers, RequestHead
from llm_router.relay.request import Target
from llm_router.relay.services import Services

_HIGH_WATER = 64 * 1024


class AsgiSink:
    """Collects what an exchange writes; `pump` sends it at the client's pace and slows the server down to it."""

    exchange: Exchange

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._bytes = 0
        self._aborted = False
        self._paused = False

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.head(status, headers, len(body))
        self.data(body)
        self.end()

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        fields = headers if length is None else [*headers, (b"content-length", b"%d" % length)]
        self._put({"type": "http.response.start", "status": status, "headers": fields})

    def data(self, data: bytes) -> None:
        if not data:
            return
        self._bytes += len(data)
        if self._bytes > _HIGH_WATER and not self._paused:
            self._paused = True
            self.exchange.pause()
        self._put({"type": "http.response.body", "body": data, "more_body": True})

    def end(self) -> None:
        self._put({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        self._aborted = True
        self._wake.set()

    def _put(self, message: Message) -> None:
        self._messages.append(message)
        self._wake.set()

    async def pump(self, send: Send) -> None:
        """Send until the reply is complete or broken. Cancelling it leaves the exchange to its owner."""
        while True:
            while self._messages:
                message = self._messages.popleft()
                await send(message)
                self._bytes -= len(message.get("body", b""))
                if message["type"] == "http.response.body" and not message["more_body"]:
                    return
            if self._paused:
                self._paused = False
                self.exchange.resume()
            if self._aborted:
                return  # a reply without its end: the server breaks the connection
            self._wake.clear()
            await self._wake.wait()


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None when the client left. Raises: RequestTooLarge beyond `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f'cannot take a request body of more than {limit} bytes: send less, or raise "max_body" in the configuration'
    )


async def relay(services: Services, target: Target, scope: Scope, receive: Receive, send: Send, *, limit: int) -> None:
    """Serve one request. Returns when the reply is complete or the client has left; then no lease is left open."""
    sink = AsgiSink()
    exchange = sink.exchange = Exchange(services, sink, target, RequestHead(list(scope["headers"])))
    try:
        body = await read_body(receive, limit)
    except RequestTooLarge as error:
        exchange.refuse(error)
    else:
        if body is None:
            return
        exchange.start(body)
    await deliver(sink, exchange, receive, send)


async def deliver(sink: AsgiSink, exchange: Exchange, receive: Receive, send: Send) -> None:
    """What follows `Exchange.start` or `.refuse`. Returns when the reply is complete or the client has left; then no
    lease is left open, and cancelling it leaves none either."""
    try:
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(_watch(receive, exchange), name="watch-client")
            pump = tasks.create_task(sink.pump(send), name="pump")
            watcher.add_done_callback(lambda _: pump.cancel())
            pump.add_done_callback(lambda _: watcher.cancel())
    finally:
        exchange.client_gone()


async def _watch(receive: Receive, exchange: Exchange) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.client_gone()
