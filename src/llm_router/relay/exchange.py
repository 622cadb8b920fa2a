"""One request's way through the router: read it, wait for a lease, send it on, relay the answer, close the lease.

The same code serves both sinks and all inference routes. It decides nothing about models: it asks the `Dispatcher`.
Everything happens in callbacks on the event loop; a request whose model is ready costs no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, time

from llm_router.errors import LlmRouterError, UpstreamError, UpstreamLost
from llm_router.relay import body as bodies
from llm_router.relay import headers as header_rules
from llm_router.relay.client import Call, Headers, Pool
from llm_router.relay.lease import Dispatcher, Upstream
from llm_router.relay.reply import rewrite_reply
from llm_router.relay.request import Kind, Model, Preferences, Request, Target, read, status_mode
from llm_router.relay.sink import Sink
from llm_router.relay.sse import StreamRewriter, error_events
from llm_router.relay.status_text import Mode, StatusStream

_SSE_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_HELD_REPLY = 8 * 1024 * 1024  # a larger JSON reply passes unchanged rather than being held in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What all exchanges share. `models` finds one by each of its names. `render` makes an HTTP reply of an error."""

    dispatcher: Dispatcher
    pool: Pool
    models: Mapping[str, Model]
    render: Callable[[LlmRouterError], tuple[int, Headers, bytes]]
    preferences: Preferences


class Exchange:
    """One request and its reply. Owned by its sink, which must call `client_gone` when the client leaves early."""

    __slots__ = (
        "_asked",
        "_attempt",
        "_body",
        "_call",
        "_headers",
        "_held",
        "_held_head",
        "_held_size",
        "_loop",
        "_paused",
        "_relayed",
        "_request",
        "_rewriter",
        "_sent_at",
        "_services",
        "_since",
        "_sink",
        "_started",
        "_status",
        "_target",
        "_ticker",
        "over",
    )

    def __init__(self, services: Services, sink: Sink, target: Target, headers: Headers) -> None:
        self._services = services
        self._sink = sink
        self._target = target
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        self._body: bytes = b""
        self._asked: Request | None = None
        self._request: int | None = None
        self._call: Call | None = None
        self._rewriter: StreamRewriter | None = None
        self._held: list[bytes] | None = None
        self._held_head: tuple[int, Headers] | None = None
        self._held_size = 0
        self._status: StatusStream | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._started = False  # the sink has a head
        self._relayed = False  # the client has something of the server's reply
        self._paused = False
        self._attempt = 1
        self._since = 0.0
        self._sent_at = 0.0
        self.over = False

    # -- from the sink

    def start(self, body: bytes) -> None:
        """The request is here, whole. Everything wrong with it is answered from here."""
        self._since = monotonic()
        self._body = body
        try:
            self._asked = read(
                self._target, dict(self._headers), body, self._services.models, self._services.preferences
            )
        except LlmRouterError as error:
            self._answer(error)
            return
        self._ask()

    def refuse(self, error: LlmRouterError) -> None:
        """The sink itself found the request wrong (its body too large, say)."""
        self._answer(error)

    def client_gone(self) -> None:
        """The client left, whatever the phase: free the server and the lease at once."""
        if not self.over:
            self._close(lost=False)

    def pause(self) -> None:
        """The client reads too slowly: stop reading from the server."""
        self._paused = True
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._call is not None:
            self._call.resume()

    # -- waiting for a lease

    def _ask(self) -> None:
        asked = self._asked
        assert asked is not None
        facts = asked.facts
        request = self._services.dispatcher.open(asked.model.name, request_class=asked.request_class, waiter=self)
        if self.over or self._call is not None:
            return
        self._request = request
        if facts is not None and facts.stream and self._status is None:
            mode = status_mode(self._target, dict(self._headers), facts, self._services.preferences)
            if mode is not Mode.OFF:
                created = int(time())
                self._status = StatusStream(mode, model=facts.model, id=f"chatcmpl-{created:x}", created=created)
        self._show()

    def _show(self) -> None:
        """Tell a streaming client what it waits for, now and every few seconds."""
        status, request = self._status, self._request
        if status is None or request is None or self.over:
            return
        progress = self._services.dispatcher.progress(request)
        if progress is None:
            return
        if not self._started:
            self._head(200, _SSE_HEADERS, None)
            self._sink.data(status.first(progress))
        else:
            self._sink.data(status.update(progress))
        self._ticker = self._loop.call_later(status.interval_s, self._show)

    def granted(self, request: int, upstream: Upstream) -> None:
        if self.over:
            self._services.dispatcher.close(request)
            return
        self._request = request
        if self._ticker is not None:
            self._stop_ticking()
        if self._started and self._status is not None:
            self._sink.data(self._status.ready(monotonic() - self._since))
        try:
            self._send(upstream)
        except LlmRouterError as error:
            self._answer(error)

    def refused(self, error: LlmRouterError) -> None:
        self._request = None
        self._answer(error)

    def cut(self, error: LlmRouterError) -> None:
        self._give_up(error, lost=False)

    # -- towards the server

    def _send(self, upstream: Upstream) -> None:
        target, asked, payload = self._target, self._asked, self._body
        assert asked is not None
        facts = asked.facts
        if facts is not None:
            payload = bodies.rewrite(
                payload,
                facts,
                served_name=upstream.served_name,
                ask_usage=target.kind in (Kind.CHAT, Kind.COMPLETION),
                parameters=asked.model.parameters,
            )
        block = header_rules.request_headers(
            self._headers, host=upstream.host_header, content_length=len(payload), credential=upstream.credential
        )
        request = b"".join((target.method, b" ", upstream.base_path, target.path, b" HTTP/1.1\r\n", block, payload))
        self._sent_at = monotonic()
        self._call = self._services.pool.send(upstream, request, self, without_body=target.method == b"HEAD")
        if self._paused:
            self._call.pause()

    # -- from the server

    def reply_head(self, status: int, headers: Mapping[bytes, bytes], length: int | None) -> None:
        assert self._asked is not None
        kind, facts = self._target.kind, self._asked.facts
        streamed = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        rewritable = status == 200 and facts is not None and kind in (Kind.CHAT, Kind.COMPLETION)
        if rewritable and streamed:
            assert facts is not None
            self._rewriter = StreamRewriter(
                chat=kind is Kind.CHAT,
                include_usage=facts.include_usage,
                performance=self._asked.performance,
                sent_at=self._sent_at,
            )
            if not self._started:
                self._head(200, header_rules.response_headers(headers.items()), None)
        elif self._started or (rewritable and (length is None or length <= _HELD_REPLY)):
            self._held = []
            self._held_head = (status, header_rules.response_headers(headers.items()))
        else:
            self._relayed = True
            self._head(status, header_rules.response_headers(headers.items()), length)

    def reply_data(self, data: bytes) -> None:
        rewriter = self._rewriter
        if rewriter is not None:
            known = rewriter.quickly(data)
            if known is not None:  # nearly every token, so nothing more is done for one
                rewriter.count += 1
                self._sink.data(known)
                return
            try:
                out = rewriter.feed(data, monotonic())
            except UpstreamError as error:
                self._give_up(error, lost=False)
                return
            if out:
                self._relayed = True
                self._sink.data(out)
        elif self._held is not None:
            self._held.append(data)
            self._held_size += len(data)
            if self._held_size > _HELD_REPLY:
                self._let_go()
        else:
            self._sink.data(data)

    def _let_go(self) -> None:
        """The reply is too large to be held: as it is, or not at all where the client waits for events."""
        assert self._held is not None and self._held_head is not None
        if self._started:
            self._give_up(UpstreamLost("cannot pass on an answer of this size that isn't a stream"), lost=False)
            return
        status, headers = self._held_head
        held, self._held = b"".join(self._held), None
        self._relayed = True
        self._head(status, headers, None)
        self._sink.data(held)

    def reply_end(self) -> None:
        self._call = None
        rewriter = self._rewriter
        if rewriter is not None and not (rewriter.finished or rewriter.done):
            # An engine that is being stopped may end its body neatly in the middle of the answer.
            self._give_up(UpstreamLost("cannot finish the answer: its server ended it half-way"), lost=False)
        elif self._held is not None:
            self._end_held(self._held[0] if len(self._held) == 1 else b"".join(self._held))
        else:
            self._finish(lost=False)

    def _finish(self, *, lost: bool) -> None:
        self._close(lost=lost)
        if self._rewriter is not None:
            self._sink.data(self._rewriter.finish(monotonic()))
        self._sink.end()

    def _end_held(self, held: bytes) -> None:
        """A reply in one piece: a JSON answer, or what a server says instead of the stream it was asked for."""
        assert self._held_head is not None and self._asked is not None
        status, headers = self._held_head
        self._close(lost=False)
        if self._started:
            message = bodies.error_message(held) or f"the server answered {status}"
            self._sink.data(self._failed(message, "upstream_error"))
            self._sink.end()
            return
        reply = rewrite_reply(
            held,
            chat=self._target.kind is Kind.CHAT,
            performance=self._asked.performance,
            sent_at=self._sent_at,
            now=monotonic(),
        )
        self._sink.reply(status, headers, reply)

    def reply_lost(self, error: LlmRouterError) -> None:
        self._call = None
        if self._attempt == 1 and not self._relayed and isinstance(error, UpstreamLost):
            # Nothing of the answer has reached the client, so it need not know: the request is sent once more.
            self._attempt = 2
            self._rewriter = self._held = self._held_head = None
            self._held_size = 0
            request, self._request = self._request, None
            assert request is not None
            self._services.dispatcher.close(request, lost=True)
            self._ask()
        elif self._rewriter is not None and self._rewriter.finished:
            self._finish(lost=True)  # the answer is whole; only its end mark is missing
        else:
            self._give_up(error, lost=True)

    # -- endings

    def _answer(self, error: LlmRouterError) -> None:
        """Before anything of an answer was sent: an error reply, or its place in a stream that has begun."""
        self._close(lost=False)
        if self._started:
            self._sink.data(self._failed(error.message, error.code))
        else:
            status, headers, payload = self._services.render(error)
            self._sink.reply(status, headers, payload)
            return
        self._sink.end()

    def _give_up(self, error: LlmRouterError, *, lost: bool) -> None:
        """The answer can't be finished. A stream says so and ends; everything else breaks off, which nobody can
        take for a complete answer."""
        if self.over:
            return
        rewriter = self._rewriter
        if rewriter is not None:
            self._close(lost=lost)
            self._sink.data(rewriter.fail(error.message, error.code))
            self._sink.end()
        elif self._relayed:
            self._close(lost=lost)
            self._sink.abort()
        else:
            if lost:
                self._close(lost=True)
            self._answer(error)

    def _failed(self, message: str, code: str) -> bytes:
        closing = self._status.failed(message) if self._status is not None else b""
        return closing + error_events(message, code)

    def _head(self, status: int, headers: Headers, length: int | None) -> None:
        self._started = True
        self._sink.head(status, headers, length)

    def _stop_ticking(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def _close(self, *, lost: bool) -> None:
        """Idempotent: no timer, no connection, no lease is left."""
        self.over = True
        if self._ticker is not None:
            self._stop_ticking()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._request is not None:
            request, self._request = self._request, None
            self._services.dispatcher.close(request, lost=lost)
