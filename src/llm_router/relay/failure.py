"""What an inference server says went wrong, in one shape for clients: OpenAI's.

Counterparts: `reply` and `sse`, for what goes well. Pure. Each server has its own envelope, some have several:

- llama.cpp, vLLM, OpenAI: `{"error": {"message", "type", "code"}}`, the code a number at the first two;
- SGLang 0.5: `{"object": "error", "message", "type", "param", "code"}` for replies, the above within streams;
- TabbyAPI: `{"detail": "…"}`, FastAPI's list of faults in a body, `{"error": {"message", "trace"}}` within streams;
- others: `{"error": "…"}`, plain text, an HTML page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from llm_router.relay.events import as_event

DONE = b"data: [DONE]\n\n"

_ANY_CODE = "upstream_error"
_OVERFLOW = "context_length_exceeded"
_OVERFLOW_TYPE = "exceed_context_size_error"  # llama.cpp
_SAYS_OVERFLOW = re.compile(r"context (?:length|size|window)", re.IGNORECASE)  # SGLang, vLLM: no code, only words
# What else clients make use of. A trace (TabbyAPI) isn't among it: it shows the server's files.
_FURTHER = ("n_prompt_tokens", "n_ctx")
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_READ = 4096  # bytes of a text that isn't JSON
_SHOWN = 500
_FAULTS = 3

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """`type`, `code`: the server's own words where it has any. `further`: what it adds in numbers."""

    message: str
    type: str = "server_error"
    code: str = _ANY_CODE
    param: str | None = None
    further: Mapping[str, int] = field(default_factory=dict)

    def as_reply(self) -> bytes:
        """OpenAI's error object, as JSON."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return _encode({"error": error | dict(self.further)})

    def as_end(self) -> bytes:
        """The end of a stream that failed. Without `choices`: with them Open-WebUI would lose the text that it has."""
        return as_event(self.as_reply()) + DONE


def of_reply(body: bytes, *, status: int, model: str) -> Failure:
    """What a reply with an error status says. `model`: whose server it came from."""
    failure = of_object(_decoded(body), status=status)
    if failure is not None:
        return failure
    text = _text(body)
    what = f"{status}: {text}" if text else str(status)
    return Failure(
        message=f"cannot tell what went wrong in the server of {model}: it answered {what}; look at its log",
        type=_type_of(status),
    )


def of_object(found: object, *, status: int | None = None) -> Failure | None:
    """What a decoded JSON value says went wrong, in any of the shapes; None if it says nothing. `status`: the reply's;
    None within a stream."""
    if not isinstance(found, dict):
        return None
    for key in ("error", "message", "detail"):
        said = found.get(key)
        if said:
            where = said if isinstance(said, dict) else found
            return _failure(_message_in(said), where, said, status)
    return None


def _failure(message: str | None, where: Mapping[str, Any], said: object, status: int | None) -> Failure | None:
    if not message:
        return None
    kind, code = where.get("type"), where.get("code")
    numbered = status if status is not None else code
    if not isinstance(code, str) or not code:
        refused = numbered in (400, 413, 422)
        is_overflow = kind == _OVERFLOW_TYPE or (refused and _SAYS_OVERFLOW.search(message) is not None)
        code = _OVERFLOW if is_overflow else _ANY_CODE
    param = where.get("param")
    return Failure(
        message=message,
        type=kind if isinstance(kind, str) and kind else _type_of(numbered),
        code=code,
        param=param if isinstance(param, str) and param else _param_in(said),
        further={key: where[key] for key in _FURTHER if type(where.get(key)) is int},
    )


def _type_of(status: object) -> str:
    if not isinstance(status, int):
        return "server_error"
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _message_in(value: object) -> str | None:
    match value:
        case str():
            return value
        case {"message": str(message)}:
            return message
        case list():
            faults = [fault for item in value[:_FAULTS] if (fault := _fault(item)) is not None]
            return "; ".join(faults) or None
        case _:
            return None


def _fault(item: object) -> str | None:
    """One of the things that FastAPI finds wrong with a body."""
    match item:
        case {"msg": str(message), **more}:
            where = _place(more)
            return f"{where}: {message}" if where else message
        case _:
            return None


def _param_in(said: object) -> str | None:
    return (_place(said[0]) or None) if isinstance(said, list) and isinstance(said[0], dict) else None


def _place(item: Mapping[Any, Any]) -> str:
    """`messages.0.content`, from FastAPI's `["body", "messages", 0, "content"]`."""
    where = item.get("loc")
    return ".".join(str(step) for step in where[1:]) if isinstance(where, list) else ""


def _decoded(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None


def is_json(body: bytes) -> bool:
    """Whether a server answered in words that it had prepared; a crash of its own answers in plain text."""
    return isinstance(_decoded(body), dict)


def _text(body: bytes) -> str:
    """The words of a text or of an HTML page's title, on one line."""
    text = body[:_READ].decode("utf-8", "replace").strip()
    if text.startswith("<"):
        title = _TITLE.search(text)
        text = title[1] if title is not None else ""
    words = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return words if len(words) <= _SHOWN else words[:_SHOWN] + "…"
