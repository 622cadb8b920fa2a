"""OpenAI's chat completions in the words of Anthropic's Messages. Counterparts: `anthropic_request`, and
`anthropic_errors` for what goes wrong.

A stream is a row of content blocks, one open at a time: thinking, text, one for each tool call. The message starts at
once, before the model is even loaded, so what it cost to read the prompt stands at the end, in `message_delta`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from llm_router.dialects import anthropic_errors
from llm_router.dialects.completion import Choice, Completion, Problem, Said, ToolCall, read_whole
from llm_router.dialects.prefill import Beginning

_encode = msgspec.json.Encoder().encode

_REASONS = {"length": "max_tokens", "content_filter": "refusal"}
_CHARACTERS_A_TOKEN = 4  # a rough mean over languages and code
_TOKENS_A_MESSAGE = 4
_TOKENS_A_PICTURE = 1500  # what Anthropic counts for a large one
_PING_EACH = 32  # pieces of thinking that the client doesn't want to see


def model_list(listed: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's list of models, as the router gives it."""
    data = [model_card(card) for card in listed["data"]]
    ids = [card["id"] for card in data] or [None]
    return {"data": data, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}


def model_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """One of it."""
    created = datetime.fromtimestamp(card["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": card["id"], "display_name": card["name"], "created_at": created}


def estimate(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> int:
    """About how many tokens these have, where nobody can count them."""
    characters, tokens = (len(_encode(tools)) if tools else 0), _TOKENS_A_MESSAGE * len(messages)
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                characters += len(part["text"].encode("utf-8", "replace"))
            else:
                tokens += _TOKENS_A_PICTURE
        characters += len(message.get("reasoning_content", ""))
        characters += sum(len(_encode(call["function"])) for call in message.get("tool_calls", ()))
    return tokens + math.ceil(characters / _CHARACTERS_A_TOKEN)


class _Call:
    """One call of a tool while it comes in pieces. `waiting`: arguments that came before the name."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.waiting = ""
        self.block: int | None = None


class MessageTranslation:
    """`id`: of the message, unique. `model`: as the client calls it. `thinking`: it wants to see the model think.
    `stops`: its stop sequences. `begun`: the answer's first words, which the client has already."""

    media_type = b"text/event-stream; charset=utf-8"

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 -- the API's own word
        model: str,
        streams: bool,
        thinking: bool,
        stops: tuple[str, ...],
        begun: str = "",
    ) -> None:
        self.streams = streams
        self._id = id
        self._model = model
        self._thinking = thinking
        self._stops = stops
        self._beginning = Beginning(begun)
        self._blocks = 0  # begun so far
        self._open: str | None = None  # "thinking", "text" or "tool_use"; the last one begun
        self._blank = ""  # white space that no text has followed yet
        self._calls: dict[int, _Call] = {}
        self._finish: Choice | None = None
        self._last = Completion()  # the one with the figures
        self._hidden = 0
        self._failed = False

    # -- in one piece

    def whole(self, body: bytes) -> bytes:
        said = read_whole(body)
        choice = said.choice
        assert choice is not None
        message = choice.said
        content: list[dict[str, Any]] = []
        if message.reasoning_content and self._thinking:
            content.append({"type": "thinking", "thinking": message.reasoning_content, "signature": ""})
        text = self._beginning.without(message.content or "", more=False)
        if text and not (text.isspace() and message.tool_calls):
            content.append({"type": "text", "text": text})
        for number, call in enumerate(message.tool_calls or ()):
            content.append(
                {
                    "type": "tool_use",
                    "id": call.id or self._call_id(number),
                    "name": call.function.name or "",
                    "input": _input(call.function.arguments),
                }
            )
        reason, stop = self._reason(choice, called=bool(message.tool_calls))
        return _encode(
            self._opening(content) | {"stop_reason": reason, "stop_sequence": stop, "usage": _usage(said)},
        )

    # -- in a stream

    def begin(self) -> bytes:
        none = {"input_tokens": 0, "output_tokens": 0}
        opening = self._opening([]) | {"stop_reason": None, "stop_sequence": None, "usage": none}
        return _event("message_start", {"message": opening})

    def waiting(self) -> bytes:
        return _event("ping", {})

    def chunk(self, said: Completion) -> bytes:
        if self._failed:
            return b""
        if said.usage is not None or said.timings is not None:
            self._last = said
        choice = said.choice
        if choice is None:
            return b""
        if choice.finish_reason is not None:
            self._finish = choice
        return b"".join(self._said(choice.said))

    def _said(self, said: Said) -> list[bytes]:
        out: list[bytes] = []
        if said.reasoning_content:
            out += self._thought(said.reasoning_content)
        if text := self._beginning.without(said.content or "", more=not said.tool_calls):
            out += self._text(text)
        for position, call in enumerate(said.tool_calls or ()):
            out += self._called(position if call.index is None else call.index, call)
        return out

    def _thought(self, text: str) -> list[bytes]:
        if not self._thinking:
            self._hidden += 1
            return [self.waiting()] if self._hidden % _PING_EACH == 1 else []
        out = []
        if self._open != "thinking":
            out += self._start("thinking", {"thinking": "", "signature": ""})
        return [*out, self._delta({"type": "thinking_delta", "thinking": text})]

    def _text(self, text: str) -> list[bytes]:
        out = []
        if self._open != "text":
            if text.isspace():  # between the thinking and a call of a tool it is no text
                self._blank += text
                return []
            text, self._blank = self._blank + text, ""
            out += self._start("text", {"text": ""})
        return [*out, self._delta({"type": "text_delta", "text": text})]

    def _called(self, index: int, piece: ToolCall) -> list[bytes]:
        call = self._calls.setdefault(index, _Call())
        call.id = call.id or piece.id or ""
        call.name = call.name or piece.function.name or ""
        arguments = call.waiting + (piece.function.arguments or "")
        out: list[bytes] = []
        if not call.name:
            call.waiting = arguments
            return out
        call.waiting = ""
        if call.block is None:
            begun = {"id": call.id or self._call_id(index), "name": call.name, "input": {}}
            out += self._start("tool_use", begun)
            call.block = self._blocks - 1
        elif call.block != self._blocks - 1 and arguments:
            # Blocks can't be opened again. No server is known to mix calls; if one does, nobody must run half of one.
            return [*out, self.fail(Problem(message="cannot pass on tool calls whose pieces are mixed; send it again"))]
        if arguments:
            out.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))
        return out

    def _start(self, kind: str, begun: dict[str, Any]) -> list[bytes]:
        out = self._stop()
        self._open = kind
        self._blocks += 1
        about = {"index": self._blocks - 1, "content_block": {"type": kind, **begun}}
        return [*out, _event("content_block_start", about)]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._blocks - 1, "delta": delta})

    def _stop(self) -> list[bytes]:
        if self._open is None:
            return []
        out = [_event("content_block_stop", {"index": self._blocks - 1})]
        if self._open == "thinking":
            out.insert(0, self._delta({"type": "signature_delta", "signature": ""}))
        self._open = None
        return out

    def end(self) -> bytes:
        if self._failed:
            return b""
        reason, stop = self._reason(self._finish or Choice(), called=bool(self._calls))
        delta = {"stop_reason": reason, "stop_sequence": stop}
        rest = self._beginning.without("", more=False)
        return b"".join(
            [
                *(self._text(rest) if rest else ()),
                *self._stop(),
                _event("message_delta", {"delta": delta, "usage": _usage(self._last)}),
                _event("message_stop", {}),
            ]
        )

    def fail(self, problem: Problem) -> bytes:
        if self._failed:
            return b""
        self._failed = True
        return anthropic_errors.event(problem)

    # -- both

    def _opening(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": content}

    def _call_id(self, number: int) -> str:
        return f"toolu_{self._id.removeprefix('msg_')}_{number}"

    def _reason(self, choice: Choice, *, called: bool) -> tuple[str, str | None]:
        """Why the answer ends, and the stop sequence that ended it. Some servers say "stop" after a call too."""
        known = _REASONS.get(choice.finish_reason or "")
        if known is not None:
            return known, None
        if called:
            return "tool_use", None
        stop = choice.stopped_by
        return ("stop_sequence", stop) if stop in self._stops else ("end_turn", None)


def _event(kind: str, about: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **about}) + b"\n\n"


def _usage(said: Completion) -> dict[str, int]:
    """Anthropic counts what was read from the cache apart from the rest of the prompt."""
    usage, cached = said.usage, said.cached_tokens
    prompt = 0 if usage is None else usage.prompt_tokens
    return {
        "input_tokens": max(0, prompt - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": min(cached, prompt),
        "output_tokens": 0 if usage is None else usage.completion_tokens,
    }


def _input(arguments: str | None) -> object:
    """A tool's arguments as an object. What the model wrote instead of one is handed on: whoever runs the tool says
    what is wrong with it, and the model can mend it."""
    text = arguments or "{}"
    try:
        found = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return {"invalid_json": text}
    return found if isinstance(found, dict) else {"invalid_json": text}
