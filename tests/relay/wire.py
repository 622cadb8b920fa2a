"""A relay between a raw client socket and a scripted upstream, once with each sink.

The upstream is a plain TCP server whose behaviour each test writes down byte by byte; the dispatcher grants at once or
when the test says so. Everything crosses real sockets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from llm_router.errors import LlmRouterError
from llm_router.relay.lease import Upstream, Waiter
from llm_router.relay.recorder import Ended
from llm_router.relay.status_text import Progress

LIMIT = 1_000_000
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeDispatcher:
    """Grants at once, unless `hold` is set; keeps a diary of what happened to each request."""

    def __init__(self) -> None:
        self.hold = False
        self.breaks = False
        self.upstream: Upstream | None = None
        self.waiting: dict[int, Waiter] = {}
        self.closed: list[tuple[int, bool]] = []
        self.changed = asyncio.Condition()
        self.opened = 0
        self.classes: list[str] = []
        self.granted: dict[int, Waiter] = {}
        self.refused: set[int] = set()
        self.suspected: list[int] = []

    def open(self, model: str, *, request_class: str, waiter: Waiter) -> int:
        if self.breaks:
            raise RuntimeError("a mistake of ours")
        self.opened += 1
        self.classes.append(request_class)
        request = self.opened
        self.waiting[request] = waiter
        if not self.hold:
            self.grant(request)
        self._tell()
        return request

    def grant(self, request: int) -> None:
        assert self.upstream is not None
        waiter = self.granted[request] = self.waiting.pop(request)
        waiter.granted(request, self.upstream)

    def refuse(self, request: int, error: LlmRouterError) -> None:
        self.refused.add(request)
        self.waiting.pop(request).refused(error)

    def close(self, request: int, *, lost: bool = False) -> None:
        self.waiting.pop(request, None)
        self.closed.append((request, lost))
        self._tell()

    def suspect(self, instance: int) -> None:
        self.suspected.append(instance)
        self._tell()

    def progress(self, request: int) -> Progress | None:
        if request not in self.waiting:
            return None
        return Progress(phase="starting", elapsed_s=15.2, limit_s=180)

    def _tell(self) -> None:
        async def tell() -> None:
            async with self.changed:
                self.changed.notify_all()

        asyncio.get_running_loop().create_task(tell())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(condition), 20)


class FakeRecorder:
    def __init__(self) -> None:
        self.ended_requests: list[Ended] = []
        self.replays: list[str] = []
        self.heard = asyncio.Event()

    def ended(self, request: Ended) -> None:
        self.ended_requests.append(request)
        self.heard.set()

    def replayed(self, model: str) -> None:
        self.replays.append(model)


class FakeUpstream:
    """A TCP server that runs the script for each connection and notes what it received."""

    def __init__(self) -> None:
        self.script: Script = reply(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        self.connections = 0
        self.requests: list[bytes] = []
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return head + await reader.readexactly(length)


def reply(*pieces: bytes, then: str = "keep") -> Script:
    """Answer each request with these pieces, each in a packet of its own. `then`: keep, close or reset."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.002)  # so that the pieces arrive apart
            if then == "reset":
                writer.transport.abort()
                return
            if then == "close":
                return

    return script


def chunked(*payloads: bytes) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads]


@dataclass
class Answer:
    """One reply as a client's socket saw it. `complete`: its framing came to an end."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass
class Client:
    """A raw HTTP/1.1 client on one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    buffer: bytes = field(default=b"")

    def post(
        self, path: str, body: bytes, *, headers: str = "content-type: application/json\r\n", version: str = "1.1"
    ) -> None:
        head = f"POST {path} HTTP/{version}\r\nhost: router\r\n{headers}content-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)

    def chat(self, *, stream: bool = False, headers: str = "", **more: object) -> None:
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}], **more}
        self.post(
            "/v1/chat/completions", json.dumps(body).encode(), headers="content-type: application/json\r\n" + headers
        )

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
        status, *lines = raw.strip().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split(" ")[1]), fields

    async def answer(self) -> Answer:
        status, headers = await self.head()
        body, complete = b"", True
        try:
            async with asyncio.timeout(20):
                if headers.get("transfer-encoding") == "chunked":
                    while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
                        body += (await self.reader.readexactly(size + 2))[:-2]
                    await self.reader.readexactly(2)
                elif "content-length" in headers:
                    body = await self.reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError):
            complete = False
        return Answer(status, headers, body, complete)

    def close(self) -> None:
        self.writer.close()


@dataclass
class Bench:
    """What a test gets: the upstream to script, the dispatcher to steer, clients to talk with."""

    upstream: FakeUpstream
    dispatcher: FakeDispatcher
    recorder: FakeRecorder
    port: int
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=2**22))
        self.clients.append(client)
        return client
