"""Speaks vLLM 0.33.0 byte for byte, without a model: recorded from 0.32.0 on a CPU, and read in 0.33.0's source.

    python -IS tests/programs/fake_vllm.py serve PATH --port 8000 --served-model-name NAME [options]

Its port refuses until it is ready; then `/health` is 200 with an empty body. The engine is a process of its own
(EngineCore) in the same group, and it survives the death of its parent. Another model name is refused with 404.

After a SIGTERM the port refuses at once, a running stream stalls without another byte, and the server waits until its
client has left (seen for as long as the client had patience). Idle it is gone at once.

When its engine dies, whoever waits is told so at once: by a 500, or in a stream of 200 by an error and [DONE], before
the first token or after it. A moment later the server has ended too.

With VLLM_SERVER_DEV_MODE=1 it sleeps and wakes up (0.33's source, entrypoints/serve/dev/sleep/api_router.py). A request
while it sleeps kills its engine; what the real one does then hasn't been seen.

Beside the engine's own options, and those of `fake_server`:
  --insomniac           a /sleep is answered with 500
  --comatose            so is a /wake_up
  --shards N            lines of the progress bar (4)
  --free-memory GIB     what the device has left, of 23.5: below --gpu-memory-utilization it refuses to start
  --reasoning           the first three numbers come as `reasoning`
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
    CHATS,
    Exchange,
    FakeServer,
    GivenUp,
    Json,
    accept,
    bearer,
    common_options,
    fork,
    has_ended,
    main,
    wait_for_signals,
)

TOTAL_GIB = 23.5
GUARDED = ("/v1", "/v2", "/inference", "/cohere")
SLEEP = ("/sleep", "/wake_up", "/is_sleeping")
WATCHDOG_S = 0.2  # 5 s in the engine


class FakeVLLM(FakeServer):
    stream_kind = "text/event-stream; charset=utf-8"

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.names: list[str] = options.served_model_name or [options.name or options.model]
        self.name = self.names[0]
        self.context = options.max_model_len or 4096
        self.is_leaving = self.is_engine_dead = self.is_sleeping = False
        self.engine = 0
        self.server: asyncio.Server | None = None

    # -- life

    async def run(self) -> None:
        self.engine = fork("VLLM::EngineCor", wait_for_signals)
        self.log(f"(EngineCore pid={self.engine}) INFO 11-22 18:38:28 [core.py:133] Initializing a V1 LLM engine")
        if self.options.free_memory < self.options.gpu_memory_utilization * TOTAL_GIB:
            self.refuse_memory()
        await self.load()
        await self.listen()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.on_engine_gone)
        self.get_ready()
        while not self.is_leaving or self.running:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        os._exit(0)

    async def load(self) -> None:
        self.log("(Worker pid=23655) INFO 11-22 18:38:41 [gpu_model_runner.py:68] Starting to load model")
        shards = self.options.shards
        for number in range(shards + 1):
            bar = f"Loading safetensors checkpoint shards: {100 * number // shards:3}% Completed | {number}/{shards}"
            os.write(2, f"\r{bar} [00:00<00:00, 27.11it/s]\n".encode())
            await asyncio.sleep(self.options.startup_s / (shards + 1))
        if self.options.never_ready:
            await asyncio.Event().wait()
        self.log("(EngineCore pid=23644) INFO 11-22 18:38:42 [kv_cache_utils.py:2327] GPU KV cache size: 65,536 tokens")
        self.log(
            "(EngineCore pid=23644) INFO 11-22 18:38:44 [core.py:402] init engine (profile, create kv cache) took 2 s"
        )

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.on_term)
        self.server = await asyncio.start_server(self.on_connection, "127.0.0.1", self.options.port)
        self.log(f"(APIServer) INFO 11-22 18:38:45 [entry.py:140] Starting vLLM server on {self.options.port}")
        self.log("(APIServer) INFO:     Application startup complete.")

    def refuse_memory(self) -> None:
        free, share = self.options.free_memory, self.options.gpu_memory_utilization
        words = (
            f"Free memory on device cuda:0 ({free:.2f}/{TOTAL_GIB:.2f} GiB) on startup is less than desired GPU memory "
            f"utilization ({share}, {share * TOTAL_GIB:.2f} GiB). Decrease GPU memory utilization or reduce GPU memory "
            "used by other processes."
        )
        self.log(f"(EngineCore pid={self.engine}) ERROR 11-22 18:38:41 [core.py:1110] EngineCore failed to start.")
        self.log(f"(EngineCore pid={self.engine}) ERROR 11-22 18:38:41 [core.py:1110] ValueError: {words}")
        self.log("(APIServer) RuntimeError: Engine core initialization failed. See root cause above.")
        os.kill(self.engine, signal.SIGKILL)
        os._exit(1)

    def leave(self) -> None:
        self.log("(APIServer) INFO 11-22 18:39:38 [launcher.py:282] [shutdown] API server: signalling HTTP shutdown")
        self.is_leaving = True
        assert self.server is not None
        self.server.close()
        if not self.is_engine_dead:
            os.kill(self.engine, signal.SIGTERM)
        for exchange in self.open:
            exchange.give_up()

    def on_engine_gone(self) -> None:
        self.is_engine_dead = has_ended(self.engine)
        if self.is_engine_dead and not self.is_leaving:
            for exchange in self.open:
                exchange.give_up()
            asyncio.get_running_loop().call_later(WATCHDOG_S, os._exit, 1)

    def log(self, text: str) -> None:
        print(text, flush=True)

    # -- routes

    async def answer(self, exchange: Exchange) -> None:
        request, key = exchange.request, self.options.api_key
        if key and request.path.startswith(GUARDED) and bearer(request) not in key:
            await exchange.json(401, {"error": "Unauthorized"})
        elif request.path in SLEEP and os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            await self.answer_sleep(exchange)
        elif request.method == "GET":
            await self.answer_get(exchange)
        elif request.path not in (*CHATS, "/v1/embeddings"):
            await exchange.json(404, {"detail": "Not Found"})
        elif not request.headers.get("content-type", "").startswith("application/json"):
            words = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
            await exchange.json(400, self.error(words, "Bad Request", 400))
        elif request.body.get("model", self.name) not in self.names:
            words = f"The model `{request.body['model']}` does not exist. Valid aliases: {', '.join(self.names)}."
            await exchange.json(404, self.error(words, "NotFoundError", 404, "model"))
        else:
            if self.is_sleeping:
                os.kill(self.engine, signal.SIGKILL)
            try:
                await self.infer(exchange)
            except GivenUp:
                if not self.is_engine_dead:
                    await exchange.wait_until_left()
                elif request.body.get("stream"):
                    await exchange.begin_stream(self.stream_kind)
                    await self.end_given_up(exchange, 0)
                else:
                    await exchange.json(500, self.dead())

    async def answer_sleep(self, exchange: Exchange) -> None:
        path, method = exchange.request.path, exchange.request.method
        if method != ("GET" if path == "/is_sleeping" else "POST"):
            await exchange.json(405, {"detail": "Method Not Allowed"})
        elif path == "/is_sleeping":
            await exchange.json(200, {"is_sleeping": self.is_sleeping})
        elif self.options.insomniac if path == "/sleep" else self.options.comatose:
            await exchange.json(500, self.error("EngineCore encountered an issue.", "InternalServerError", 500))
        elif path == "/sleep":
            self.is_sleeping = True
            await exchange.json(200, {"status": "sleeping", "level": int(exchange.request.target.rpartition("=")[2])})
        else:
            self.is_sleeping = False
            await exchange.json(200, {"status": "awake", "tags": None})

    async def answer_get(self, exchange: Exchange) -> None:
        match exchange.request.path:
            case "/health" | "/ping":
                await exchange.send(503 if self.is_engine_dead else 200, b"")
            case "/v1/models":
                cards = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "vllm", "root": self.options.model}
                    | {"parent": None, "max_model_len": self.context, "permission": []}
                    for name in self.names
                ]
                await exchange.json(200, {"object": "list", "data": cards})
            case "/version":
                await exchange.json(200, {"version": "0.33.0"})
            case "/load":
                await exchange.json(200, {"server_load": self.running})
            case _:
                await exchange.json(404, {"detail": "Not Found"})

    async def end_given_up(self, exchange: Exchange, sent: int) -> None:
        """Told to leave, it says nothing more, and the connection stays."""
        if not self.is_engine_dead:
            await exchange.wait_until_left()
        await self.event(exchange, self.dead())
        await exchange.part(b"data: [DONE]\n\n")
        await exchange.end_stream()

    # -- what it says

    def dead(self) -> Json:
        words = "EngineCore encountered an issue. See stack trace (above) for the root cause."
        return self.error(words, "InternalServerError", 500)

    def error(self, message: str, kind: str, code: int, param: str | None = None) -> Json:
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def reply_name(self, exchange: Exchange) -> str:
        return str(exchange.request.body.get("model", self.name))

    def usage(self, count: int) -> Json:
        details = {"prompt_tokens_details": {"cached_tokens": 0}} if self.options.enable_prompt_tokens_details else {}
        return {**super().usage(count), **details}

    def chunks(self, exchange: Exchange, pieces: list[str], reason: str) -> Iterator[Json]:
        head, is_chat = self.head(exchange), exchange.request.path == CHATS[0]
        if is_chat:
            first = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            yield {**head, "choices": [{"index": 0, **first}], "prompt_token_ids": None, "prompt_text": None}
        for number, piece in enumerate(pieces):
            is_last = number == len(pieces) - 1
            if not is_chat:
                said: Json = {"text": piece}
            elif self.options.reasoning and 1 <= number <= 3:
                said = {"delta": {"reasoning": piece}}
            else:
                said = {"delta": {"content": piece}}
            # The last token and the reason for the end share a chunk.
            end = {"finish_reason": reason, "stop_reason": None} if is_last else {"finish_reason": None}
            yield {**head, "choices": [{"index": 0, **said, "logprobs": None, **end, "token_ids": None}]}
        if self.wants_usage(exchange):
            yield {**head, "choices": [], "usage": self.usage(len(pieces)), "system_fingerprint": "vllm-0.33.0"}

    def whole(self, exchange: Exchange, pieces: list[str], reason: str) -> Json:
        choice: Json = {"index": 0}
        if exchange.request.path == CHATS[0]:
            content = "".join(pieces[:1] + pieces[4:] if self.options.reasoning else pieces)
            thought = "".join(pieces[1:4]) if self.options.reasoning else None
            message = {"role": "assistant", "content": content, "refusal": None, "annotations": None, "audio": None}
            choice["message"] = {**message, "function_call": None, "reasoning": thought}
        else:
            choice["text"] = "".join(pieces)
        choice |= {"logprobs": None, "finish_reason": reason, "stop_reason": None, "token_ids": None}
        usage = {"prompt_tokens_details": None, "completion_tokens_details": None, **self.usage(len(pieces))}
        rest = {"prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None, "metrics": None}
        about = {"service_tier": None, "system_fingerprint": "vllm-0.33.0"}
        return {**self.head(exchange), "choices": [choice], **about, "usage": usage, **rest}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("model", nargs="?", default="model")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--name", default=os.environ.get("MODEL"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8000")))
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    parser.add_argument("--api-key", nargs="+", default=list(filter(None, [os.environ.get("VLLM_API_KEY")])))
    parser.add_argument("--enable-prompt-tokens-details", action="store_true")
    accept(
        parser,
        values="--host --kv-cache-memory-bytes --max-num-seqs --tensor-parallel-size --quantization --dtype"
        " --kv-cache-dtype --shutdown-timeout --reasoning-parser --tool-call-parser --sse-keep-alive-interval"
        " --runner --convert --task --kv-offloading-size",
        switches="--enable-sleep-mode --enable-force-include-usage --enable-server-load-tracking --trust-remote-code"
        " --enable-auto-tool-choice --disable-uvicorn-access-log --enforce-eager",
    )
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--free-memory", type=float, default=TOTAL_GIB)
    parser.add_argument("--reasoning", action="store_true")
    parser.add_argument("--insomniac", action="store_true")
    parser.add_argument("--comatose", action="store_true")
    common_options(parser)
    return parser.parse_args(argv[1:] if argv[:1] == ["serve"] else argv)


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    sys.exit(main(options, lambda: FakeVLLM(options).run()))
