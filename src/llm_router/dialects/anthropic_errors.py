"""What goes wrong, in the envelope of Anthropic's Messages: as a reply, and within a stream. Counterpart:
`anthropic_reply`, for what goes well."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_router.dialects.completion import Problem

_encode = msgspec.json.Encoder().encode

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_KNOWN_TYPES = frozenset({*_TYPES.values(), "invalid_request_error", "api_error"})
# What the router's own errors are in a stream, which has no status any more.
_TYPES_BY_CODE = {
    "context_length_exceeded": "invalid_request_error",
    "model_load_failed": "overloaded_error",
    "model_not_ready": "overloaded_error",
    "no_room": "overloaded_error",
    "preempted": "overloaded_error",
    "queue_full": "overloaded_error",
    "shutting_down": "overloaded_error",
    "unavailable": "overloaded_error",
    "upstream_timeout": "timeout_error",
}


def error(status: int, problem: Problem) -> bytes:
    """The envelope of an error reply."""
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return _encode(_envelope(kind, problem))


def event(problem: Problem) -> bytes:
    """An error that ends a stream."""
    kind = _TYPES_BY_CODE.get(str(problem.code)) or problem.type
    envelope = _envelope(kind if kind in _KNOWN_TYPES else "api_error", problem)
    return b"event: error\ndata: " + _encode(envelope) + b"\n\n"


def _envelope(kind: str, problem: Problem) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": _message(problem)}}


def _message(problem: Problem) -> str:
    """A prompt that doesn't fit is called so in Anthropic's words: agents look for them, and shorten their history."""
    if problem.code != "context_length_exceeded":
        return problem.message
    numbers = ""
    if problem.n_prompt_tokens is not None and problem.n_ctx is not None:
        numbers = f": {problem.n_prompt_tokens} tokens > {problem.n_ctx} maximum"
    return f"prompt is too long{numbers}. {problem.message}"
