"""One HTTP/1.1 connection to an inference server, and a reply on its way through it.

Counterparts: `pool`, which keeps the connections, and `exchange`, which decides what a reply means. Every byte of a
reply passes llhttp before anything is made of it, or is compared with bytes that did; and the client gets our own
framing, so that bytes after the end of a reply can never reach anyone.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol, cast

import httptools

from llm_router.errors import LlmRouterError, UpstreamGarbage, UpstreamLost, UpstreamTimeout
from llm_router.relay.headers import ReplyHead
from llm_router.relay.heads import KnownHead, learn
from llm_router.relay.lane import Lane, is_whole
from llm_router.relay.lease import Upstream

_IDLE_S = 30.0  # shorter than any engine's keep-alive we know; a connection that died sooner is retried
_LEARN_MAX = 8  # heads that are different each time aren't worth remembering
_LANES_MAX = 8  # nor is what a stream looks like that looks different each time
_MAX_HEAD = 8 * 1024 * 1024  # bytes until a head is complete, which may come with its whole body


class Reply(Protocol):
    """Who receives a reply. Exactly one of `reply_end` and `reply_lost` comes last; none after `Call.cancel`."""

    def reply_head(self, status: int, head: ReplyHead, length: int | None) -> None:
        """`length`: the body's, in bytes; None when it is chunked or ends with the connection."""

    def reply_data(self, data: bytes) -> bool:
        """Returns False for a mere sign of life, such as a comment in a stream: it doesn't end a silence, because a
        server that hangs may go on sending them."""
        ...

    def reply_lane(self) -> Lane | None:
        """What takes the chunks that follow, as long as it can; asked after a piece that was one whole chunk."""
        ...

    def reply_late(self) -> None:
        """The server has said nothing for a while, or for that while again."""

    def reply_end(self) -> None: ...

    def reply_lost(self, error: LlmRouterError) -> None: ...


class Call:
    """One request on its way. Cancelling closes its connection at once, so that the server stops working on it."""

    __slots__ = ("connection", "late", "reply", "request", "retried", "upstream", "without_body")

    def __init__(self, upstream: Upstream, request: bytes | memoryview, reply: Reply, *, without_body: bool) -> None:
        self.upstream = upstream
        self.request = request
        self.reply: Reply | None = reply
        self.without_body = without_body
        self.retried = False
        self.late = 0  # how often its reply was told so in this silence
        self.connection: Connection | None = None

    def cancel(self) -> None:
        self.reply = None
        if self.connection is not None:
            self.connection.abort()

    def pause(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()


class Owner(Protocol):
    """Who keeps connections: told what becomes of each."""

    def opened(self, connection: Connection) -> None: ...

    def idle(self, connection: Connection) -> None:
        """It can be used for another call."""

    def closed(self, connection: Connection) -> None: ...

    def retry(self, call: Call) -> None:
        """The connection was of no use any more, and not one byte of a reply had come."""


class _Known(NamedTuple):
    """A reply's head as its bytes, and what llhttp made of it."""

    head: KnownHead
    status: int
    fields: ReplyHead


class Connection(asyncio.Protocol):
    """One connection. Reused for one call after the other while both sides keep it alive."""

    __slots__ = (
        "_body",
        "_call",
        "_close_framed",
        "_complete",
        "_extra",
        "_fields",
        "_head",
        "_head_size",
        "_keep_alive",
        "_known",
        "_lane",
        "_lanes",
        "_learned",
        "_length",
        "_owner",
        "_parser",
        "_paused",
        "_pieces",
        "_quiet_since",
        "_received",
        "_reused",
        "_status",
        "_transport",
        "on_body",
        "on_header",
        "upstream",
    )

    def __init__(self, owner: Owner, upstream: Upstream) -> None:
        self.upstream = upstream
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self._fields: dict[bytes, bytes] = {}
        # httptools calls these two directly: no frame of ours for each field and piece. Of a repeated field the last
        # counts; the only one that servers repeat is Set-Cookie, which goes to nobody.
        self.on_header = self._fields.__setitem__
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._call: Call | None = None
        self._known: _Known | None = None
        self._learned = 0  # in vain, since one was seen again
        self._reused = False
        self._paused = False
        self._reset()

    def _reset(self) -> None:
        self._fields.clear()
        self._head_size = 0
        self._status = 0
        self._head: ReplyHead | None = None
        self._length: int | None = None
        self._close_framed = False
        self._complete = False
        self._pieces = 0
        self._extra = False
        self._keep_alive = False
        self._received = False
        self._lane: Lane | None = None
        self._lanes = _LANES_MAX
        self._quiet_since: float | None = None  # set by the first sweep after a sign of life

    # -- what the owner and the call ask for

    def begin(self, call: Call) -> None:
        if self._transport is None or self._transport.is_closing():
            self._owner.retry(call)
            return
        self._call = call
        call.connection = self
        self._quiet_since = None
        self._transport.write(call.request)

    def abort(self) -> None:
        self._lane = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            self._quiet_since = None  # the silence was ours
            self._transport.resume_reading()

    def expire(self, now: float, timeout_s: float, late_s: float) -> None:
        if self._quiet_since is None:
            self._quiet_since = now
        silent_s = now - self._quiet_since
        call = self._call
        if call is None:
            if silent_s > _IDLE_S:
                self.abort()
        elif self._paused:
            return
        elif silent_s > timeout_s:
            self._fail(
                UpstreamTimeout(
                    f"cannot wait longer for {self.upstream.model}: its server said nothing for {silent_s:.0f}s"
                )
            )
        else:
            late, call.late = call.late, int(silent_s / late_s)
            if call.late > late and call.reply is not None:
                call.reply.reply_late()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its ancestors
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        lane = self._lane
        if lane is not None:
            if lane(data):
                self._quiet_since = None
                return
            self._lane = None
        call = self._call
        if call is None:  # a server has nothing to say on an idle connection
            self.abort()
            return
        is_first = not self._received
        if is_first and self._known is not None and not call.without_body:
            whole = self._known.head.body(data)
            if whole is not None:
                self._take(call, self._known, whole)
                return
        if not self._is_read(data):
            return
        if self._complete:
            del self._body[self._pieces :]
        if not self._body or self._pass_on(call, data):
            self._quiet_since = None
        if self._complete:
            if is_first and self._learned < _LEARN_MAX:
                self._learn(data)
            self._finish()

    def _is_read(self, data: bytes) -> bool:
        """Lets llhttp read it. False: it can't be read, and all that follows from that is done."""
        if not self._status and self._is_endless(len(data)):
            self._fail(UpstreamGarbage(f"cannot read the reply of {self.upstream.model}: its head doesn't end"))
            return False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._complete:  # after the end of a reply, garbage only costs the connection
                self._fail(UpstreamGarbage(f"cannot read the reply of {self.upstream.model}: {error}"))
                return False
            self._extra = True
        return True

    def _pass_on(self, call: Call, data: bytes) -> bool:
        """What llhttp found of the body in `data`. Returns what `Reply.reply_data` does."""
        body = self._body.pop() if len(self._body) == 1 else self._joined()
        reply = call.reply
        if reply is None:
            return True
        if not reply.reply_data(body):
            return False
        if self._lanes and is_whole(data, body) and call.reply is not None:
            self._lanes -= 1
            self._lane = reply.reply_lane()
        return True

    def _is_endless(self, size: int) -> bool:
        self._received = True
        self._head_size += size
        return self._head_size > _MAX_HEAD

    def _learn(self, data: bytes) -> None:
        """Remember the head of this reply, which came in one piece."""
        self._learned += 1
        # An interim reply may stand before the one that counts.
        known = learn(data) if data[9:12] == b"%d" % self._status else None
        self._known = None if known is None or self._head is None else _Known(known, self._status, self._head)

    def _take(self, call: Call, known: _Known, body: bytes) -> None:
        """A whole reply with a known head: what `llhttp`, the callbacks below and `_finish` come to in the end."""
        self._learned = 0
        self._call = call.connection = None
        self._keep(not self._paused)
        reply = call.reply
        if reply is not None:
            reply.reply_head(known.status, known.fields, len(body))
        if call.reply is not None and body:
            call.reply.reply_data(body)
        if call.reply is not None:
            call.reply.reply_end()

    def _joined(self) -> bytes:
        body = b"".join(self._body)
        self._body.clear()
        return body

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.closed(self)
        self._transport = None
        call = self._call
        if call is None:
            return
        if self._close_framed and error is None:
            self._finish()
        elif self._reused and not self._received:
            self._call = None
            if call.reply is not None:
                self._owner.retry(call)
        else:
            what = "broke off its reply" if self._received else "closed the connection without a reply"
            self._fail(UpstreamLost(f"cannot finish the request: the server of {self.upstream.model} {what}"))

    # -- httptools' callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            self._extra = True

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self._status = self._parser.get_status_code()
        if self._status < 200:
            if self._status == 101:
                raise ValueError("an upgrade nobody asked for")
            return
        fields = {name.lower(): value for name, value in self._fields.items()}
        chunked = b"transfer-encoding" in fields
        if b"content-length" in fields and not chunked:
            self._length = int(fields[b"content-length"])
        self._close_framed = self._length is None and not chunked and self._status not in (204, 304)
        call = self._call
        if call is not None and call.reply is not None:
            self._head = ReplyHead(fields)
            call.reply.reply_head(self._status, self._head, self._length)
            if call.without_body:
                self._complete = True
                self._extra = True  # llhttp would go on waiting for a body that doesn't come

    def on_message_complete(self) -> None:
        if self._complete:
            return
        if self._status < 200:  # 100 Continue, 103 Early Hints: the reply itself is still to come
            self._fields.clear()
            return
        self._complete = True
        self._pieces = len(self._body)  # what is appended from now on isn't part of the reply
        self._keep_alive = self._parser.should_keep_alive()  # right only here: the flags are gone afterwards

    # -- endings

    def _finish(self) -> None:
        call, self._call = self._call, None
        assert call is not None
        call.connection = None
        self._keep(self._keep_alive and not self._extra and not self._paused)
        if call.reply is not None:
            call.reply.reply_end()

    def _keep(self, is_usable: bool) -> None:
        """For the next call, or not."""
        if is_usable and self._transport is not None and not self._transport.is_closing():
            self._reset()
            self._reused = True
            self._owner.idle(self)
        else:
            self.abort()

    def _fail(self, error: LlmRouterError) -> None:
        call, self._call = self._call, None
        self.abort()
        if call is not None:
            call.connection = None
            if call.reply is not None:
                call.reply.reply_lost(error)
