"""Any of the fake engines with what a model may be able to do: calls of tools, thinking, probabilities, several
choices, stop sequences, and the further endpoints which that engine has. It keeps a journal of what it answered. A user
who says "fault: FAULT" gets that fault of `fake_server`.

    python -IS tests/programs/fake_featured.py [that engine's options] --as ENGINE --journal FILE

ENGINE: llamacpp, openai, sglang, tabbyapi or vllm. `openai` stands for any other server: it has every endpoint but
Responses. FILE gets a line of JSON for each POST that the engine had an endpoint for: {"path", "body"}.

Which endpoints they have was read in their sources: llama.cpp b11434, SGLang 0.5.23, vLLM 0.33.0, TabbyAPI e632af4.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

sys.path[:0] = [__file__.rpartition("/")[0]]  # -I leaves it out
sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio does without, and is imported sooner

from fake_server import CHATS, Exchange, FakeServer, Json, main  # noqa: E402

PROGRAMS = {
    "llamacpp": ("fake_backend", "FakeBackend"),
    "openai": ("fake_backend", "FakeBackend"),
    "sglang": ("fake_sglang", "FakeSGLang"),
    "tabbyapi": ("fake_tabbyapi", "FakeTabbyAPI"),
    "vllm": ("fake_vllm", "FakeVLLM"),
}
COUNTING = "/v1/messages/count_tokens"
JSON_ANSWERS: dict[str, Json] = {
    "/v1/rerank": {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]},
    "/v1/audio/transcriptions": {"text": "hello"},
    "/v1/audio/translations": {"text": "hello"},
    "/v1/images/generations": {"created": 1, "data": [{"b64_json": "AA=="}]},
    "/v1/images/edits": {"created": 1, "data": [{"b64_json": "AA=="}]},
    "/v1/token/encode": {"tokens": [1] * 7, "length": 7},
    COUNTING: {"input_tokens": 7},
}
SPEECH, RESPONSES = "/v1/audio/speech", "/v1/responses"
HAS = {
    "llamacpp": {"/v1/rerank", "/v1/audio/transcriptions", COUNTING},
    "openai": {"/v1/rerank", "/v1/audio/transcriptions", "/v1/audio/translations", SPEECH}
    | {"/v1/images/generations", "/v1/images/edits"},
    "sglang": {"/v1/rerank", "/v1/audio/transcriptions", RESPONSES, COUNTING},
    "tabbyapi": {"/v1/token/encode"},
    "vllm": {"/v1/rerank", "/v1/audio/transcriptions", "/v1/audio/translations", RESPONSES, COUNTING},
}
# Where each says which stop sequence it was. llama.cpp doesn't in a chat.
STOPPED_BY = {"sglang": "matched_stop", "vllm": "stop_reason", "tabbyapi": "stop_str", "openai": "stop_reason"}
ANEW = " and nothing else"
CALL = {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


class Featured(FakeServer):
    """Comes before an engine's own class in the order of resolution."""

    kind: ClassVar[str]
    journal: ClassVar[str]

    # -- routes

    async def answer(self, exchange: Exchange) -> None:
        path = exchange.request.path
        if self.kind == "tabbyapi" and path == "/v1/embeddings" and self.options.model_name:
            await self.infer(exchange)  # its config.yml names an embedding model
            return
        if exchange.request.method != "POST" or path not in HAS[self.kind]:
            await super().answer(exchange)
            return
        self.note(exchange)
        if path == SPEECH:
            await exchange.send(200, b"\xff\xfb" * 50, "audio/mpeg")
        elif path == RESPONSES:
            await self.respond(exchange)
        else:
            await exchange.json(200, JSON_ANSWERS[path])

    async def infer(self, exchange: Exchange) -> None:
        self.note(exchange)
        said = (exchange.request.body.get("messages") or [{}])[-1].get("content")
        if isinstance(said, str) and said.startswith("fault: "):
            exchange.fault = said.removeprefix("fault: ")  # a translated request has no other place for it
        await super().infer(exchange)

    def note(self, exchange: Exchange) -> None:
        line = json.dumps({"path": exchange.request.path, "body": exchange.request.body})
        with open(self.journal, "a") as file:  # noqa: PTH123 - one import less
            file.write(line + "\n")

    # -- what it says

    def pieces(self, body: Json) -> tuple[list[str], str]:
        pieces, reason = super().pieces(body)
        begun = begun_by(body)
        if begun:  # an answer that the client began: llama.cpp says that again and goes on, the others begin anew
            pieces = [begun, *pieces] if self.kind == "llamacpp" else [*pieces, ANEW]
        stop = stop_of(body, pieces)
        return (pieces, reason) if stop is None else (pieces[: pieces.index(stop)], "stop")

    def whole(self, exchange: Exchange, pieces: list[str], reason: str) -> Json:
        body = exchange.request.body
        answer: Json = super().whole(exchange, pieces, reason)
        choice = answer["choices"][0]
        choice |= self.stopped(body)
        if exchange.request.path == CHATS[0]:
            message = choice["message"]
            if body.get("tools"):
                message |= {"content": None, "tool_calls": [CALL]}
                choice["finish_reason"] = "tool_calls"
            elif thinks(body):
                message |= {"content": "".join([*pieces[:1], *pieces[4:]]), self.thought: "".join(pieces[1:4])}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [probability(piece) for piece in pieces]}
        answer["choices"] = [{**choice, "index": index} for index in range(body.get("n") or 1)]
        return answer

    def chunks(self, exchange: Exchange, pieces: list[str], reason: str) -> Iterator[Json]:
        body, place = exchange.request.body, 0
        for chunk in super().chunks(exchange, pieces, reason):
            choice = chunk["choices"][0] if chunk["choices"] else {}
            is_text = bool((choice.get("delta") or {}).get("content"))
            if choice.get("delta") is not None:
                self.decorate(body, choice, place)
                place += is_text
            if choice.get("finish_reason"):
                choice |= self.stopped(body)
            several = [{**choice, "index": index} for index in range(body.get("n") or 1)] if choice else []
            yield {**chunk, "choices": several}

    def decorate(self, body: Json, choice: Json, place: int) -> None:
        delta = choice["delta"]
        text = delta.get("content")
        if body.get("tools"):
            choice["delta"] = {"role": "assistant", **(call_piece(place) if text else {})}
            if choice.get("finish_reason"):
                choice["finish_reason"] = "tool_calls"
            return
        if text and thinks(body) and 1 <= place <= 3:
            choice["delta"] = {self.thought: delta.pop("content")}
        if text and body.get("logprobs"):
            choice["logprobs"] = {"content": [probability(text)]}

    @property
    def thought(self) -> str:
        return "reasoning" if self.kind == "vllm" else "reasoning_content"

    def stopped(self, body: Json) -> Json:
        stop = stop_of(body, super().pieces(body)[0])
        return {} if stop is None or self.kind not in STOPPED_BY else {STOPPED_BY[self.kind]: stop}

    async def respond(self, exchange: Exchange) -> None:
        body = exchange.request.body
        text = "".join(super().pieces(body)[0])
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
        call = {"type": "function_call", "id": "fc_1", "call_id": "call_a", **CALL["function"]}
        done = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": self.name}
        done |= {"output": [call if body.get("tools") else item], "parallel_tool_calls": True}
        done |= {"tool_choice": "auto", "tools": []}
        if not body.get("stream"):
            await exchange.json(200, done)
            return
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        await exchange.begin_stream(self.stream_kind)
        for number, (kind, about) in enumerate(
            (
                ("created", {"response": {**done, "status": "in_progress", "output": []}}),
                ("output_text.delta", {**place, "delta": text}),
                ("completed", {"response": done}),
            )
        ):
            await self.event(exchange, {"type": f"response.{kind}", "sequence_number": number, **about})
        await exchange.end_stream()


def begun_by(body: Json) -> str:
    last = (body.get("messages") or [{}])[-1]
    return last.get("content") or "" if last.get("role") == "assistant" else ""


def stop_of(body: Json, pieces: list[str]) -> str | None:
    stops = body.get("stop") or []
    return next((stop for stop in ([stops] if isinstance(stops, str) else stops) if stop in pieces), None)


def thinks(body: Json) -> bool:
    return (body.get("chat_template_kwargs") or {}).get("enable_thinking") is True


def call_piece(place: int) -> Json:
    """The name first, then the arguments in two pieces."""
    arguments = CALL["function"]["arguments"]  # type: ignore[index]
    match place:
        case 0:
            return {"tool_calls": [{"index": 0, **CALL, "function": {"name": "weather", "arguments": ""}}]}
        case 1 | 2:
            half = arguments[:6] if place == 1 else arguments[6:]
            return {"tool_calls": [{"index": 0, "function": {"arguments": half}}]}
    return {}


def probability(token: str) -> Json:
    one: dict[str, Any] = {"token": token, "logprob": -0.1, "bytes": list(token.encode())}
    return {**one, "top_logprobs": [one]}


def option(argv: list[str], name: str) -> str:
    """Take it out of the command line: the engine doesn't know it."""
    place = argv.index(name)
    _, value = argv[place : place + 2]
    del argv[place : place + 2]
    return value


if __name__ == "__main__":
    argv = sys.argv[1:]
    engine, journal = option(argv, "--as"), option(argv, "--journal")
    name, base = PROGRAMS[engine]
    module = importlib.import_module(name)
    options = module.parse(argv)
    served = type("Served", (Featured, getattr(module, base)), {"kind": engine, "journal": journal})
    sys.exit(main(options, lambda: served(options).run()))
