"""Serves a request of another dialect: translates it, has the relay see to it, and translates what the relay replies.

Everything between (waiting, leases, a second attempt, the client that leaves) is the relay's, as for OpenAI's clients.
Counterparts: `dialects`, which has the words; `relay.asgi`, which brings the bytes to the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Receive, Scope, Send

from llm_router.api.errors import render
from llm_router.api.timer import Timer
from llm_router.api.until_ready import UntilReady
from llm_router.dialects import completion
from llm_router.dialects.base import Translation
from llm_router.dialects.completion import Problem
from llm_router.errors import LlmRouterError, Unavailable, UnsupportedMediaType, UpstreamError, UpstreamLost
from llm_router.relay import failure
from llm_router.relay.asgi import AsgiSink, deliver, read_body
from llm_router.relay.events import Cutter, lines_of
from llm_router.relay.exchange import Exchange
from llm_router.relay.headers import Headers, RequestHead
from llm_router.relay.request import Preferences, Target
from llm_router.relay.services import Services
from llm_router.relay.sink import Sink
from llm_router.relay.status_text import Mode, is_open_webui

_LARGEST_REPLY = 256 * 1024 * 1024
_STATUS = b"x-llm-router-status"
# Written anew, or about the other dialect.
_DROPPED = frozenset(
    {b"content-type", b"accept", _STATUS, b"x-llm-router-performance", b"anthropic-version", b"anthropic-beta"}
)
_ABOUT_THE_BODY = frozenset({b"content-type", b"content-encoding", b"etag", b"last-modified"})
_JSON = (b"content-type", b"application/json")
_PREFERENCES = Preferences(status=Mode.COMMENT, performance=False)


@dataclass(slots=True, kw_only=True)
class Asked:
    """What is to be asked of the relay, and who translates the reply. `silent`: nothing is sent before the model is
    ready, so that a load that fails is an error reply and not one within a stream."""

    target: Target
    body: bytes
    translation: Translation
    silent: bool = False


class TranslatingSink:
    """Implements `relay.sink.Sink` before another one. `error`: the dialect's error reply, of a status and a problem.

    Replies in one piece are held until they are whole, and at most 256 MiB of them.
    """

    def __init__(self, sink: Sink, error: Callable[[int, Problem], bytes]) -> None:
        self._sink = sink
        self._error = error
        self._translation: Translation | None = None
        self._cutter: Cutter | None = None  # of a stream
        self._held: list[bytes] = []
        self._size = 0
        self._status = 200
        self._headers: Headers = []
        self._over = False

    def translate(self, translation: Translation) -> None:
        """Before anything else but an error."""
        self._translation = translation

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        translation = self._translation
        kept = [(name, value) for name, value in headers if name not in _ABOUT_THE_BODY]
        if status >= 400 or translation is None:
            said = failure.of_reply(body, status=status, model="this model").as_reply()
            self._sink.reply(status, [*kept, _JSON], self._error(status, completion.problem(said)))
            return
        try:
            if translation.streams:  # a server that doesn't stream
                whole = completion.read_whole(body)
                stream = translation.begin() + translation.chunk(whole) + translation.end()
                self._sink.reply(status, [*kept, (b"content-type", translation.media_type)], stream)
            else:
                self._sink.reply(status, [*kept, _JSON], translation.whole(body))
        except UpstreamError as error:
            self._translation = None
            self.reply(*render(error))

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        self._status, self._headers = status, headers
        is_stream = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        translation = self._translation
        if status == 200 and is_stream and translation is not None:
            self._cutter = Cutter()
            kept = [(name, value) for name, value in headers if name not in _ABOUT_THE_BODY]
            self._sink.head(200, [*kept, (b"content-type", translation.media_type)], None)
            self._write(translation.begin())

    def data(self, data: bytes) -> None:
        if self._cutter is not None:
            self._write(b"".join([self._event(event) for event in self._cutter.cut(data)]))
            return
        self._size += len(data)
        if self._size <= _LARGEST_REPLY:
            self._held.append(data)
        else:
            self._held.clear()

    def _event(self, event: bytes) -> bytes:
        translation = self._translation
        assert translation is not None
        if self._over:
            return b""
        _, values = lines_of(event)
        if not values:
            return translation.waiting()
        payload = b"\n".join(values)
        if payload.strip() == b"[DONE]":
            self._over = True
            return translation.end()
        said = completion.read(payload)
        if said.error is not None:
            self._over = True
            return translation.fail(said.error)
        return translation.chunk(said)

    def _write(self, data: bytes) -> None:
        if data:
            self._sink.data(data)

    def end(self) -> None:
        if self._cutter is not None:
            self._sink.end()
        elif self._size > _LARGEST_REPLY:
            self.reply(*render(UpstreamLost("cannot translate an answer of this size: ask for less at once")))
        else:
            self.reply(self._status, self._headers, b"".join(self._held))

    def abort(self) -> None:
        self._sink.abort()


class Conversation:
    """One request of another dialect. `error`: as `TranslatingSink`. `limit`: of the body, in bytes.

    `body` first, then one of `relay`, `answer` and `refuse`.
    """

    def __init__(
        self,
        services: Services,
        error: Callable[[int, Problem], bytes],
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        limit: int,
    ) -> None:
        self.timer = Timer(services.dispatcher)
        self._services = replace(services, dispatcher=self.timer, preferences=_PREFERENCES)
        self._pairs: Headers = [(name.lower(), value) for name, value in scope["headers"]]
        self._sink = AsgiSink()
        self._translating = TranslatingSink(self._sink, error)
        self._receive = receive
        self._send = send
        self._limit = limit

    async def body(self) -> bytes | None:
        """The whole body; None when the client left. Raises: RequestTooLarge, UnsupportedMediaType."""
        body = await read_body(self._receive, self._limit)
        _check_type(self._pairs)
        return body

    @property
    def is_open_webui(self) -> bool:
        return is_open_webui(dict(self._pairs))

    async def relay(self, asked: Asked) -> None:
        """Returns when the reply is complete or the client has left; then no lease is left open."""
        self._translating.translate(asked.translation)
        exchange = self._sink.exchange = Exchange(
            self._services, self._translating, asked.target, _head(self._pairs, silent=asked.silent)
        )
        exchange.start(asked.body)
        await deliver(self._sink, exchange, self._receive, self._send)

    async def answer(self, body: bytes, headers: Headers | None = None) -> None:
        """A reply that needs no inference server: JSON."""
        self._sink.reply(200, [_JSON, *(headers or [])], body)
        await self._sink.pump(self._send)

    async def refuse(self, error: LlmRouterError) -> None:
        self._translating.reply(*render(error))
        await self._sink.pump(self._send)

    def check(self, model: str) -> None:
        """Raises: what there is against this client's using the model, ready or not."""
        waiting = UntilReady(self.timer)
        self.timer.close(self.timer.open(model, request_class="aside", waiter=waiting))  # answered at once
        error = waiting.outcome.result() if waiting.outcome.done() else None
        if error is not None and not isinstance(error, Unavailable):
            raise error

    async def loaded(self, model: str) -> bool:
        """Wait until the model (by its canonical name) is ready. False: the client has left; the load goes on.

        Raises: LlmRouterError where it can't be made ready.
        """
        waiting = UntilReady(self.timer)
        request = self.timer.open(model, request_class="interactive", waiter=waiting)
        try:
            async with asyncio.TaskGroup() as tasks:
                watcher = tasks.create_task(self._left(), name="watch-client")
                either: list[asyncio.Future[Any]] = [waiting.outcome, watcher]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                watcher.cancel()
        finally:
            self.timer.close(request)
        if not waiting.outcome.done():
            return False
        error = waiting.outcome.result()
        if error is not None:
            raise error
        return True

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _check_type(pairs: Headers) -> None:
    """Many programs send JSON without saying so; but a web page may not, or any page could ask what it likes of a
    router that listens on the visitor's own machine: a browser asks first only before it sends a type like JSON's.

    Raises: UnsupportedMediaType.
    """
    fields = dict(pairs)
    if b"origin" in fields and b"json" not in fields.get(b"content-type", b"").lower():
        raise UnsupportedMediaType('cannot read this: send JSON with "Content-Type: application/json"')


def _head(pairs: Headers, *, silent: bool) -> RequestHead:
    """What the relay is to know of the client's headers. Waiting is told as comments, which the sink understands."""
    is_off = silent or dict(pairs).get(_STATUS, b"").strip().lower() == b"off"
    status = b"off" if is_off else b"comment"
    kept = [(name, value) for name, value in pairs if name not in _DROPPED]
    return RequestHead([*kept, _JSON, (_STATUS, status)])
