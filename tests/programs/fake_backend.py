"""An inference server that isn't one: speaks enough OpenAI to be routed to, and misbehaves on request.

A program of its own (standard library only, up in about 0.1 s), so that crashes, hangs and ignored signals are real:

    python tests/programs/fake_backend.py --port 9000 --name a [options]

Every chat and completion is answered with the text of the known-answer models, " I am NAME: 1 2 3 … COUNT", one token
for " I am NAME:" and one for each number; `max_tokens` cuts it short ("length").

Routes: GET /health /ready /v1/model (200, or 503 while loading), GET /v1/models, POST /v1/chat/completions,
/v1/completions, /v1/embeddings, GET /stats.
GET /stats: {"requests" (POSTs), "aborted" (client left before the end), "running", "connections" (accepted so far),
"last": {"path", "headers", "body"} of the last POST}.

Start and end:
  --port N --name NAME      default: the environment's PORT and MODEL
  --count N                 numbers in the answer (300)
  -m -c -t -np --host --sse-ping-interval X, --alias NAME: accepted, so that it can stand in for llama-server
  --startup-s S             answer 503 this long before being ready
  --refuse-until-ready      don't listen before being ready (as vLLM)
  --never-ready             stay at 503 (with --refuse-until-ready: refuse) for ever
  --push-lines              print llama.cpp's child protocol: loading 0.0, 0.5, 1.0, then ready
  --push-only               never answer 200 on /health (with --push-lines: only the lines tell)
  --say TEXT                print TEXT on stderr at the start (may be repeated)
  --exit-at-start CODE      print the --say lines, then exit
  --crash-after-s S         SIGKILL itself S seconds after being ready
  --ignore-term             SIGTERM does nothing
  --second-term             the first SIGTERM does nothing, the second one exits with 1 (as llama-server)
  --flood-stderr BYTES      write this many bytes of log lines at the start, as fast as possible
  --spawn-child KIND        leave a child that ignores SIGTERM: "group" (in our group) or "session" (in its own);
                            prints "child PID"
  --exit-on-stdin-eof       exit with 1 when stdin ends (as llama-server's child mode)
Replies:
  --style llamacpp|openai   llamacpp (default): `timings` in the finish chunk, `usage` on request.
                            openai: no timings; --style openai --always-usage sends usage unasked.
  --token-ms MS             pause before each token
  --api-key KEY             401 without it (except /health, /ready, /stats); default: LLAMA_API_KEY
  --strict-model            404 for any other `model` than NAME (as vLLM)
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
    no_done                 the stream ends without [DONE]
    204                     204 without a body
    early_hints             103 before the reply
    slow:MS                 MS milliseconds before the first byte
    errorNNN                an error reply with status NNN (429 has Retry-After: 1)
    error_in_stream         3 tokens, then `data: {"error":…}` and the end
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

OPEN_PATHS = ("/health", "/ready", "/stats")


class Died(Exception):
    """The connection is to be dropped."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any] = field(default_factory=dict)


class FakeBackend:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.is_ready = False
        self.requests = self.aborted = self.running = self.connections = self.terms = 0
        self.last: dict[str, Any] | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        options = self.options
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.on_term)
        if options.exit_on_stdin_eof:
            loop.add_reader(0, self.on_stdin)
        if options.refuse_until_ready:
            await self.load()
            await self.listen()
        else:
            await self.listen()
            await self.load()
        if options.crash_after_s is not None:
            loop.call_later(options.crash_after_s, die)
        await asyncio.Event().wait()

    async def listen(self) -> None:
        server = await asyncio.start_server(self.on_connection, "127.0.0.1", self.options.port)
        port = server.sockets[0].getsockname()[1]
        print(f"listening on http://127.0.0.1:{port}", flush=True)

    async def load(self) -> None:
        options = self.options
        for value in (0.0, 0.5, 1.0):
            if options.push_lines:
                payload = {"stages": ["text_model"], "current": "text_model", "value": value}
                push("loading", payload)
            await asyncio.sleep(options.startup_s / 3)
        if options.never_ready:
            await asyncio.Event().wait()
        self.is_ready = True
        if options.push_lines:
            push("ready", {"id": options.name})

    def on_term(self) -> None:
        self.terms += 1
        print(f"SIGTERM {self.terms}", file=sys.stderr, flush=True)
        if self.options.second_term and self.terms > 1:
            os._exit(1)
        if not self.options.ignore_term and not self.options.second_term:
            # At once, loading or not. Open streams aren't waited for: they are cut, as most engines cut theirs.
            os._exit(0)

    def on_stdin(self) -> None:
        data = os.read(0, 4096)
        if not data:
            os._exit(1)
        print(f"stdin: {data.decode().strip()}", flush=True)

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(Died, ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await read_request(reader)
                is_work = request.method == "POST"
                self.running += is_work
                try:
                    keep = await self.answer(request, reader, writer)
                finally:
                    self.running -= is_work
                if not keep:
                    break
        writer.close()

    async def answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if request.method == "POST":
            self.requests += 1
            self.last = {"path": request.path, "headers": request.headers, "body": request.body}
        path = request.path.partition("?")[0]
        if path == "/stats":
            names = ("requests", "aborted", "running", "connections", "last")
            return await send_json(writer, 200, {name: getattr(self, name) for name in names})
        if not self.is_ready or (self.options.push_only and path == "/health"):
            return await send_json(writer, 503, error("Loading model", "unavailable_error", 503))
        key = self.options.api_key
        if key and path not in OPEN_PATHS and request.headers.get("authorization") != f"Bearer {key}":
            return await send_json(writer, 401, error("Invalid API Key", "authentication_error", 401))
        if request.method == "GET":
            return await self.answer_get(path, writer)
        if self.options.strict_model and request.body.get("model") != self.options.name:
            message = f"The model `{request.body.get('model')}` does not exist."
            return await send_json(writer, 404, error(message, "NotFoundError", 404))
        fault = str(request.body.get("fault", self.options.fault or ""))
        try:
            return await self.answer_post(path, request.body, fault, reader, writer)
        except ConnectionError:
            self.aborted += 1
            raise

    async def answer_get(self, path: str, writer: asyncio.StreamWriter) -> bool:
        if path in ("/health", "/ready"):
            return await send_json(writer, 200, {"status": "ok"})
        if path == "/v1/model":
            return await send_json(writer, 200, {"id": self.options.name, "object": "model"})
        if path in ("/v1/models", "/models"):
            card = {"id": self.options.name, "object": "model", "created": 0, "owned_by": "fake"}
            return await send_json(writer, 200, {"object": "list", "data": [card]})
        return await send_json(writer, 404, error("File Not Found", "not_found_error", 404))

    async def answer_post(
        self, path: str, body: dict[str, Any], fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        await self.misbehave_early(fault, reader, writer)
        if fault == "204":
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return await drained(writer)
        if fault.startswith("error") and fault[5:].isdigit():
            status = int(fault[5:])
            return await send_json(writer, status, error("as you wished", "fault", status), retry=status == 429)
        if path == "/v1/embeddings":
            return await send_json(writer, 200, self.embeddings(body), fault=fault)
        if path not in ("/v1/chat/completions", "/v1/completions"):
            return await send_json(writer, 404, error("File Not Found", "not_found_error", 404))
        is_chat = path == "/v1/chat/completions"
        tokens, reason = self.tokens(body)
        if body.get("stream"):
            return await self.stream(is_chat, body, tokens, reason, fault, reader, writer)
        for _ in tokens:
            await self.pause(reader)
        return await send_json(writer, 200, self.whole(is_chat, tokens, reason), fault=fault)

    async def misbehave_early(self, fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if fault == "die_before_byte":
            die()
        elif fault == "close_before_byte":
            raise Died
        elif fault == "garbage":
            writer.write(b"\x00\x01 this is not HTTP\r\n\r\n")
            await writer.drain()
            raise Died
        elif fault == "hang":
            await self.wait_until_left(reader)
        elif fault == "early_hints":
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        elif fault.startswith("slow:"):
            await self.sleep(float(fault[5:]) / 1000, reader)

    async def wait_until_left(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(4096):
            pass
        raise ConnectionResetError

    async def pause(self, reader: asyncio.StreamReader) -> None:
        if self.options.token_ms:
            await self.sleep(self.options.token_ms / 1000, reader)

    async def sleep(self, seconds: float, reader: asyncio.StreamReader) -> None:
        """Ends early with ConnectionResetError when the client leaves, as engines do."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wait_until_left(reader)

    # -- replies -------------------------------------------------------------------------------------------------

    def tokens(self, body: dict[str, Any]) -> tuple[list[str], str]:
        tokens = [f" I am {self.options.name}:", *(f" {number}" for number in range(1, self.options.count + 1))]
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        if limit is not None and limit < len(tokens):
            return tokens[:limit], "length"
        return tokens, "stop"

    def head(self, is_chat: bool, is_stream: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if is_stream else "chat.completion") if is_chat else "text_completion"
        prefix = "chatcmpl" if is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.requests}",
            "object": kind,
            "created": int(time.time()),
            "model": self.options.name,
        }

    def figures(self, count: int) -> dict[str, Any]:
        if self.options.style != "llamacpp":
            return {}
        milliseconds = max(1.0, count * (self.options.token_ms or 1.0))
        timings = {
            "cache_n": 0,
            "prompt_n": 7,
            "prompt_ms": 5.0,
            "prompt_per_token_ms": 5.0 / 7,
            "prompt_per_second": 1400.0,
            "predicted_n": count,
            "predicted_ms": milliseconds,
            "predicted_per_token_ms": milliseconds / max(1, count),
            "predicted_per_second": count * 1000 / milliseconds,
        }
        return {"timings": timings}

    def whole(self, is_chat: bool, tokens: list[str], reason: str) -> dict[str, Any]:
        text = "".join(tokens)
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        reply = {**self.head(is_chat, False), "choices": [choice], "usage": usage(len(tokens))}
        return {**reply, **self.figures(len(tokens))}

    def chunks(self, is_chat: bool, body: dict[str, Any], tokens: list[str], reason: str) -> Iterator[dict[str, Any]]:
        head = self.head(is_chat, True)

        def chunk(delta: dict[str, Any], text: str, reason: str | None = None) -> dict[str, Any]:
            choice = {"delta": delta} if is_chat else {"text": text}
            return {**head, "choices": [{"index": 0, "finish_reason": reason, **choice}]}

        if is_chat:
            yield chunk({"role": "assistant", "content": None}, "")
        for token in tokens:
            yield chunk({"content": token}, token)
        wanted = self.options.always_usage or (body.get("stream_options") or {}).get("include_usage")
        figures = self.figures(len(tokens))
        yield {**chunk({}, "", reason), **figures}
        if wanted:
            yield {**head, "choices": [], "usage": usage(len(tokens)), **figures}

    async def stream(
        self,
        is_chat: bool,
        body: dict[str, Any],
        tokens: list[str],
        reason: str,
        fault: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        is_chunked = fault != "close_framed"

        def send(data: bytes) -> None:
            writer.write(b"%x\r\n%s\r\n" % (len(data), data) if is_chunked else data)

        framing = b"Transfer-Encoding: chunked\r\n" if is_chunked else b""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n")
        sent = 0
        for chunk in self.chunks(is_chat, body, tokens, reason):
            is_token = bool(chunk["choices"]) and bool(
                chunk["choices"][0].get("text") or chunk["choices"][0].get("delta", {}).get("content")
            )
            if is_token:
                await self.misbehave_after(sent, fault, reader, writer, send)
                await self.pause(reader)
            send(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await writer.drain()
            if reader.at_eof():
                raise ConnectionResetError
            sent += is_token
        if fault != "no_done":
            send(b"data: [DONE]\n\n")
        if is_chunked:
            writer.write(b"0\r\n\r\n")
        if fault == "extra_bytes":
            writer.write(b"and this belongs to nothing")
        return await drained(writer) and is_chunked

    async def misbehave_after(
        self, sent: int, fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, send: Any
    ) -> None:
        name, _, number = fault.rpartition("_")
        if number.isdigit() and int(number) == sent and name in ("die_after", "close_after", "stall_after"):
            await writer.drain()
            if name == "die_after":
                die()
            if name == "close_after":
                raise Died
            await self.wait_until_left(reader)
        if fault == "bad_chunk" and sent == 2:
            writer.write(b"zz\r\nnot a chunk\r\n")
            await self.wait_until_left(reader)
        if fault == "error_in_stream" and sent == 3:
            send(b"data: " + json.dumps(error("context shift failed", "server_error", 500)).encode() + b"\n\n")
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            raise Died

    def embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        given = body.get("input", "")
        texts = given if isinstance(given, list) else [given]
        data = [
            {"object": "embedding", "index": index, "embedding": [len(str(text)) / 100, 0.5, -0.5, index / 10]}
            for index, text in enumerate(texts)
        ]
        used = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return {"object": "list", "model": self.options.name, "data": data, "usage": used}


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    raw = b""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            raw += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    elif length := int(headers.get("content-length", 0)):
        raw = await reader.readexactly(length)
    request = Request(method=method, path=path, headers=headers, raw=raw)
    with contextlib.suppress(ValueError):
        body = json.loads(raw) if raw else {}
        request.body = body if isinstance(body, dict) else {}
    return request


async def send_json(
    writer: asyncio.StreamWriter, status: int, content: object, *, fault: str = "", retry: bool = False
) -> bool:
    data = json.dumps(content).encode()
    length = len(data) + (10 if fault == "short_length" else 0)
    framing = "" if fault == "close_framed" else f"Content-Length: {length}\r\n"
    extra = "Retry-After: 1\r\n" if retry else ""
    writer.write(f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{framing}{extra}\r\n".encode() + data)
    if fault == "extra_bytes":
        writer.write(b"and this belongs to nothing")
    return await drained(writer) and fault not in ("close_framed", "short_length")


async def drained(writer: asyncio.StreamWriter) -> bool:
    await writer.drain()
    return True


def usage(count: int) -> dict[str, Any]:
    details = {"cached_tokens": 0}
    return {
        "completion_tokens": count,
        "prompt_tokens": 7,
        "total_tokens": count + 7,
        "prompt_tokens_details": details,
    }


def error(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": kind}}


def push(state: str, payload: object) -> None:
    compact = json.dumps({"state": state, "payload": payload}, separators=(",", ":"))
    print(f"cmd_child_to_router:state:{compact}", flush=True)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def spawn_child(kind: str) -> None:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if kind == "session":
            os.setsid()
        while True:
            signal.pause()
    print(f"child {pid}", flush=True)


def flood(size: int) -> None:
    block = b"".join(b"flood line %06d %s\n" % (number, b"x" * 80) for number in range(1000))
    for _ in range(size // len(block) + 1):
        os.write(2, block)
    print("flood over", file=sys.stderr, flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "0")))
    parser.add_argument("--name", default=os.environ.get("MODEL", "fake"))
    parser.add_argument("--count", type=int, default=300)
    # llama-server's options, so that it can be started in its place; --alias is --name, the others mean nothing here.
    parser.add_argument("--alias", dest="name")
    for ignored in ("-m", "--host", "-c", "-t", "-np", "--sse-ping-interval"):
        parser.add_argument(ignored)
    parser.add_argument("--startup-s", type=float, default=0.0)
    parser.add_argument("--crash-after-s", type=float)
    parser.add_argument("--exit-at-start", type=int)
    parser.add_argument("--flood-stderr", type=int, default=0)
    parser.add_argument("--spawn-child", choices=["group", "session"])
    parser.add_argument("--say", action="append", default=[])
    parser.add_argument("--style", choices=["llamacpp", "openai"], default="llamacpp")
    parser.add_argument("--token-ms", type=float, default=0.0)
    parser.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY"))
    parser.add_argument("--fault")
    parser.add_argument("--die-before-first-byte", dest="fault", action="store_const", const="die_before_byte")
    parser.add_argument("--die-mid-stream", dest="fault", action="store_const", const="die_after_3")
    parser.add_argument("--refuse-until-ready", action="store_true")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--push-lines", action="store_true")
    parser.add_argument("--push-only", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--second-term", action="store_true")
    parser.add_argument("--exit-on-stdin-eof", action="store_true")
    parser.add_argument("--strict-model", action="store_true")
    parser.add_argument("--always-usage", action="store_true")
    return parser.parse_args(argv)


def main() -> int:
    options = parse(sys.argv[1:])
    if options.spawn_child:
        spawn_child(options.spawn_child)
    for text in options.say:
        print(text, file=sys.stderr, flush=True)
    if options.exit_at_start is not None:
        return options.exit_at_start
    if options.flood_stderr:
        flood(options.flood_stderr)
    asyncio.run(FakeBackend(options).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
