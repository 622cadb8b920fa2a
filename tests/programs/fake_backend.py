"""An inference server that isn't one: llama.cpp's manners by default, any other server's that speaks OpenAI by option.

    python -IS tests/programs/fake_backend.py --port 9000 --name a [options]

Routes: GET /health /ready /v1/model (200, or 503 while loading), GET /v1/models, GET /props, POST /v1/chat/completions,
/v1/completions, /v1/embeddings. Follows llama-server b11434: every path answers 503 while it loads, the finish chunk
has `timings`, a wrong model name is answered under its own.

Beside the options of `fake_server`:
  --port N --name NAME      default: the environment's PORT and MODEL
  -m -c -t -np --host --alias NAME --sse-ping-interval X --jinja --no-ui --fit-ctx N …: as llama-server's
  --context N               the context that it says it has, whatever -c asked for
  --refuse-until-ready      don't listen before being ready (as vLLM); with --never-ready: refuse for ever
  --push-lines              print llama.cpp's child protocol: loading 0.0, 0.5, 1.0, then ready
  --push-only               never answer 200 on /health (with --push-lines: only the lines tell)
  --second-term             the first SIGTERM does nothing, the second one exits with 1 (as llama-server)
  --exit-on-stdin-eof       exit with 1 when stdin ends (as llama-server's child mode)
  --style llamacpp|openai   llamacpp (default): `timings` in the finish chunk, `usage` on request.
                            openai: no timings; --style openai --always-usage sends usage unasked.
  --api-key KEY             401 without it (except /health, /ready); default: LLAMA_API_KEY
  --strict-model            404 for any other `model` than NAME (as vLLM)
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator

sys.path[:0] = [__file__.rpartition("/")[0]]  # -I leaves it out
sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio does without, and is imported sooner

import asyncio  # noqa: E402

from fake_server import CHATS, Exchange, FakeServer, Json, accept, bearer, common_options, main  # noqa: E402

OPEN_PATHS = ("/health", "/ready")


class FakeBackend(FakeServer):
    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.context = options.context or int(options.c or 4096)

    # -- life

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.on_term)
        if self.options.exit_on_stdin_eof:
            loop.add_reader(0, self.on_stdin)
        if self.options.refuse_until_ready:
            await self.load()
            await self.listen()
        else:
            await self.listen()
            await self.load()
        self.get_ready()
        if self.options.push_lines:
            push("ready", {"id": self.name})
        await asyncio.Event().wait()

    async def load(self) -> None:
        for value in (0.0, 0.5, 1.0):
            if self.options.push_lines:
                push("loading", {"stages": ["text_model"], "current": "text_model", "value": value})
            await asyncio.sleep(self.options.startup_s / 3)
        if self.options.never_ready:
            await asyncio.Event().wait()

    def on_term(self) -> None:
        if self.options.second_term and self.terms:
            os._exit(1)
        super().on_term()

    def leave(self) -> None:
        if not self.options.second_term:
            super().leave()

    def on_stdin(self) -> None:
        data = os.read(0, 4096)
        if not data:
            os._exit(1)
        print(f"stdin: {data.decode().strip()}", flush=True)

    # -- routes

    async def answer(self, exchange: Exchange) -> None:
        request, key = exchange.request, self.options.api_key
        if not self.is_ready or (self.options.push_only and request.path == "/health"):
            await exchange.json(503, self.error("Loading model", "unavailable_error", 503))
        elif key and request.path not in OPEN_PATHS and bearer(request) != key:
            await exchange.json(401, self.error("Invalid API Key", "authentication_error", 401))
        elif request.method == "GET":
            await self.answer_get(exchange)
        elif self.options.strict_model and request.body.get("model") != self.name:
            message = f"The model `{request.body.get('model')}` does not exist."
            await exchange.json(404, self.error(message, "NotFoundError", 404))
        elif request.path in (*CHATS, "/v1/embeddings"):
            await self.infer(exchange)
        else:
            await exchange.json(404, self.error("File Not Found", "not_found_error", 404))

    async def answer_get(self, exchange: Exchange) -> None:
        match exchange.request.path:
            case "/health" | "/ready":
                await exchange.json(200, {"status": "ok"})
            case "/v1/model":
                await exchange.json(200, {"id": self.name, "object": "model"})
            case "/v1/models" | "/models":
                meta = {"n_ctx": self.context, "n_ctx_train": 8192}
                card = {"id": self.name, "object": "model", "created": 0, "owned_by": "llamacpp", "meta": meta}
                await exchange.json(200, {"object": "list", "data": [card]})
            case "/props":
                settings = {"n_ctx": self.context}
                about = {
                    "total_slots": int(self.options.np or 4),
                    "model_alias": self.name,
                    "build_info": "b11434-fake",
                }
                await exchange.json(200, {"default_generation_settings": settings, **about, "is_sleeping": False})
            case _:
                await exchange.json(404, self.error("File Not Found", "not_found_error", 404))

    # -- what it says

    def error(self, message: str, kind: str, code: int) -> Json:
        return {"error": {"code": code, "message": message, "type": kind}}

    def usage(self, count: int) -> Json:
        return {**super().usage(count), "prompt_tokens_details": {"cached_tokens": 0}}

    def figures(self, count: int) -> Json:
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

    def whole(self, exchange: Exchange, pieces: list[str], reason: str) -> Json:
        text = "".join(pieces)
        is_chat = exchange.request.path == CHATS[0]
        said: Json = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        choice = {"index": 0, "finish_reason": reason, **said}
        usage = self.usage(len(pieces))
        return {**self.head(exchange), "choices": [choice], "usage": usage, **self.figures(len(pieces))}

    def chunks(self, exchange: Exchange, pieces: list[str], reason: str) -> Iterator[Json]:
        head, is_chat = self.head(exchange), exchange.request.path == CHATS[0]

        def chunk(delta: Json, text: str, reason: str | None = None) -> Json:
            choice = {"delta": delta} if is_chat else {"text": text}
            return {**head, "choices": [{"index": 0, "finish_reason": reason, **choice}]}

        if is_chat:
            yield chunk({"role": "assistant", "content": None}, "")
        for piece in pieces:
            yield chunk({"content": piece}, piece)
        figures = self.figures(len(pieces))
        yield {**chunk({}, "", reason), **figures}
        if self.options.always_usage or self.wants_usage(exchange):
            yield {**head, "choices": [], "usage": self.usage(len(pieces)), **figures}


def push(state: str, payload: object) -> None:
    compact = json.dumps({"state": state, "payload": payload}, separators=(",", ":"))
    print(f"cmd_child_to_router:state:{compact}", flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "0")))
    parser.add_argument("--name", default=os.environ.get("MODEL", "fake"))
    parser.add_argument("--alias", dest="name")
    accept(
        parser,
        values="-m -c -t -np --host --sse-ping-interval --slot-save-path --fit --fit-ctx",
        switches="--jinja --no-ui --embeddings --rerank",
    )
    parser.add_argument("--context", type=int)
    parser.add_argument("--style", choices=["llamacpp", "openai"], default="llamacpp")
    parser.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY"))
    for switch in ("refuse-until-ready", "push-lines", "push-only", "second-term", "exit-on-stdin-eof"):
        parser.add_argument(f"--{switch}", action="store_true")
    for switch in ("strict-model", "always-usage"):
        parser.add_argument(f"--{switch}", action="store_true")
    common_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    sys.exit(main(options, lambda: FakeBackend(options).run()))
