"""OpenAI's chat completions in the words of its Responses. Counterpart: `responses_request`.

A reply is a list of items: what the model thought, what it said, each call of a tool. In a stream each is announced,
grows and is finished, and every event has a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from llm_router.dialects.completion import Choice, Completion, Problem, Said, ToolCall, read_whole

_encode = msgspec.json.Encoder().encode
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_SERVER_ERROR = "server_error"


def error(status: int, problem: Problem) -> bytes:
    """The envelope of an error reply: the same as of a chat's."""
    kind = problem.type or ("invalid_request_error" if status < 500 else _SERVER_ERROR)
    return _encode({"error": {"message": problem.message, "type": kind, "param": None, "code": problem.code}})


def stream_error(message: str, code: str) -> bytes:
    """The end of a stream that failed, where nobody counted its events."""
    about = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 0}
    return b"event: error\ndata: " + _encode(about) + b"\n\n"


class _Item:
    """One item of the output while it grows. `about`: what it has beside its text. `index`: its place."""

    def __init__(self, index: int, kind: str, about: dict[str, Any]) -> None:
        self.index = index
        self.kind = kind
        self.about = about
        self.text: list[str] = []
        self.logprobs: list[dict[str, Any]] = []

    @property
    def id(self) -> str:
        found: str = self.about["id"]
        return found

    def as_part(self) -> dict[str, Any]:
        """The one piece that a message or a thought has."""
        text = "".join(self.text)
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}

    def as_item(self, status: str) -> dict[str, Any]:
        item = {"type": self.kind, **self.about, "status": status}
        if self.kind == "function_call":
            return item | {"arguments": "".join(self.text)}
        return item | {"content": [self.as_part()] if self.text else []}


class ResponseTranslation:
    """`id`: of the response, unique. `model`: as the client calls it. `echo`: what is repeated of the request.
    `now`: seconds since the epoch."""

    media_type = b"text/event-stream; charset=utf-8"

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 -- the API's own word
        model: str,
        streams: bool,
        echo: dict[str, Any],
        now: Callable[[], float],
    ) -> None:
        self.streams = streams
        self._id = id
        self._model = model
        self._echo = echo
        self._now = now
        self._created = int(now())
        self._number = 0
        self._items: list[_Item] = []
        self._open: _Item | None = None  # the thought or message that grows
        self._calls: dict[int, _Item] = {}
        self._finish: Choice | None = None
        self._last = Completion()  # the one with the figures
        self._failed = False

    # -- in one piece

    def whole(self, body: bytes) -> bytes:
        self.chunk(read_whole(body))
        status, details = self._status()
        return _encode(self._response(status, details))

    # -- in a stream

    def begin(self) -> bytes:
        opening = self._response("in_progress", None)
        return self._event("response.created", {"response": opening}) + self._event(
            "response.in_progress", {"response": opening}
        )

    def waiting(self) -> bytes:
        return b": \n\n"

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
        return b"".join(self._said(choice.said, choice))

    def _said(self, said: Said, choice: Choice) -> list[bytes]:
        out: list[bytes] = []
        if said.reasoning_content:
            out += self._grow("reasoning", said.reasoning_content, [])
        if said.content:
            out += self._grow("message", said.content, choice.logprobs.content or [] if choice.logprobs else [])
        for position, call in enumerate(said.tool_calls or ()):
            out += self._called(position if call.index is None else call.index, call)
        return out

    def _grow(self, kind: str, text: str, logprobs: list[dict[str, Any]]) -> list[bytes]:
        out: list[bytes] = []
        item = self._open
        if item is None or item.kind != kind:
            out += self._close()
            more: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
            item = self._open = self._add(kind, "rs" if kind == "reasoning" else "msg", more)
            out.append(self._item_event("added", item, "in_progress"))
            part = item.as_part()
            out.append(self._event("response.content_part.added", self._place(item) | {"part": part}))
        item.text.append(text)
        item.logprobs += logprobs
        delta: dict[str, Any] = self._place(item) | {"delta": text}
        if kind == "message":
            delta["logprobs"] = logprobs
        return [*out, self._event(f"response.{_text_of(item)}.delta", delta)]

    def _called(self, index: int, piece: ToolCall) -> list[bytes]:
        """Calls may grow side by side: each has its place."""
        out: list[bytes] = []
        call = self._calls.get(index)
        if call is None:
            out += self._close()
            about = {"call_id": piece.id or f"call_{self._id}_{index}", "name": piece.function.name or ""}
            call = self._calls[index] = self._add("function_call", "fc", about)
            out.append(self._item_event("added", call, "in_progress"))
        elif piece.function.name and not call.about["name"]:
            call.about["name"] = piece.function.name
        arguments = piece.function.arguments
        if arguments:
            call.text.append(arguments)
            place = {"item_id": call.id, "output_index": call.index, "delta": arguments}
            out.append(self._event("response.function_call_arguments.delta", place))
        return out

    def _add(self, kind: str, prefix: str, about: dict[str, Any]) -> _Item:
        index = len(self._items)
        item = _Item(index, kind, {"id": f"{prefix}_{self._id.removeprefix('resp_')}_{index}", **about})
        self._items.append(item)
        return item

    def _close(self) -> list[bytes]:
        """The thought or message is complete."""
        item, self._open = self._open, None
        if item is None:
            return []
        done: dict[str, Any] = self._place(item) | {"text": "".join(item.text)}
        if item.kind == "message":
            done["logprobs"] = item.logprobs
        return [
            self._event(f"response.{_text_of(item)}.done", done),
            self._event("response.content_part.done", self._place(item) | {"part": item.as_part()}),
            self._item_event("done", item, self._status_of(item, self._status()[0])),
        ]

    def _close_calls(self) -> list[bytes]:
        out = []
        for call in self._calls.values():
            done = {"item_id": call.id, "output_index": call.index, "name": call.about["name"]}
            out.append(self._event("response.function_call_arguments.done", done | {"arguments": "".join(call.text)}))
            out.append(self._item_event("done", call, self._status_of(call, self._status()[0])))
        return out

    def end(self) -> bytes:
        if self._failed:
            return b""
        status, details = self._status()
        closing = [*self._close(), *self._close_calls()]
        final = self._event(f"response.{status}", {"response": self._response(status, details)})
        return b"".join([*closing, final])

    def fail(self, problem: Problem) -> bytes:
        """Some clients look for `error` events, some for a response that failed, whose code is one of a closed list."""
        if self._failed:
            return b""
        self._failed = True
        code = str(problem.code or _SERVER_ERROR)
        told = self._event("error", {"code": code, "message": problem.message, "param": None})
        failed = self._response("failed", None) | {"error": {"code": _SERVER_ERROR, "message": problem.message}}
        return told + self._event("response.failed", {"response": failed})

    # -- both

    def _status(self) -> tuple[str, dict[str, str] | None]:
        reason = _INCOMPLETE.get((self._finish.finish_reason if self._finish is not None else None) or "")
        return ("completed", None) if reason is None else ("incomplete", {"reason": reason})

    def _status_of(self, item: _Item, status: str) -> str:
        """`status`: the response's. What was cut short is the last of its items."""
        return "completed" if status == "completed" or item is not self._items[-1] else "incomplete"

    def _response(self, status: str, details: dict[str, str] | None) -> dict[str, Any]:
        is_over = status in ("completed", "incomplete")
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(self._now()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": details,
            "model": self._model,
            "output": [item.as_item(self._status_of(item, status)) for item in self._items],
            "previous_response_id": None,
            "store": False,
            **self._echo,
            "usage": _usage(self._last) if is_over else None,
        }

    def _place(self, item: _Item) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": item.index, "content_index": 0}

    def _item_event(self, what: str, item: _Item, status: str) -> bytes:
        about = {"output_index": item.index, "item": item.as_item(status)}
        return self._event(f"response.output_item.{what}", about)

    def _event(self, kind: str, about: dict[str, Any]) -> bytes:
        data = _encode({"type": kind, "sequence_number": self._number, **about})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _text_of(item: _Item) -> str:
    return "reasoning_text" if item.kind == "reasoning" else "output_text"


def _usage(said: Completion) -> dict[str, Any] | None:
    usage = said.usage
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": min(said.cached_tokens, usage.prompt_tokens),
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
