"""The relay inside uvicorn's own HTTP protocol: the hot routes, with no ASGI, task or queue between the two sockets.

Counterpart: `asgi`, which serves the same routes on public interfaces, and everything that this class passes on to
uvicorn: other paths, pipelined requests, HTTP/1.0. This leans on uvicorn's internals (`cycle`, `pipeline`, `flow`), so
uvicorn is pinned to a minor version and the same tests run against both sinks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llm_router.relay.asgi import too_large
from llm_router.relay.client import Headers
from llm_router.relay.exchange import Exchange, Services
from llm_router.relay.headers import RequestHead
from llm_router.relay.heads import KnownHead, learn
from llm_router.relay.request import Target

# Ready-made, because formatting one costs as much as everything else that is done for a token here.
_LEARN_MAX = 8  # heads that are different each time aren't worth remembering
_TIMERS_GRAIN_S = 0.002
_USUAL = 2048
_CHUNK_HEADS = [b"%x\r\n" % size for size in range(_USUAL)]


class _Nobody:
    """Stands in for the event of an ASGI cycle: nothing waits here, the exchange is called directly."""

    def set(self) -> None:
        """uvicorn calls this when the connection is lost."""


_NOBODY = _Nobody()


class ProtocolSink:
    """One request on a hot route. uvicorn takes it for its request-response cycle, hence the public attributes."""

    __slots__ = (
        "_chunked",
        "_protocol",
        "_write",
        "body",
        "disconnected",
        "exchange",
        "keep_alive",
        "message_event",
        "response_complete",
        "size",
    )

    def __init__(self, protocol: RelayProtocol) -> None:
        self._protocol = protocol
        self._write = protocol.transport.write
        self._chunked = False
        self.body: list[bytes] = []
        self.size = 0
        self.disconnected = False
        self.response_complete = False
        self.keep_alive = True
        self.message_event = _NOBODY
        self.exchange: Exchange

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self._write(self._head(status, headers, len(body)) + body)  # one write, one system call
        self.end()

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        self._write(self._head(status, headers, length))

    def _head(self, status: int, headers: Headers, length: int | None) -> bytes:
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if length is not None:
            parts.append(b"content-length: %d\r\n" % length)
        elif status not in (204, 304):
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(parts)

    def data(self, data: bytes) -> None:
        if self._chunked:
            size = len(data)
            if size == 0:
                return  # an empty chunk would be the end
            head = _CHUNK_HEADS[size] if size < _USUAL else b"%x\r\n" % size
            self._write(b"".join((head, data, b"\r\n")))
        else:
            self._write(data)

    def end(self) -> None:
        if self._chunked:
            self._write(b"0\r\n\r\n")
        self.response_complete = True
        del self.exchange  # it knows us: a cycle that only the collector would find, once for each request
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_hot_complete()

    def abort(self) -> None:
        self.response_complete = True
        del self.exchange
        self._protocol.transport.abort()


class _Known(NamedTuple):
    """A hot request's head as its bytes, and what llhttp made of it."""

    head: KnownHead
    target: Target
    client: RequestHead


class RelayProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the hot routes taken out. `bind` makes the class that a server can use."""

    services: Services
    targets: Mapping[bytes, Target]
    limit: int

    _hot: ProtocolSink | None = None  # the hot request in progress, kept while a pipelined one replaces `cycle`
    _receiving = False  # the message being parsed is the hot one
    _client: RequestHead  # its headers
    _known: _Known | None = None
    _learned = 0  # in vain, since one was seen again
    _quiet_since = 0.0  # when the last hot reply was complete
    _begun = _heard = 0  # messages that began and ended in this piece

    # -- httptools' callbacks

    def data_received(self, data: bytes) -> None:
        known = self._known
        if known is not None:
            body = known.head.body(data)
            if body is not None and len(body) <= self.limit and self._hot is not None and self._hot.response_complete:
                self._learned = 0
                self._begin(known.target, known.client).exchange.start(body)
                return
        self._begun = self._heard = 0
        super().data_received(data)
        if self._begun == self._heard == 1 and self._learned < _LEARN_MAX:
            self._learn(data)
        else:
            self._known = None

    def _learn(self, data: bytes) -> None:
        """Remember the head of this request, which came in one piece and is the last thing that llhttp has seen."""
        self._learned += 1
        sink = self._hot
        usual = self._receiving and sink is not None and sink.keep_alive and not self.expect_100_continue
        head = learn(data) if usual else None
        self._known = _Known(head, self.targets[self.url], self._client) if head is not None else None

    def on_message_begin(self) -> None:
        self._begun += 1
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._receiving = False

    def on_headers_complete(self) -> None:
        target = self.targets.get(self.url)
        parser = self.parser
        if (
            target is None
            or parser.get_method() != b"POST"
            or (self.cycle is not None and not self.cycle.response_complete)
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
        ):
            self._pass_on()
            return
        self._receiving = True
        self._client = RequestHead(self.headers)
        sink = self._begin(target, self._client)
        if self.expect_100_continue:
            if int(dict(self.headers).get(b"content-length", b"0")) > self.limit:
                # Whether the body comes after all nobody knows, so nothing can follow on this connection.
                sink.keep_alive = False
                sink.exchange.refuse(too_large(self.limit))
            else:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _begin(self, target: Target, client: RequestHead) -> ProtocolSink:
        sink = self._hot = ProtocolSink(self)
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
        if not self._receiving:
            super().on_message_complete()
            return
        sink = self._hot
        assert sink is not None
        if not sink.response_complete:
            sink.keep_alive = self.parser.should_keep_alive()  # right only here
            body = sink.body[0] if len(sink.body) == 1 else b"".join(sink.body)
            sink.body.clear()
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

    # -- asyncio's callbacks

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
