"""OpenAI's replies in Ollama's words: lines of JSON, the last with the figures. Counterpart: `ollama_request`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from llm_router.dialects.completion import Choice, Completion, Problem, ToolCall, read_whole
from llm_router.dialects.prefill import Beginning
from llm_router.errors import UpstreamGarbage

_encode = msgspec.json.Encoder().encode
_NS = 1_000_000_000
_NS_IN_MS = 1_000_000


class Clock(Protocol):
    """What times a reply has. `wall_s`: since the epoch. `elapsed_s`: since the request came; `loading_s`: how long of
    that the client waited for the model."""

    def wall_s(self) -> float: ...
    def elapsed_s(self) -> float: ...
    def loading_s(self) -> float: ...


def error(status: int, problem: Problem) -> bytes:
    """An error reply, and an error line."""
    return _encode({"error": problem.message})


def timestamp(wall_s: float) -> str:
    """RFC 3339, as Go writes it."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Call:
    """A call of a tool while it comes in pieces."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.name = ""
        self.arguments = ""

    def add(self, piece: ToolCall) -> None:
        self.id = self.id or piece.id
        self.name = self.name or piece.function.name or ""
        self.arguments += piece.function.arguments or ""

    def said(self, number: int) -> dict[str, Any]:
        called: dict[str, Any] = {
            "function": {"index": number, "name": self.name, "arguments": _arguments(self.arguments)}
        }
        return {"id": self.id, **called} if self.id else called


class LinesTranslation:
    """Chat and generate. `model`: as the client calls it. `chat`: else its words are in `response`. `thinking`: it
    wants to see the model think. `begun`: the answer's first words, which the client has already."""

    media_type = b"application/x-ndjson"

    def __init__(self, *, model: str, streams: bool, chat: bool, thinking: bool, clock: Clock, begun: str = "") -> None:
        self.streams = streams
        self._model = model
        self._chat = chat
        self._thinking = thinking
        self._clock = clock
        self._beginning = Beginning(begun)
        self._calls: dict[int, _Call] = {}
        self._finish: str | None = None
        self._last = Completion()  # the one with the figures
        self._failed = False

    def begin(self) -> bytes:
        return b""

    def waiting(self) -> bytes:
        return self._line({"done": False})

    def chunk(self, said: Completion) -> bytes:
        if said.usage is not None or said.timings is not None:
            self._last = said
        choice = said.choice
        if choice is None or self._failed:
            return b""
        self._finish = choice.finish_reason or self._finish
        piece = choice.said
        for position, call in enumerate(piece.tool_calls or ()):
            self._calls.setdefault(position if call.index is None else call.index, _Call()).add(call)
        thought = piece.reasoning_content if self._thinking else None
        text = self._beginning.without(piece.content or "", more=not piece.tool_calls)
        if not text and not thought:
            return b""
        return self._line({"done": False, **_logprobs(choice)}, text, thought)

    def end(self) -> bytes:
        if self._failed:
            return b""
        calls = [call.said(number) for number, call in sorted(self._calls.items())]
        rest = self._beginning.without("", more=False)
        said = self._line({"done": False}, rest) if rest else b""
        called = self._line({"done": False}, calls=calls) if calls else b""
        return said + called + self._line(self._conclusion(self._finish, self._last))

    def fail(self, problem: Problem) -> bytes:
        if self._failed:
            return b""
        self._failed = True
        return error(500, problem) + b"\n"

    def whole(self, body: bytes) -> bytes:
        said = read_whole(body)
        choice = said.choice
        assert choice is not None
        message = choice.said
        calls = []
        for number, whole in enumerate(message.tool_calls or ()):
            call = _Call()
            call.add(whole)
            calls.append(call.said(number))
        thought = message.reasoning_content if self._thinking else None
        ending = self._conclusion(choice.finish_reason, said) | _logprobs(choice)
        text = self._beginning.without(message.content or "", more=False)
        return self._line(ending, text, thought, calls)[:-1]

    def idle(self, reason: str) -> bytes:
        """The answer where nothing was asked. `reason`: "load" or "unload"."""
        return self._line({"done": True, "done_reason": reason, **_durations(self._clock)})[:-1]

    def _line(
        self,
        more: dict[str, Any],
        text: str = "",
        thought: str | None = None,
        calls: list[dict[str, Any]] | None = None,
    ) -> bytes:
        about = {"model": self._model, "created_at": timestamp(self._clock.wall_s())}
        further = ({"thinking": thought} if thought else {}) | ({"tool_calls": calls} if calls else {})
        if self._chat:
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text, **further}}
        else:
            said = {"response": text, **further}
        return _encode(about | said | more) + b"\n"

    def _conclusion(self, finish: str | None, said: Completion) -> dict[str, Any]:
        usage, timings = said.usage, said.timings
        return {
            "done": True,
            "done_reason": "length" if finish == "length" else "stop",
            **_durations(self._clock),
            "prompt_eval_count": 0 if usage is None else usage.prompt_tokens,
            "prompt_eval_duration": 0 if timings is None else int(timings.prompt_ms * _NS_IN_MS),
            "eval_count": 0 if usage is None else usage.completion_tokens,
            "eval_duration": 0 if timings is None else int(timings.predicted_ms * _NS_IN_MS),
        }


class EmbeddingTranslation:
    """`legacy`: one vector for one text, as `/api/embeddings` gives it."""

    streams = False
    media_type = b"application/json"

    def __init__(self, *, model: str, legacy: bool, clock: Clock) -> None:
        self._model = model
        self._legacy = legacy
        self._clock = clock

    def begin(self) -> bytes:
        return b""

    def waiting(self) -> bytes:
        return b""

    def chunk(self, said: Completion) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""

    def fail(self, problem: Problem) -> bytes:
        return error(500, problem)

    def idle(self, reason: str) -> bytes:
        """The answer where nothing was asked."""
        return self._said([], 0)

    def whole(self, body: bytes) -> bytes:
        try:
            found = _decode_vectors(body)
        except (ValueError, RecursionError) as reason:
            raise UpstreamGarbage(f"cannot read the embeddings of the inference server: {reason}") from None
        vectors = [item.embedding for item in sorted(found.data, key=lambda item: item.index)]
        return self._said(vectors, 0 if found.usage is None else found.usage.prompt_tokens)

    def _said(self, vectors: list[msgspec.Raw], counted: int) -> bytes:
        if self._legacy:
            return _encode({"embedding": vectors[0] if vectors else []})
        figures = {**_durations(self._clock), "prompt_eval_count": counted}
        return _encode({"model": self._model, "embeddings": vectors, **figures})


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Counted(msgspec.Struct):
    prompt_tokens: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Counted | None = None


_decode_vectors = msgspec.json.Decoder(_Vectors).decode


def _durations(clock: Clock) -> dict[str, int]:
    """Nanoseconds."""
    return {"total_duration": int(clock.elapsed_s() * _NS), "load_duration": int(clock.loading_s() * _NS)}


def _logprobs(choice: Choice) -> dict[str, Any]:
    found = None if choice.logprobs is None else choice.logprobs.content
    return {"logprobs": [_logprob(entry) for entry in found]} if found else {}


def _logprob(entry: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {key: entry[key] for key in ("token", "logprob", "bytes") if key in entry}
    others = entry.get("top_logprobs")
    if isinstance(others, list) and others:
        said["top_logprobs"] = [_logprob(other) for other in others if isinstance(other, dict)]
    return said


def _arguments(text: str) -> dict[str, Any]:
    """Always an object, since clients read it as one. What the model wrote instead is handed on inside."""
    try:
        found = msgspec.json.decode(text or "{}")
    except (ValueError, RecursionError):
        return {"invalid_json": text}
    return found if isinstance(found, dict) else {"invalid_json": text}
