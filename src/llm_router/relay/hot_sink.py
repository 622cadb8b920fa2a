"""The reply to one hot request on its way to the client, straight into the connection.

Implements `sink.Sink`. Counterparts: `protocol`, whose connection it is; `asgi`, which has the sink for other routes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from llm_router.relay.exchange import Exchange
from llm_router.relay.headers import Headers
from llm_router.relay.lane import Write, framed

_log = logging.getLogger(__name__)


class ClientConnection(Protocol):
    """Where the request came from, and the reply goes."""

    transport: asyncio.Transport

    def on_hot_complete(self) -> None:
        """The reply is written, and the next request may come."""


class _Nobody:
    """Stands in for the event of an ASGI cycle: nothing waits here, the exchange is called directly."""

    def set(self) -> None:
        """uvicorn calls this when the connection is lost."""


_NOBODY = _Nobody()


class HotSink:
    """One request on a hot route. uvicorn takes it for its request-response cycle, hence the public attributes."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_write",
        "body",
        "disconnected",
        "exchange",
        "keep_alive",
        "message_event",
        "number",
        "response_complete",
        "size",
    )

    def __init__(self, connection: ClientConnection, number: bytes) -> None:
        self.number = number
        self._connection = connection
        self._write = connection.transport.write
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

    def head(self, status: int, headers: Headers, length: int | None) -> Write | None:
        self._write(self._head(status, headers, length))
        return self._write if self._chunked else None

    def _head(self, status: int, headers: Headers, length: int | None) -> bytes:
        parts = [STATUS_LINE[status], b"x-request-id: ", self.number, b"\r\n"]
        if status >= 500:
            number = self.number.decode()
            _log.info("request %s: %d", number, status, extra={"request_id": number})
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
            if data:  # an empty chunk would be the end
                self._write(framed(data))
        else:
            self._write(data)

    def end(self) -> None:
        if self._chunked:
            self._write(b"0\r\n\r\n")
        self.response_complete = True
        del self.exchange  # it knows us: a cycle that only the collector would find, once for each request
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_hot_complete()

    def abort(self) -> None:
        self.response_complete = True
        del self.exchange
        self._connection.transport.abort()
