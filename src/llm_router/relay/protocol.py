"""The relay inside uvicorn's own HTTP protocol: the hot routes, with no ASGI, task or queue between the two sockets.

Counterpart: `asgi`, which serves the same routes on public interfaces, and everything that this class passes on to
uvicorn: other paths, pipelined requests, HTTP/1.0. This leans on uvicorn's internals (`cycle`, `pipeline`, `flow`), so
uvicorn is pinned to a minor version and the same tests run against both sinks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llm_router.errors import LlmRouterError
from llm_router.relay import ids
from llm_router.relay.asgi import too_large
from llm_router.relay.exchange import Exchange
from llm_router.relay.gate import Caller, Gate, asking
from llm_router.relay.headers import RequestHead
from llm_router.relay.heads import KnownHead, learn
from llm_router.relay.hot_sink import HotSink
from llm_router.relay.request import Target
from llm_router.relay.services import Services

_HEAD_S = 30.0
_LINGER_S = 2.0
_HEAD_MAX = 64 * 1024
_HEADERS_MAX = 200
_LEARN_MAX = 8  # heads that are different each time aren't worth remembering
_TIMERS_GRAIN_S = 0.002


class _Known(NamedTuple):
    """A hot request's head as its bytes, and what llhttp made of it."""

    head: KnownHead
    target: Target
    client: RequestHead
    gate: Gate | None
    caller: Caller | None


class RelayProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the hot routes taken out. `bind` makes the class that a server can use."""

    services: Services
    targets: Mapping[bytes, Target]
    limit: int

    _hot: HotSink | None = None  # the hot request in progress, kept while a pipelined one replaces `cycle`
    _receiving = False  # the message being parsed is the hot one
    _client: RequestHead  # its headers
    _gate: Gate | None = None  # which has let it in
    _caller: Caller | None = None  # and what it said
    _known: _Known | None = None
    _learned = 0  # in vain, since one was seen again
    _quiet_since = 0.0  # when the last hot reply was complete
    _begun = _heard = 0  # messages that began and ended in this piece
    _awaited_since = 0.0  # when the wait for the rest of a request began; 0: for none
    _is_asking = False  # something of that has come
    _lingers_since = 0.0  # when he was turned away: what he still sends is read and forgotten; 0: he wasn't
    _in_head = True
    _head_size = 0

    # -- httptools' callbacks

    def data_received(self, data: bytes) -> None:
        known = self._known
        if known is not None:
            body = known.head.body(data)
            if (
                body is not None
                and len(body) <= self.limit
                and self._hot is not None
                and self._hot.response_complete
                and known.gate is self.services.gate
            ):
                self._learned = 0
                if asking.get() is not known.caller:
                    asking.set(known.caller)
                self._begin(known.target, known.client).exchange.start(body)
                return
        if self._lingers_since:
            return
        self._begun = self._heard = 0
        super().data_received(data)
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > _HEAD_MAX:
                self._turn_away(431)
                return
        if self._begun == self._heard == 1 and self._learned < _LEARN_MAX:
            self._learn(data)
        else:
            self._known = None

    def _learn(self, data: bytes) -> None:
        """Remember the head of this request, which came in one piece and is the last thing that llhttp has seen."""
        self._learned += 1
        sink = self._hot
        usual = self._receiving and sink is not None and sink.keep_alive and not self.expect_100_continue
        admitted = self._gate is self.services.gate
        head = learn(data) if usual and admitted else None
        self._known = None
        if head is not None:
            self._known = _Known(head, self.targets[self.url], self._client, self._gate, self._caller)

    def on_message_begin(self) -> None:
        self._begun += 1
        self._is_asking = self._in_head = True
        self._head_size = 0
        if not self._awaited_since:
            self._awaited_since = self.loop.time()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._receiving = False

    def on_headers_complete(self) -> None:
        target, gate = self.targets.get(self.url), self.services.gate
        parser = self.parser
        if len(self.headers) > _HEADERS_MAX:
            self._turn_away(431)
            self._forget_the_rest()
            return
        self._in_head = False
        if (
            target is None
            or parser.get_method() != b"POST"
            or (self.cycle is not None and not self.cycle.response_complete)
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
            or (gate is not None and gate.for_browsers and any(name == b"origin" for name, _ in self.headers))
        ):
            self._pass_on()
            return
        self._receiving = True
        self._client = RequestHead(self.headers)
        sink = self._begin(target, self._client)
        if gate is not None and not self._is_admitted(gate, sink):
            return
        if self.expect_100_continue:
            if int(dict(self.headers).get(b"content-length", b"0")) > self.limit:
                # Whether the body comes after all nobody knows, so nothing can follow on this connection.
                sink.keep_alive = False
                sink.exchange.refuse(too_large(self.limit))
            else:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _is_admitted(self, gate: Gate, sink: HotSink) -> bool:
        """If not, he has his answer, and what he still sends is read and forgotten."""
        self._gate = self._caller = None
        try:
            self._caller = gate.admit(self._client.fields)
        except LlmRouterError as error:
            if self.expect_100_continue:
                sink.keep_alive = False  # whether the body comes after all nobody knows
            sink.exchange.refuse(error)
            return False
        self._gate = gate
        return True

    def _begin(self, target: Target, client: RequestHead) -> HotSink:
        sink = self._hot = HotSink(self, ids.of_request(client.fields))
        self.cycle = sink  # type: ignore[assignment]
        sink.exchange = Exchange(self.services, sink, target, client)
        return sink

    def _pass_on(self) -> None:
        """Give the request to uvicorn, whose `on_message_begin` prepares what its `on_headers_complete` needs."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._receiving:
            super().on_body(body)
            return
        sink = self._hot
        assert sink is not None
        if sink.response_complete:  # refused already: what still comes is read and forgotten
            return
        sink.size += len(body)
        if sink.size > self.limit:
            sink.body.clear()
            sink.exchange.refuse(too_large(self.limit))
        else:
            sink.body.append(body)

    def on_message_complete(self) -> None:
        self._heard += 1
        self._awaited_since = 0.0
        self._is_asking = False
        if not self._receiving:
            super().on_message_complete()
            return
        sink = self._hot
        assert sink is not None
        if not sink.response_complete:
            sink.keep_alive = self.parser.should_keep_alive()  # right only here
            body = sink.body[0] if len(sink.body) == 1 else b"".join(sink.body)
            sink.body.clear()
            if asking.get() is not self._caller:
                asking.set(self._caller)
            sink.exchange.start(body)

    # -- keeping a connection

    def on_hot_complete(self) -> None:
        """uvicorn's `on_response_complete`, but a timer that is running goes on: a new one costs a lot."""
        if self.pipeline or self.timeout_keep_alive_task is None:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
        self._quiet_since = self.loop.time()

    def timeout_keep_alive_handler(self) -> None:
        """Closes the connection if it has been quiet all the time; else goes on for what is left of it."""
        busy = self.cycle is not None and not self.cycle.response_complete
        left_s = self.timeout_keep_alive - (0.0 if busy else self.loop.time() - self._quiet_since)
        if left_s <= _TIMERS_GRAIN_S:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    # -- clients that take their time

    def expire(self, now: float, limit_s: float) -> None:
        """Ends a connection whose client has been sending a request for longer than this, or its head for longer than
        half a minute: whoever sends a byte now and then would hold it for ever. `now`: the loop's time."""
        if self._lingers_since and now - self._lingers_since > _LINGER_S:
            self.transport.abort()
        since = self._awaited_since
        if since and now - since > (min(_HEAD_S, limit_s) if self._in_head else limit_s):
            self._turn_away(408)

    def _turn_away(self, status: int) -> None:
        """Without a word where nothing was asked yet, or something else is being answered."""
        cycle = self.cycle
        self._awaited_since = 0.0
        self._known = None
        if self.transport.is_closing():
            return
        is_free = cycle is None or cycle.response_complete
        is_mute = is_free if self._in_head else not is_free and not getattr(cycle, "response_started", False)
        if not (self._is_asking and is_mute):
            self.transport.close()
            return
        # Closing at once would throw away what the client has yet to read, if he is still sending.
        self.transport.write(STATUS_LINE[status] + b"connection: close\r\ncontent-length: 0\r\n\r\n")
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._lingers_since = self.loop.time()

    def _forget_the_rest(self) -> None:
        """What llhttp still has of this request."""
        self._receiving = True
        sink = self._hot = HotSink(self, b"")
        sink.response_complete = True
        self.cycle = sink  # type: ignore[assignment]

    # -- asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._awaited_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        sink = self._hot
        if sink is not None and not sink.response_complete:
            sink.disconnected = True
            sink.exchange.client_gone()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._hot is not None and not self._hot.response_complete:
            self._hot.exchange.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._hot is not None and not self._hot.response_complete:
            self._hot.exchange.resume()


def bind(services: Services, targets: Mapping[bytes, Target], limit: int) -> type[RelayProtocol]:
    """The protocol class for one server. `targets`: by path. `limit`: of a request's body, in bytes."""
    return type("BoundRelayProtocol", (RelayProtocol,), {"services": services, "targets": targets, "limit": limit})
