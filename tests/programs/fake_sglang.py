"""Speaks SGLang 0.5.23 byte for byte, without a model: recorded from that version on a CPU, and read in its source.

    python -IS tests/programs/fake_sglang.py serve --model-path P --port 30000 --served-model-name NAME [options]

Started with or without the word `serve` (`python -m sglang.launch_server` has none). While it loads its port refuses;
then it answers 503 with an empty body while it warms up; then `/ready` is 200. `/health` generates a token: it takes a
second, unless SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0 makes a flag check of it. A wrong model name is answered and
echoed; the answer's text names the model, so a test sees who it was.

It gives its memory back and takes it again (managers/scheduler_components/weight_updater.py). As in that source its
scheduler, and so the server, dies of giving it back while a request runs, of taking what it has, and of a request in
between; without --enable-memory-saver nothing happens, and the answer is the same.

Beside the engine's own options, and those of `fake_server`:
  --comatose            it dies of taking its memory again
  --warmup-s S          503 for so long once the port is open (0.1)
  --shards N            lines of the progress bar (4)
  --older               a build without /ready (404), so that only /health tells
  --term-tick-s S       how often it looks for a pending SIGTERM (5, as the engine); then it waits for running requests
                        without bound
  --reasoning           the first three numbers come as `reasoning_content`
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator

sys.path[:0] = [__file__.rpartition("/")[0]]  # -I leaves it out
sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio does without, and is imported sooner

import asyncio  # noqa: E402

from fake_server import (  # noqa: E402
    Exchange,
    FakeServer,
    Json,
    accept,
    bearer,
    common_options,
    die,
    die_with_parent,
    fork,
    has_ended,
    main,
)

OPEN = ("/health", "/health_generate", "/ready", "/metrics", "/stats")
HEALTH_S = 1.0


class FakeSGLang(FakeServer):
    stream_kind = "text/event-stream; charset=utf-8"

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.context = options.context_length or 4096
        self.is_leaving = self.is_released = False
        self.workers: list[int] = []

    # -- life

    async def run(self) -> None:
        # TERM before the port is open has its default action, and the workers die with their parent.
        self.workers = [fork(name, die_with_parent) for name in ("sglang::schedul", "sglang::detoken")]
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.on_worker_gone)
        log("Load weight begin. avail mem=23.11 GB")
        await self.load()
        log("Load weight end. elapsed=0.02 s, type=LlamaForCausalLM, avail mem=21.60 GB, mem usage=1.51 GB.")
        log(f"max_total_num_tokens=4096, chunked_prefill_size=4096, context_len={self.context}, available_gpu_mem=1 GB")
        await self.listen()
        await asyncio.sleep(self.options.warmup_s)
        self.get_ready()
        log("The server is fired up and ready to roll!")
        while not self.is_leaving or self.running:  # noqa: ASYNC110 - as the engine does
            await asyncio.sleep(self.options.term_tick_s)
        self.end()

    async def load(self) -> None:
        shards = self.options.shards
        for number in range(shards + 1):
            # One line for all of them: tqdm goes back to its start with a \r, and ends it after the last.
            bar = f"Multi-thread loading shards: {100 * number // shards:3}% Completed | {number}/{shards}"
            os.write(2, f"\r{bar} [00:00<00:00, 165.46it/s]{chr(10) if number == shards else ''}".encode())
            await asyncio.sleep(self.options.startup_s / (shards + 1))
        if self.options.never_ready:
            await asyncio.Event().wait()

    def say_listening(self, port: int) -> None:
        log(f"INFO:     Uvicorn running on http://127.0.0.1:{port} (Press CTRL+C to quit)")

    def leave(self) -> None:
        self.is_leaving = True

    def on_worker_gone(self) -> None:
        if not self.is_leaving and any(has_ended(worker) for worker in self.workers):
            log("Received sigquit from a child process. It usually means the child failed.")
            die()

    def end(self) -> None:
        for worker in self.workers:
            os.kill(worker, signal.SIGKILL)
        os._exit(0)

    # -- routes

    async def answer(self, exchange: Exchange) -> None:
        request, key = exchange.request, self.options.api_key
        if key and request.path not in OPEN and bearer(request) != key:
            await exchange.json(401, {"error": "Unauthorized"})
        elif request.method == "GET":
            await self.answer_get(exchange)
        elif not request.headers.get("content-type", "").startswith("application/json"):
            words = "Unsupported Media Type: Only 'application/json' is allowed"
            await exchange.json(400, self.error(f"1 validation error:\n  {words}", "Bad Request", 400))
        else:
            await self.answer_post(exchange)

    async def answer_get(self, exchange: Exchange) -> None:
        match exchange.request.path:
            case "/ready" if not self.options.older:
                await exchange.send(200 if self.is_ready and not self.is_leaving else 503, b"")
            case "/health" | "/health_generate":
                flag = os.environ.get("SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION")
                if self.is_ready and not self.is_leaving and (flag != "0" or "generate" in exchange.request.path):
                    await exchange.pause(HEALTH_S)
                await exchange.send(200 if self.is_ready and not self.is_leaving else 503, b"")
            case "/v1/models":
                card = {"id": self.name, "object": "model", "created": 0, "owned_by": "sglang", "root": self.name}
                card |= {"parent": None, "max_model_len": self.context}
                await exchange.json(200, {"object": "list", "data": [card]})
            case "/model_info" | "/get_model_info":
                about = {"model_path": self.options.model_path, "served_model_name": self.name, "is_generation": True}
                await exchange.json(200, {**about, "load_format": "auto", "weight_version": "default"})
            case "/server_info" | "/get_server_info":
                memory = {"weight": 1.51, "kvcache": 0.5, "startup_available": 23.11, "token_capacity": 4096}
                state = {"memory_usage": memory}
                about = {"version": "0.5.23", "context_length": self.context, "max_total_num_tokens": 4096}
                await exchange.json(200, {**about, "max_running_requests": 2048, "internal_states": [state]})
            case "/v1/loads":
                await exchange.json(200, self.loads())
            case _:
                await exchange.json(404, {"detail": "Not Found"})

    async def answer_post(self, exchange: Exchange) -> None:
        match exchange.request.path:
            case "/abort_request":
                if exchange.request.body.get("abort_all"):
                    for other in self.open - {exchange}:
                        other.give_up()
                await exchange.send(200, b"")
            case "/release_memory_occupation" | "/resume_memory_occupation" as path:
                await self.occupy(exchange, path == "/resume_memory_occupation")
            case "/generate":
                await self.live_or_die(not self.is_released)
                await exchange.json(200, {"text": " one", "meta_info": {"finish_reason": {"type": "length"}}})
            case "/v1/embeddings" if not self.options.is_embedding:
                words = "This model does not appear to be an embedding model by default. Please add `--is-embedding`"
                await exchange.json(400, self.error(words, "BadRequestError", 400))
            case "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings":
                await self.live_or_die(not self.is_released)
                await self.infer(exchange)
            case _:
                await exchange.json(404, {"detail": "Not Found"})

    async def occupy(self, exchange: Exchange, takes: bool) -> None:
        if self.options.enable_memory_saver:
            is_idle = self.running == 1  # but for this very request
            await self.live_or_die(self.is_released == takes and is_idle and not (takes and self.options.comatose))
            self.is_released = not takes
        await exchange.json(200, None)

    async def live_or_die(self, lives: bool) -> None:
        if not lives:
            os.kill(self.workers[0], signal.SIGKILL)
            await asyncio.Event().wait()

    def loads(self) -> Json:
        running = self.running
        memory: Json = {"weight_gb": 1.51, "kv_cache_gb": 0.5, "graph_gb": 0.0, "token_capacity": 4096}
        load: Json = {"dp_rank": 0, "num_running_reqs": running, "num_waiting_reqs": 0, "num_used_tokens": 0}
        load |= {"max_total_num_tokens": 4096, "max_running_requests": 2048, "token_usage": 0.0, "gen_throughput": 0.0}
        load |= {"memory": memory, "queues": {"waiting": 0, "paused": 0}}
        return {"timestamp": "2026-11-22T18:42:18+00:00", "version": "0.5.23", "loads": [load]}

    async def end_given_up(self, exchange: Exchange, sent: int) -> None:
        """Aborted: a finish chunk that says so, and a clean end."""
        delta: Json = {"reasoning_content": None}
        is_chat = exchange.request.path == "/v1/chat/completions"
        await self.event(exchange, self.chunk(exchange, delta if is_chat else "", "abort"))
        if self.wants_usage(exchange):
            await self.event(exchange, {**self.head(exchange), "choices": [], "usage": self.usage(sent)})
        await exchange.part(b"data: [DONE]\n\n")
        await exchange.end_stream()

    # -- what it says

    def reply_name(self, exchange: Exchange) -> str:
        return str(exchange.request.body.get("model", self.name))

    def error(self, message: str, kind: str, code: int) -> Json:
        return {"object": "error", "message": message, "type": kind, "param": None, "code": code}

    def stream_error(self, message: str) -> Json:
        return {"error": {"object": "error", "message": message, "type": "InternalServerError", "code": 500}}

    def usage(self, count: int) -> Json:
        details = {"cached_tokens": 0} if self.options.enable_cache_report else None
        extra = {"prompt_tokens_details": details, "reasoning_tokens": 0, "completion_tokens_details": None}
        return {**super().usage(count), **extra}

    def chunk(self, exchange: Exchange, said: Json | str, reason: str | None = None) -> Json:
        choice: Json = {"index": 0}
        choice |= {"text": said} if isinstance(said, str) else {"delta": said}
        choice |= {"logprobs": None, "finish_reason": reason, "matched_stop": 1 if reason == "stop" else None}
        chunk = {**self.head(exchange), "choices": [choice]}
        return {**chunk, "usage": None} if isinstance(said, str) else chunk

    def chunks(self, exchange: Exchange, pieces: list[str], reason: str) -> Iterator[Json]:
        if exchange.request.path == "/v1/completions":
            for number, piece in enumerate(pieces, start=1):
                yield self.chunk(exchange, piece, reason if number == len(pieces) else None)
        else:
            yield self.chunk(exchange, {"reasoning_content": None, "role": "assistant", "content": ""})
            for number, piece in enumerate(pieces):
                if self.options.reasoning and 1 <= number <= 3:
                    yield self.chunk(exchange, {"reasoning_content": piece})
                else:
                    yield self.chunk(exchange, {"reasoning_content": None, "content": piece})
            yield self.chunk(exchange, {"reasoning_content": None}, reason)
        if self.wants_usage(exchange):
            yield {**self.head(exchange), "choices": [], "usage": self.usage(len(pieces))}

    def whole(self, exchange: Exchange, pieces: list[str], reason: str) -> Json:
        text = "".join(pieces)
        choice: Json = {"index": 0}
        if exchange.request.path == "/v1/completions":
            choice |= {"text": text}
        else:
            choice |= {"message": {"role": "assistant", "content": text, "reasoning_content": None}}
        choice |= {"logprobs": None, "finish_reason": reason, "matched_stop": 1 if reason == "stop" else None}
        return {
            **self.head(exchange),
            "choices": [choice],
            "usage": self.usage(len(pieces)),
            "metadata": {"weight_version": "default"},
        }


def log(text: str) -> None:
    os.write(2, f"[2026-11-22 18:40:47] {text}\n".encode())


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sglang", allow_abbrev=False)
    parser.add_argument("--model-path")
    parser.add_argument("--served-model-name", "--name", dest="name", default=os.environ.get("MODEL", "fake"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "30000")))
    parser.add_argument("--context-length", type=int)
    parser.add_argument("--api-key")
    parser.add_argument("--is-embedding", action="store_true")
    parser.add_argument("--enable-memory-saver", action="store_true")
    parser.add_argument("--enable-cache-report", action="store_true")
    accept(
        parser,
        values="--host --mem-fraction-static --max-total-tokens --max-running-requests --tp-size --base-gpu-id"
        " --quantization --dtype --kv-cache-dtype --reasoning-parser --tool-call-parser --chat-template --device"
        " --attention-backend --log-level --config --admin-api-key --watchdog-timeout",
        switches="--trust-remote-code --enable-metrics --enable-weights-cpu-backup --skip-server-warmup"
        " --stream-response-default-include-usage",
    )
    parser.add_argument("--warmup-s", type=float, default=0.1)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--older", action="store_true")
    parser.add_argument("--comatose", action="store_true")
    parser.add_argument("--term-tick-s", type=float, default=5.0)
    parser.add_argument("--reasoning", action="store_true")
    common_options(parser)
    return parser.parse_args(argv[1:] if argv[:1] == ["serve"] else argv)


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    sys.exit(main(options, lambda: FakeSGLang(options).run()))
