"""Speaks TabbyAPI's API (e632af4, 2026-08-13) without a model: its shapes, statuses, keys and event streams.

    cd FOLDER && python -IS …/fake_tabbyapi.py --port 5000 --model-dir models [options]

FOLDER is what its own folder is to the real one: `api_tokens.yml` is read there (written where there is none, its keys
printed either way), and `models/NAME` are the models. The answers are " I am NAME: 1 2 3 …" of the model that is
loaded, so a test sees who answered. A model's folder may hold
  vision                    loads the vision part first, with a `finished` of its own
  failure                   the load fails with this file's text, and what was loaded before is gone
  tabby_config.yml          `max_seq_len: N` in it is the context

Started with --model-name it loads that one before its port opens, and ends if it can't. If the port is taken it listens
one higher and only its log says so.

Beside the engine's own options, and those of `fake_server`:
  --exl2                    as the branch exl2-checkpoint (79126f9): a load ends when its client leaves, and no model is
                            there then
  --modules N               steps of a load (8)
  --endless-pings           a stream that an unload cancels sends pings for ever, instead of an error
  --ping-s S                between comment pings (15, as the engine)
"""

import argparse
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterator

sys.path[:0] = [__file__.rpartition("/")[0]]  # -I leaves it out
sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio does without, and is imported sooner

import asyncio  # noqa: E402

from fake_server import CHATS, Dropped, Exchange, FakeServer, GivenUp, Json, accept, common_options, main, spawn  # noqa: E402

NO_MODEL = {"detail": "No models are currently loaded."}
TOKENS = "api_tokens.yml"
# `finished` comes before the model answers: the generator is made after it.
PUBLISH_S = 0.02
# A request is given room for its prompt (7 tokens here) and one whole chunk of output (2048), in pages of 256
# (validate_context_requirements): a cache no larger than the context refuses prompts near its end.
FIRST_ALLOCATION = 2304


class LoadFailed(Exception):
    """Its words go into the event stream."""


class FakeTabbyAPI(FakeServer):
    frame_end = b"\r\n\r\n"
    stream_kind = "text/event-stream; charset=utf-8"

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.api_key, self.admin_key = read_keys()
        self.loaded: str | None = None
        self.context = self.cache = 4096
        self.issues: list[str] = []
        self.lock = asyncio.Lock()
        self.is_idle = asyncio.Event()

    # -- life

    async def run(self) -> None:
        print(f"INFO:     Your API key is: {self.api_key}\nINFO:     Your admin key is: {self.admin_key}", flush=True)
        if self.options.model_name:
            try:
                await self.load_model(self.options.model_name, {}, asyncio.Queue())
            except LoadFailed as error:
                sys.exit(f"ERROR:    {error}")
        await self.listen()
        self.get_ready()
        await asyncio.Event().wait()

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.on_term)
        port = self.options.port
        try:
            await asyncio.start_server(self.on_connection, "127.0.0.1", port)
        except OSError:
            print(f"WARNING:  Port {port} is currently in use. Switching to {port + 1}.", flush=True)
            port += 1
            await asyncio.start_server(self.on_connection, "127.0.0.1", port)
        print(f"INFO:     Completions: http://127.0.0.1:{port}/v1/completions", flush=True)

    def leave(self) -> None:
        """Streams are cut without [DONE]; whole answers are waited for."""
        spawn(self.end())

    async def end(self) -> None:
        streams = [exchange for exchange in self.open if exchange.request.body.get("stream")]
        for exchange in streams:
            exchange.fault = "cut"
            exchange.give_up()
        while self.running:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        os._exit(0)

    # -- keys

    def refusal(self, exchange: Exchange, kind: str) -> str | None:
        """What is wrong with the key for an endpoint of this kind ("API" or "admin")."""
        if self.options.disable_auth == "true":
            return None
        headers, header = exchange.request.headers, "x-api-key" if kind == "API" else "x-admin-key"
        allowed = (self.api_key, self.admin_key) if kind == "API" else (self.admin_key,)
        article = "an"
        if given := headers.get(header):
            return None if given in allowed else f"Invalid {kind} key"
        if given := headers.get("authorization"):
            scheme, _, key = given.partition(" ")
            return None if scheme.lower() == "bearer" and key in allowed else f"Invalid {kind} key"
        return f"Please provide {article} {kind} key"

    # -- routes

    async def answer(self, exchange: Exchange) -> None:
        path = exchange.request.path
        kind = "admin" if path in ("/v1/model/load", "/v1/model/unload") else "API"
        if path == "/health":
            issues = [{"time": "2026-08-13T20:55:45", "description": issue} for issue in self.issues]
            about = {"status": "unhealthy" if issues else "healthy", "issues": issues}
            await exchange.json(503 if issues else 200, about)
        elif path == "/.well-known/serviceinfo":
            await exchange.json(200, {"version": 0.1, "software": {"name": "TabbyAPI"}})
        elif refusal := self.refusal(exchange, kind):
            await exchange.json(401, {"detail": refusal})
        elif exchange.request.method == "GET":
            await self.answer_get(exchange)
        else:
            await self.answer_post(exchange)

    async def answer_get(self, exchange: Exchange) -> None:
        match exchange.request.path:
            case "/v1/model" | "/props" if self.loaded is None:
                await exchange.json(503, NO_MODEL)
            case "/v1/model":
                parameters = {"max_seq_len": self.context, "cache_size": self.cache, "cache_mode": "FP16"}
                parameters |= {"rope_scale": 1.0, "max_batch_size": 4, "chunk_size": 2048, "use_vision": False}
                await exchange.json(200, {**card(self.name), "parameters": parameters})
            case "/v1/models" | "/v1/model/list":
                is_admin = (
                    self.refusal(exchange, "admin") is None
                    or exchange.request.headers.get("x-api-key") == self.admin_key
                )
                names = folders(self.options.model_dir) if is_admin else [self.loaded] if self.loaded else []
                await exchange.json(200, {"object": "list", "data": [card(name) for name in names]})
            case "/props":
                await exchange.json(200, {"total_slots": 4, "default_generation_settings": {"n_ctx": self.context}})
            case "/v1/auth/permission":
                is_admin = self.refusal(exchange, "admin") is None
                await exchange.json(200, {"permission": "admin" if is_admin else "api"})
            case _:
                await exchange.json(404, {"detail": "Not Found"})

    async def answer_post(self, exchange: Exchange) -> None:
        match exchange.request.path:
            case "/v1/model/load":
                await self.answer_load(exchange)
            case "/v1/model/unload" if self.loaded is None:
                await exchange.json(503, NO_MODEL)
            case "/v1/model/unload":
                self.unload()
                await exchange.json(200, None)
            case "/v1/chat/completions" | "/v1/completions":
                await self.answer_chat(exchange)
            case "/v1/embeddings":
                await exchange.json(503, {"detail": "No embedding models are currently loaded."})
            case _:
                await exchange.json(404, {"detail": "Not Found"})

    async def answer_chat(self, exchange: Exchange) -> None:
        if self.loaded is None and "model" in exchange.request.body:
            # The check for a model is skipped then, and what comes after it trips over None.
            print("ERROR:    AttributeError: 'NoneType' object has no attribute 'model_dir'", flush=True)
            await exchange.send(500, b"Internal Server Error", "text/plain; charset=utf-8")
        elif self.loaded is None:
            await exchange.json(503, NO_MODEL)
        elif self.cache < FIRST_ALLOCATION:
            words = (
                f"Initial job allocation requires {FIRST_ALLOCATION} cache tokens, which exceeds the available context"
            )
            about = {"type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}
            await exchange.json(400, {"error": {"message": f"{words} size of {self.cache} tokens", **about}})
        else:
            try:
                await self.infer(exchange)
            except GivenUp as error:  # not streaming
                await exchange.json(422, {"detail": f"{exchange.request.path} request cancelled by user."})
                raise Dropped from error
            finally:
                self.is_idle.set()

    # -- loading

    async def answer_load(self, exchange: Exchange) -> None:
        body = exchange.request.body
        name = body.get("model_name")
        if not isinstance(name, str):
            missing = {"type": "missing", "loc": ["body", "model_name"], "msg": "Field required", "input": body}
            await exchange.json(422, {"detail": [missing]})
        elif not os.path.isdir(f"{self.options.model_dir}/{name}"):  # noqa: ASYNC240, PTH112 - one import less
            words = "Could not find the model path for load. Check model name or config.yml?"
            await exchange.json(400, {"detail": words})
        else:
            events: asyncio.Queue[Json | None] = asyncio.Queue()
            load = spawn(self.load_for(name, body, events))
            try:
                await exchange.begin_stream(self.stream_kind)
                await self.pass_on(exchange, events)
                await exchange.end_stream()
            except ConnectionError:
                if self.options.exl2:  # else a client that leaves doesn't end the load
                    load.cancel()
                raise

    async def pass_on(self, exchange: Exchange, events: "asyncio.Queue[Json | None]") -> None:
        while True:
            try:
                event = await asyncio.wait_for(events.get(), self.options.ping_s)
            except TimeoutError:
                await exchange.part(f": ping - {time.strftime('%Y-%m-%d %H:%M:%S')}+00:00\r\n\r\n".encode())
                continue
            if event is None:
                return
            await self.event(exchange, event)

    async def load_for(self, name: str, body: Json, events: "asyncio.Queue[Json | None]") -> None:
        try:
            async with self.lock:
                await self.load_model(name, body, events)
        except LoadFailed as error:
            events.put_nowait({"error": {"message": str(error), "trace": None}})
        events.put_nowait(None)

    async def load_model(self, name: str, body: Json, events: "asyncio.Queue[Json | None]") -> None:
        if self.loaded == name:
            for status in ("processing", "finished"):
                events.put_nowait({"model_type": "model", "module": 1, "modules": 1, "status": status})
            return
        if self.loaded is not None:
            while any(exchange.request.path in CHATS for exchange in self.open):  # without limit
                self.is_idle.clear()
                await self.is_idle.wait()
                await asyncio.sleep(0)
        self.loaded = None
        folder = f"{self.options.model_dir}/{name}"
        kinds = ("vision", "model") if text_of(f"{folder}/vision") is not None else ("model",)
        for kind in kinds:
            await self.load_part(kind, text_of(f"{folder}/failure") if kind == "model" else None, events)
        if self.options.never_ready:
            await asyncio.Event().wait()
        await asyncio.sleep(PUBLISH_S)
        context = re.search(r"max_seq_len: *(\d+)", text_of(f"{folder}/tabby_config.yml") or "")
        wanted = int(context[1]) if context else body.get("max_seq_len") or 4096
        self.cache = body.get("cache_size") or wanted
        self.context = min(wanted, self.cache)
        self.loaded = self.name = name.rpartition("/")[2]
        print(f"INFO:     Loaded model {name}", flush=True)

    async def load_part(self, kind: str, failure: str | None, events: "asyncio.Queue[Json | None]") -> None:
        modules = self.options.modules
        for module in range(1, modules + 1):
            await asyncio.sleep(self.options.startup_s / modules)
            if failure is not None and module > modules // 2:
                raise LoadFailed(failure.strip())
            event = {"model_type": kind, "module": module, "modules": modules, "status": "processing"}
            events.put_nowait(event)
        events.put_nowait({**event, "status": "finished"})

    def unload(self) -> None:
        self.loaded = None
        for exchange in self.open:
            if exchange.request.path in CHATS:
                exchange.give_up()

    async def end_given_up(self, exchange: Exchange, sent: int) -> None:
        if exchange.fault == "cut":
            raise Dropped
        if self.options.endless_pings:
            self.open.discard(exchange)  # its job is gone, so a load doesn't wait for it
            self.is_idle.set()
            await asyncio.shield(self.ping_for_ever(exchange))
        words = "Chat completion aborted. Please check the server console."
        await self.event(exchange, {"error": {"message": words, "trace": None}})
        await exchange.end_stream()

    async def ping_for_ever(self, exchange: Exchange) -> None:
        while True:
            await asyncio.sleep(min(self.options.ping_s, 0.2))
            await exchange.part(b": ping - 2026-08-13 20:55:45.000000+00:00\r\n\r\n")

    # -- what it says

    def error(self, message: str, kind: str, code: int) -> Json:
        return {"detail": message}

    def stream_error(self, message: str) -> Json:
        self.issues.append(message)  # it stays unhealthy from now on
        return {"error": {"message": message, "trace": None}}

    def usage(self, count: int) -> Json:
        times = {"prompt_time": 0.01, "prompt_tokens_per_sec": 700.0, "completion_time": 0.5}
        return {**super().usage(count), **times, "completion_tokens_per_sec": count / 0.5, "total_time": 0.51}

    def chunks(self, exchange: Exchange, pieces: list[str], reason: str) -> Iterator[Json]:
        head, is_chat = self.head(exchange), exchange.request.path == CHATS[0]
        if not is_chat:
            head["model_name"] = head.pop("model")
        wanted = self.wants_usage(exchange)
        for number, piece in enumerate(pieces, start=1):
            said = {"delta": {"content": piece}} if is_chat else {"text": piece}
            # Where usage is wanted the reason waits for the chunk that has it, and that one isn't without choices.
            end = reason if number == len(pieces) and not wanted else None
            yield {**head, "choices": [{"index": 0, **said, "finish_reason": end}]}
        if wanted:
            last: Json = {"delta": {}} if is_chat else {"text": ""}
            choice = {"index": 0, **last, "finish_reason": reason}
            yield {**head, "choices": [choice], "usage": self.usage(len(pieces))}

    def whole(self, exchange: Exchange, pieces: list[str], reason: str) -> Json:
        text = "".join(pieces)
        choice: Json = {"index": 0, "finish_reason": reason, "eos_reason": None, "stop_str": None, "logprobs": None}
        if exchange.request.path == CHATS[0]:
            choice["message"] = {"role": "assistant", "content": text, "reasoning_content": None, "tool_calls": None}
        else:
            choice["text"] = text
        usage = self.usage(len(pieces)) if self.wants_usage(exchange) else None
        return {**self.head(exchange), "choices": [choice], "usage": usage}


def card(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tabbyAPI"}


def folders(path: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())


def text_of(path: str) -> str | None:
    try:
        with open(path) as file:  # noqa: PTH123 - one import less
            return file.read()
    except OSError:
        return None


def read_keys() -> tuple[str, str]:
    """The two keys of `api_tokens.yml` in this folder, made up and written where there is none."""
    text = text_of(TOKENS)
    if text is None:
        text = f"api_key: {secrets.token_hex(16)}\nadmin_key: {secrets.token_hex(16)}\n"
        with open(TOKENS, "w") as file:  # noqa: PTH123
            file.write(text)
    found = dict(re.findall(r"^(api_key|admin_key): *[\"']?([^\"'\n]+)", text, re.MULTILINE))
    return found["api_key"].strip(), found["admin_key"].strip()


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="main.py", allow_abbrev=False)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "5000")))
    parser.add_argument("--model-dir", default="models")
    parser.add_argument("--model-name")
    parser.add_argument("--disable-auth", default="false")
    parser.set_defaults(name="nothing")
    accept(
        parser,
        values="--config --host --max-seq-len --cache-size --cache-mode --gpu-split --unsafe-launch --use-as-default"
        " --inline-model-loading --backend --send-tracebacks --sse-ping-interval",
    )
    parser.add_argument("--exl2", action="store_true")
    parser.add_argument("--modules", type=int, default=8)
    parser.add_argument("--endless-pings", action="store_true")
    parser.add_argument("--ping-s", type=float, default=15.0)
    common_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    sys.exit(main(options, lambda: FakeTabbyAPI(options).run()))
