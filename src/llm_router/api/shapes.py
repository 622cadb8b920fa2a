"""Errors outside a conversation (unknown paths, wrong methods, what a gate refuses) in the shape of the dialect whose
path it is. Counterparts: `errors`, which has OpenAI's shape and every status; `converse`, for errors within one."""

from __future__ import annotations

from llm_router.api.errors import render
from llm_router.dialects import anthropic_errors, completion, ollama_reply
from llm_router.dialects.completion import Problem
from llm_router.errors import LlmRouterError
from llm_router.relay.headers import Headers

_SHAPES = (("/v1/messages", anthropic_errors.error), ("/api/", ollama_reply.error))


def shaped(path: str, status: int, problem: Problem) -> bytes | None:
    """The body of the error reply; None: OpenAI's shape is the right one."""
    return next((shape(status, problem) for start, shape in _SHAPES if path.startswith(start)), None)


def render_at(path: str, error: LlmRouterError) -> tuple[int, Headers, bytes]:
    """As `api.errors.render`, for a request to `path`."""
    status, headers, body = render(error)
    return status, headers, shaped(path, status, completion.problem(body)) or body
