"""What all fake engines have in common: HTTP, streams, life, and ways to misbehave. Standard library only.

Counterpart: the programs beside it, one for each engine, which know that engine's routes and bytes. Every chat and
completion is answered with the text of the known-answer models, " I am NAME: 1 2 3 … COUNT", one token for " I am
NAME:" and one for each number; `max_tokens` cuts it short ("length"). So a test sees who answered, and whether all of
it came.

GET /stats, on each: {"requests" (POSTs), "aborted" (client left before the end), "running", "connections" (accepted so
far), "last": {"path", "headers", "body"} of the last POST}.

Options of all of them:
  --count N                 numbers in the answer (300)
  --token-ms MS             pause before each token
  --startup-s S             how long it loads
  --never-ready             it never is
  --say TEXT                print TEXT on stderr at the start (may be repeated)
  --exit-at-start CODE      print the --say lines, then exit
  --crash-after-s S         SIGKILL itself S seconds after being ready
  --ignore-term             SIGTERM does nothing
  --flood-stderr BYTES      write this many bytes of log lines at the start, as fast as possible
  --spawn-child KIND        leave a child that ignores SIGTERM: "group" (in our group) or "session" (in its own);
                            prints "child PID"
  --fault FAULT             for every request what the request field "fault" does for one:
    die_before_byte         SIGKILL itself before the first byte of the reply (also: --die-before-first-byte)
    die_after_N             SIGKILL itself after N tokens (also: --die-mid-stream, N = 3)
    close_before_byte       close the connection without an answer, and live on
    close_after_N           close the connection after N tokens, and live on
    garbage                 answer something that isn't HTTP
    extra_bytes             a whole reply, and more bytes after it
    bad_chunk               a chunk size that isn't hexadecimal, after 2 tokens
    close_framed            no length and no chunks: the end of the connection is the end (and keep-alive is a lie)
    short_length            a content-length that is larger than what is sent (not streaming)
    hang                    read the request, never answer
    stall_after_N           N tokens, then nothing more; the connection stays open
    ping_after_N            N tokens, then only SSE comments for ever
    no_done                 the stream ends without [DONE]
    204                     204 without a body
    early_hints             103 before the reply
    slow:MS                 MS milliseconds before the first byte
    errorNNN                an error reply with status NNN (429 has Retry-After: 1)
    error_in_stream         3 tokens, then `data: {"error":…}` and the end
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

Json = dict[str, Any]

CHATS = ("/v1/chat/completions", "/v1/completions")
PING_S = 0.05


class Dropped(Exception):
    """The connection is to be dropped."""


class GivenUp(Exception):
    """The server ended this request, though its client is still there."""


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    raw: bytes
    body: Json = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Exchange:
    """One request, and the way to answer it. `keep`: whether the connection may be used again."""

    def __init__(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str = ""
    ) -> None:
        self.request = request
        self.fault = str(request.body.get("fault", fault))
        self.keep = True
        self._reader, self._writer = reader, writer
        self._over = asyncio.Event()
        self._given_up = False
        self._watch: asyncio.Task[None] | None = None
        self._chunked = self.fault != "close_framed"

    # -- whole answers

    async def json(self, status: int, content: object, **headers: str) -> None:
        await self.send(status, compact(content), "application/json", **headers)

    async def send(self, status: int, data: bytes, kind: str | None = None, **headers: str) -> None:
        if kind is not None:
            headers["content_type"] = kind
        if self.fault != "close_framed":
            headers["content_length"] = str(len(data) + (10 if self.fault == "short_length" else 0))
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        self._writer.write(f"HTTP/1.1 {status} Status\r\n{''.join(lines)}\r\n".encode() + data)
        if self.fault == "extra_bytes":
            self._writer.write(b"and this belongs to nothing")
        await self._writer.drain()
        self.keep = self.fault not in ("close_framed", "short_length")

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    # -- streams

    async def begin_stream(self, kind: str = "text/event-stream") -> None:
        framing = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
        await self.raw(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{framing}\r\n".encode())

    async def part(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)
        if self._reader.at_eof():
            raise ConnectionResetError

    async def end_stream(self) -> None:
        if self._chunked:
            self._writer.write(b"0\r\n\r\n")
        if self.fault == "extra_bytes":
            self._writer.write(b"and this belongs to nothing")
        await self._writer.drain()
        self.keep = self._chunked

    # -- waiting

    def give_up(self) -> None:
        """Make the pauses of this request end with GivenUp."""
        self._given_up = True
        self._over.set()

    async def pause(self, seconds: float) -> None:
        """Ends early with ConnectionResetError when the client leaves, as engines do."""
        if seconds > 0:
            if self._watch is None:
                self._watch = spawn(self._watch_client())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), seconds)
        if self._over.is_set() and not self._given_up:
            raise ConnectionResetError
        if self._given_up:
            raise GivenUp

    async def wait_until_left(self) -> None:
        self._given_up = False
        self._over.clear()
        if self._watch is None:
            self._watch = spawn(self._watch_client())
        await self._watch
        raise ConnectionResetError

    async def ping_until_left(self, ping_s: float = PING_S) -> None:
        while True:
            await self.pause(ping_s)
            await self.part(b": ping\n\n")

    async def _watch_client(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(4096):
                pass
        self._over.set()

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])


class FakeServer:
    """One server. An engine's own manners are the methods that its program overrides.

    `frame_end`: how it ends each event of a stream. `stream_kind`: the content type of its streams.
    `sends_done`: whether a stream ends with [DONE].
    """

    frame_end: ClassVar[bytes] = b"\n\n"
    stream_kind: ClassVar[str] = "text/event-stream"

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.name: str = options.name
        self.is_ready = False
        self.requests = self.aborted = self.connections = self.terms = 0
        self.last: Json | None = None
        self.open: set[Exchange] = set()

    # -- life

    async def run(self) -> None:
        """Load, then listen, as most engines do."""
        await self.load()
        await self.listen()
        self.get_ready()
        await asyncio.Event().wait()

    async def load(self) -> None:
        await asyncio.sleep(self.options.startup_s)
        if self.options.never_ready:
            await asyncio.Event().wait()

    async def listen(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.on_term)
        server = await asyncio.start_server(self.on_connection, "127.0.0.1", self.options.port)
        port = server.sockets[0].getsockname()[1]
        self.say_listening(port)

    def say_listening(self, port: int) -> None:
        print(f"listening on http://127.0.0.1:{port}", flush=True)

    def get_ready(self) -> None:
        self.is_ready = True
        if self.options.crash_after_s is not None:
            asyncio.get_running_loop().call_later(self.options.crash_after_s, die)

    def on_term(self) -> None:
        self.terms += 1
        print(f"SIGTERM {self.terms}", file=sys.stderr, flush=True)
        if not self.options.ignore_term:
            self.leave()

    def leave(self) -> None:
        """At once, loading or not; open streams are cut."""
        os._exit(0)

    @property
    def running(self) -> int:
        return sum(exchange.request.method == "POST" for exchange in self.open)

    # -- HTTP

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(Dropped, ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await read_request(reader)
                exchange = Exchange(request, reader, writer, self.options.fault or "")
                self.open.add(exchange)
                try:
                    await self.serve(exchange)
                finally:
                    self.open.discard(exchange)
                    await exchange.close()
                if not exchange.keep:
                    break
        writer.close()

    async def serve(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method == "POST":
            self.requests += 1
            self.last = {"path": request.target, "headers": request.headers, "body": request.body}
        if request.path == "/stats":
            names = ("requests", "aborted", "running", "connections", "last")
            await exchange.json(200, {name: getattr(self, name) for name in names})
            return
        try:
            await self.answer(exchange)
        except ConnectionError:
            self.aborted += request.method == "POST"
            raise

    async def answer(self, exchange: Exchange) -> None:
        """The engine's own routes. Those for inference end in `infer`."""
        raise NotImplementedError

    async def infer(self, exchange: Exchange) -> None:
        """A chat, a completion or an embedding, faults included."""
        path, body = exchange.request.path, exchange.request.body
        await misbehave_early(exchange)
        if exchange.fault == "204":
            await exchange.raw(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif exchange.fault.startswith("error") and exchange.fault[5:].isdigit():
            status = int(exchange.fault[5:])
            retry = {"retry_after": "1"} if status == 429 else {}
            await exchange.json(status, self.error("as you wished", "fault", status), **retry)
        elif path not in CHATS:
            await exchange.json(200, self.embeddings(body))
        elif body.get("stream"):
            await self.stream(exchange)
        else:
            pieces, reason = self.pieces(body)
            for _ in pieces:
                await exchange.pause(self.options.token_ms / 1000)
            await exchange.json(200, self.whole(exchange, pieces, reason))

    async def stream(self, exchange: Exchange) -> None:
        await exchange.begin_stream(self.stream_kind)
        sent = 0
        try:
            for chunk in self.chunks(exchange, *self.pieces(exchange.request.body)):
                is_piece = has_text(chunk)
                if is_piece:
                    await self.misbehave_after(sent, exchange)
                    await exchange.pause(self.options.token_ms / 1000)
                await self.event(exchange, chunk)
                sent += is_piece
        except GivenUp:
            await self.end_given_up(exchange, sent)
            return
        if exchange.fault != "no_done":
            await exchange.part(b"data: [DONE]" + self.frame_end)
        await exchange.end_stream()

    async def end_given_up(self, exchange: Exchange, sent: int) -> None:
        """What becomes of a stream that the server itself ended after `sent` tokens."""
        raise Dropped

    async def event(self, exchange: Exchange, content: object) -> None:
        await exchange.part(b"data: " + compact(content) + self.frame_end)

    async def misbehave_after(self, sent: int, exchange: Exchange) -> None:
        name, _, number = exchange.fault.rpartition("_")
        if number.isdigit() and int(number) == sent:
            match name:
                case "die_after":
                    die()
                case "close_after":
                    raise Dropped
                case "stall_after":
                    await exchange.wait_until_left()
                case "ping_after":
                    await exchange.ping_until_left()
        if exchange.fault == "bad_chunk" and sent == 2:
            await exchange.raw(b"zz\r\nnot a chunk\r\n")
            await exchange.wait_until_left()
        if exchange.fault == "error_in_stream" and sent == 3:
            await self.event(exchange, self.stream_error("context shift failed"))
            await exchange.end_stream()
            raise Dropped

    # -- what it says

    def pieces(self, body: Json) -> tuple[list[str], str]:
        """The answer's tokens, and why it ends. With `ignore_eos` it starts over, as the real models do."""
        pieces = [f" I am {self.name}:", *(f" {number}" for number in range(1, self.options.count + 1))]
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if limit is not None and body.get("ignore_eos"):
            pieces *= limit // len(pieces) + 1
        if limit is not None and limit < len(pieces):
            return pieces[:limit], "length"
        return pieces, "stop"

    def head(self, exchange: Exchange) -> Json:
        is_chat = exchange.request.path == CHATS[0]
        kind = "chat.completion" if is_chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{self.requests}",
            "object": f"{kind}.chunk" if is_chat and exchange.request.body.get("stream") else kind,
            "created": int(time.time()),
            "model": self.reply_name(exchange),
        }

    def reply_name(self, exchange: Exchange) -> str:
        return self.name

    def usage(self, count: int) -> Json:
        return {"prompt_tokens": 7, "total_tokens": count + 7, "completion_tokens": count}

    def wants_usage(self, exchange: Exchange) -> bool:
        return bool((exchange.request.body.get("stream_options") or {}).get("include_usage"))

    def chunks(self, exchange: Exchange, pieces: list[str], reason: str) -> Iterator[Json]:
        raise NotImplementedError

    def whole(self, exchange: Exchange, pieces: list[str], reason: str) -> Json:
        raise NotImplementedError

    def error(self, message: str, kind: str, code: int) -> Json:
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def stream_error(self, message: str) -> Json:
        return self.error(message, "server_error", 500)

    def embeddings(self, body: Json) -> Json:
        given = body.get("input", "")
        texts = given if isinstance(given, list) else [given]
        data = [
            {"object": "embedding", "index": index, "embedding": [len(str(text)) / 100, 0.5, -0.5, index / 10]}
            for index, text in enumerate(texts)
        ]
        used = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return {"object": "list", "model": self.name, "data": data, "usage": used}


def compact(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def has_text(chunk: Json) -> bool:
    choice = chunk["choices"][0] if chunk["choices"] else {}
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or delta.get("content") or delta.get("reasoning"))


async def misbehave_early(exchange: Exchange) -> None:
    match exchange.fault:
        case "die_before_byte":
            die()
        case "close_before_byte":
            raise Dropped
        case "garbage":
            await exchange.raw(b"\x00\x01 this is not HTTP\r\n\r\n")
            raise Dropped
        case "hang":
            await exchange.wait_until_left()
        case "early_hints":
            await exchange.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        case fault if fault.startswith("slow:"):
            await exchange.pause(float(fault[5:]) / 1000)


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    raw = b""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            raw += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    elif length := int(headers.get("content-length", 0)):
        raw = await reader.readexactly(length)
    request = Request(method=method, target=target, headers=headers, raw=raw)
    with contextlib.suppress(ValueError):
        body = json.loads(raw) if raw else {}
        request.body = body if isinstance(body, dict) else {}
    return request


_tasks: set[asyncio.Task[None]] = set()


def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)  # noqa: TID251 - kept in the line below
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else None


# -- processes


def fork(name: str, life: Callable[[], None]) -> int:
    """A child that lives `life` and no more, with this name in `ps`. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:  # noqa: PTH123 - one import less
            comm.write(name)
        life()
        os._exit(0)
    return pid


def has_ended(child: int) -> bool:
    """Once only. A SIGCHLD comes for one that is merely stopped, too."""
    return os.waitpid(child, os.WNOHANG)[0] == child


def wait_for_signals() -> None:
    while True:
        signal.pause()


def die_with_parent() -> None:
    """What multiprocessing engines ask of Linux for their workers: a SIGKILL when their parent goes."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    wait_for_signals()


def _ignore_term(kind: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "session":
        os.setsid()
    wait_for_signals()


def _flood(size: int) -> None:
    block = b"".join(b"flood line %06d %s\n" % (number, b"x" * 80) for number in range(1000))
    for _ in range(size // len(block) + 1):
        os.write(2, block)
    print("flood over", file=sys.stderr, flush=True)


# -- the program


def common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--token-ms", type=float, default=0.0)
    parser.add_argument("--startup-s", type=float, default=0.0)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--say", action="append", default=[])
    parser.add_argument("--exit-at-start", type=int)
    parser.add_argument("--crash-after-s", type=float)
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--flood-stderr", type=int, default=0)
    parser.add_argument("--spawn-child", choices=["group", "session"])
    parser.add_argument("--fault")
    parser.add_argument("--die-before-first-byte", dest="fault", action="store_const", const="die_before_byte")
    parser.add_argument("--die-mid-stream", dest="fault", action="store_const", const="die_after_3")


def accept(parser: argparse.ArgumentParser, *, values: str = "", switches: str = "") -> None:
    """The engine's options that mean nothing here; any other ends the program, as it ends the engine."""
    for name in values.split():
        parser.add_argument(name, nargs="?" if name.startswith("-") else None)
    for name in switches.split():
        parser.add_argument(name, action="store_true")


def main(options: argparse.Namespace, run: Callable[[], Awaitable[None]]) -> int:
    if options.spawn_child:
        kind = options.spawn_child
        print(f"child {fork('child', lambda: _ignore_term(kind))}", flush=True)
    for text in options.say:
        print(text, file=sys.stderr, flush=True)
    if options.exit_at_start is not None:
        code: int = options.exit_at_start
        return code
    if options.flood_stderr:
        _flood(options.flood_stderr)
    asyncio.run(_all(run))
    return 0


async def _all(run: Callable[[], Awaitable[None]]) -> None:
    await run()
