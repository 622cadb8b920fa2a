"""The clients: closed-loop requests, paced and unpaced streams, streams held open.

Counterpart: `upstream`, whose chunks carry the time at which they were written. Both read CLOCK_MONOTONIC of one
machine, so a chunk's delay needs no second measurement. This module measures times and counts; what the proxy spent
on it is read by `data` before and after, from outside.

Everything runs on one loop without tasks: each connection is a protocol object that goes on by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import uvloop

from bench.procs import BenchFailed

_T = TypeVar("_T")
_STAMP = b"~T"
_STAMP_BYTES = 21  # the mark and 19 digits
_TEXT = "the model reads what a user wrote, word after word, "


class TooSlow(BenchFailed):
    """The connections weren't done in the time they had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where requests go. `headers`: added to each request. `prefix`: what the path has before `/v1`."""

    port: int
    host: str = "127.0.0.1"
    prefix: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One chat request: `chunks` content chunks, `gap_us` microseconds apart, and `body_bytes` of JSON in all."""

    model: str
    stream: bool
    chunks: int = 0
    gap_us: int = 0
    body_bytes: int = 1024
    include_usage: bool = False


@dataclass(slots=True)
class Outcome:
    """What the clients saw. Times in microseconds; `elapsed_s` from the first request to the end of the last reply."""

    replies: int = 0
    chunks: int = 0
    elapsed_s: float = 0.0
    first_us: list[float] = field(default_factory=list)
    delay_us: list[float] = field(default_factory=list)


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs one of the functions below on a fresh loop."""
    return uvloop.run(work)


def request_bytes(endpoint: Endpoint, chat: Chat) -> bytes:
    """The whole request as it goes over the wire."""
    body: dict[str, object] = {"model": chat.model, "temperature": 0.7}
    if chat.stream:
        body |= {"stream": True, "max_tokens": chat.chunks}
    if chat.gap_us:
        body["seed"] = chat.gap_us
    if chat.include_usage and chat.stream:
        body["stream_options"] = {"include_usage": True}
    body["messages"] = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": ""}]
    missing = max(0, chat.body_bytes - len(json.dumps(body)))
    text = (_TEXT * (missing // len(_TEXT) + 1))[:missing]
    body["messages"][1]["content"] = text  # type: ignore[index]
    data = json.dumps(body).encode()
    lines = [
        f"POST {endpoint.prefix}/v1/chat/completions HTTP/1.1",
        f"Host: {endpoint.host}:{endpoint.port}",
        "Content-Type: application/json",
        "Accept: */*",
        *(f"{name}: {value}" for name, value in endpoint.headers),
        f"Content-Length: {len(data)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Exchange(asyncio.Protocol):
    """One keep-alive connection that knows where a reply ends. Subclasses say what to do with it.

    `on_data` gets each read of a reply, head and chunk framing included; `on_end` comes after its last byte. An error
    of any kind goes to `fail`, which ends the whole run.
    """

    def __init__(self, request: bytes, fail: Callable[[Exception], None]) -> None:
        self.request = request
        self.fail = fail
        self.transport: asyncio.Transport | None = None
        self.sent_ns = 0
        self._head = b""
        self._missing: int | None = None  # bytes still to come; -1: chunked; None: the head isn't whole yet
        self._tail = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class

    def send(self) -> None:
        assert self.transport is not None
        self._head, self._missing, self._tail, self._busy = b"", None, b"", True
        self.sent_ns = time.monotonic_ns()
        self.transport.write(self.request)

    def close(self) -> None:
        self._busy = False
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if not self._busy:
            self.fail(BenchFailed(f"bytes after the end of a reply: {data[:200]!r}"))
            return
        body = data if self._missing is not None else self._take_head(data)
        if body is None:
            return
        self.on_data(data, now_ns)
        if self._missing == -1:
            tail = self._tail + body[-7:]
            ended = tail.endswith(b"\r\n0\r\n\r\n") or tail == b"0\r\n\r\n"
            self._tail = tail[-7:]
        else:
            assert self._missing is not None
            self._missing -= len(body)
            ended = self._missing <= 0
        if ended:
            self._busy = False
            self.on_end(now_ns)

    def _take_head(self, data: bytes) -> bytes | None:
        """What follows the head, None while it isn't whole."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return None
        head, body = self._head[: end + 2].lower(), self._head[end + 4 :]
        if not head.startswith(b"http/1.1 200"):
            self.fail(BenchFailed(f"cannot go on: the reply was {self._head[:600].decode(errors='replace')}"))
            return None
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            self._missing = int(head[at + 17 : head.find(b"\r\n", at + 2)])
        elif b"\r\ntransfer-encoding: chunked\r\n" in head:
            self._missing = -1
        else:
            self.fail(BenchFailed("cannot go on: a reply has neither content-length nor chunks"))
            return None
        return body

    def connection_lost(self, error: Exception | None) -> None:
        if self._busy:
            self.fail(BenchFailed(f"cannot go on: the connection was closed before the reply was complete ({error})"))

    def on_data(self, data: bytes, now_ns: int) -> None:
        """Override."""

    def on_end(self, now_ns: int) -> None:
        """Override."""


class Stamps:
    """Finds the send times in what was read, also where one is split between two reads."""

    def __init__(self) -> None:
        self._carry = b""

    def feed(self, data: bytes) -> list[int]:
        """The send times completed by `data`, CLOCK_MONOTONIC nanoseconds."""
        if self._carry:
            data = self._carry + data
            self._carry = b""
        found: list[int] = []
        at = data.find(_STAMP)
        while at >= 0:
            if at + _STAMP_BYTES > len(data):
                self._carry = data[at:]
                return found
            found.append(int(data[at + 2 : at + _STAMP_BYTES]))
            at = data.find(_STAMP, at + _STAMP_BYTES)
        if data.endswith(b"~"):
            self._carry = b"~"
        return found


class _Caller(Exchange):
    """Sends the same request again and again until the time is over."""

    def __init__(self, request: bytes, run: Run, until_ns: int) -> None:
        super().__init__(request, run.fail)
        self._run = run
        self._until_ns = until_ns

    def on_end(self, now_ns: int) -> None:
        self._run.outcome.replies += 1
        self._run.outcome.first_us.append((now_ns - self.sent_ns) / 1000)
        if now_ns < self._until_ns:
            self.send()
        else:
            self._run.one_is_done()


class _Reader(Exchange):
    """Reads `times` streams one after the other, and how late each chunk comes."""

    def __init__(self, request: bytes, run: Run, chunks: int, times: int, *, paced: bool) -> None:
        super().__init__(request, run.fail)
        self._run = run
        self._chunks = chunks
        self._times = times
        self._paced = paced
        self._stamps = Stamps()
        self._got = 0
        self._done = False

    def on_data(self, data: bytes, now_ns: int) -> None:
        outcome = self._run.outcome
        if not self._paced:  # in a flood, reading the times would cost more than the rest of the client
            return
        for stamp in self._stamps.feed(data):
            if not self._got:
                outcome.first_us.append((now_ns - self.sent_ns) / 1000)
            self._got += 1
            outcome.delay_us.append((now_ns - stamp) / 1000)

    def on_end(self, now_ns: int) -> None:
        if self._paced and self._got != self._chunks:
            self.fail(BenchFailed(f"cannot go on: {self._got} of {self._chunks} chunks came"))
            return
        self._run.outcome.replies += 1
        self._run.outcome.chunks += self._chunks
        self._got = 0
        self._times -= 1
        if self._times:
            asyncio.get_running_loop().call_later(0.003, self.send)
        else:
            self._run.one_is_done()


class _Holder(Exchange):
    """Opens one stream and says when its first chunk is there."""

    def __init__(self, request: bytes, run: Run) -> None:
        super().__init__(request, run.fail)
        self._run = run
        self._opened = False

    def on_data(self, data: bytes, now_ns: int) -> None:
        if not self._opened and _STAMP in data:
            self._opened = True
            self._run.one_is_done()


class Run:
    """What the connections of one run share: the outcome, and a future that is done when all of them are."""

    def __init__(self, connections: int) -> None:
        self.outcome = Outcome()
        self._left = connections
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connections: list[Exchange] = []

    def one_is_done(self) -> None:
        self._left -= 1
        if not self._left and not self._finished.done():
            self._finished.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)

    async def connect(self, endpoint: Endpoint, make: Callable[[], Exchange]) -> Exchange:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(make, endpoint.host, endpoint.port)
        except OSError as error:
            raise BenchFailed(f"cannot connect to port {endpoint.port}: {error}") from error
        self._connections.append(connection)
        return connection

    async def finish(self, limit_s: float) -> None:
        """Waits until all are done, at most `limit_s`. Raises: TooSlow, BenchFailed."""
        try:
            await asyncio.wait_for(self._finished, limit_s)
        except TimeoutError:
            raise TooSlow(f"cannot go on: {self._left} connections weren't done within {limit_s:.0f} s") from None

    def close(self) -> None:
        self._finished.cancel()
        for connection in self._connections:
            connection.close()


async def requests(endpoint: Endpoint, chat: Chat, *, connections: int, seconds: float) -> Outcome:
    """`connections` clients that each send their next request as soon as a reply is complete, for `seconds`.

    `first_us` holds the time to the end of each reply: it comes in one piece. Raises: BenchFailed.
    """
    request = request_bytes(endpoint, chat)
    run = Run(connections)
    try:
        started_ns = time.monotonic_ns()
        until_ns = started_ns + int(seconds * 1e9)
        callers = [await run.connect(endpoint, lambda: _Caller(request, run, until_ns)) for _ in range(connections)]
        for caller in callers:
            caller.send()
        await run.finish(seconds + 10)
        run.outcome.elapsed_s = (time.monotonic_ns() - started_ns) / 1e9
    finally:
        run.close()
    return run.outcome


async def streams(endpoint: Endpoint, chat: Chat, *, count: int, times: int = 1) -> Outcome:
    """`count` connections that each read `times` streams. Paced ones (`gap_us`) start spread over a few gaps.

    Raises: BenchFailed.
    """
    request = request_bytes(endpoint, chat)
    run = Run(count)
    loop = asyncio.get_running_loop()
    paced = chat.gap_us > 0
    try:
        readers = [
            await run.connect(endpoint, lambda: _Reader(request, run, chat.chunks, times, paced=paced))
            for _ in range(count)
        ]
        started_ns = time.monotonic_ns()
        for number, reader in enumerate(readers):
            if paced:
                loop.call_later(number * chat.gap_us / count / 1e6 + number % 7 / 1000, reader.send)
            else:
                reader.send()
        await run.finish(times * chat.chunks * chat.gap_us / 1e6 + 20)
        run.outcome.elapsed_s = (time.monotonic_ns() - started_ns) / 1e9
    finally:
        run.close()
    return run.outcome


async def hold(endpoint: Endpoint, chat: Chat, *, count: int, measure: Callable[[], _T]) -> _T:
    """Opens `count` streams, calls `measure` when the first chunk of each is there, then hangs up.

    Raises: BenchFailed.
    """
    request = request_bytes(endpoint, chat)
    run = Run(count)
    try:
        for _ in range(count):
            (await run.connect(endpoint, lambda: _Holder(request, run))).send()
        await run.finish(20)
        return measure()
    finally:
        run.close()
