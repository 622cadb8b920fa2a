"""Anthropic's Messages API: `/v1/messages`, and how many tokens a request has."""

from __future__ import annotations

import secrets

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llm_router.api.aside import ask
from llm_router.api.converse import Asked, Conversation
from llm_router.dialects import anthropic_errors, anthropic_reply, anthropic_request
from llm_router.dialects.anthropic_reply import MessageTranslation
from llm_router.dialects.ollama_request import untagged
from llm_router.errors import LlmRouterError, ModelNotFound
from llm_router.relay.request import Kind, Target
from llm_router.relay.services import Services

_CHAT = Target(kind=Kind.CHAT, method=b"POST", path=b"/v1/chat/completions")
_COUNT = b"/v1/messages/count_tokens"
_ENCODE = b"/v1/token/encode"
_NOT_READY = 503


def _read(body: bytes) -> Asked:
    """Raises: InvalidRequest."""
    asked = anthropic_request.read(body)
    translation = MessageTranslation(
        id=f"msg_{secrets.token_hex(12)}",
        model=asked.model,
        streams=asked.stream,
        thinking=asked.thinking,
        stops=asked.stops,
        begun=asked.begun,
    )
    return Asked(target=_CHAT, body=asked.body, translation=translation)


class _Messages:
    def __init__(self, services: Services, limit: int) -> None:
        self._services = services
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        talk = Conversation(self._services, anthropic_errors.error, scope, receive, send, limit=self._limit)
        try:
            body = await talk.body()
            if body is None:
                return
            asked = _read(body)
        except LlmRouterError as error:
            await talk.refuse(error)
        else:
            await talk.relay(asked)


class _Counted(msgspec.Struct):
    """What the servers call the number: llama.cpp, SGLang and vLLM the first, TabbyAPI the second."""

    input_tokens: int | None = None
    length: int | None = None


_decode_counted = msgspec.json.Decoder(_Counted).decode


class _CountTokens:
    """Counting never loads a model: an agent counts often, and for models that it won't use next."""

    def __init__(self, services: Services, limit: int) -> None:
        self._services = services
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        talk = Conversation(self._services, anthropic_errors.error, scope, receive, send, limit=self._limit)
        try:
            body = await talk.body()
            if body is None:
                return
            counted, is_estimate = await self._count(body)
        except LlmRouterError as error:
            await talk.refuse(error)
        else:
            mark = [(b"x-llm-router-estimate", b"true")] if is_estimate else []
            await talk.answer(b'{"input_tokens":%d}' % counted, mark)

    async def _count(self, body: bytes) -> tuple[int, bool]:
        """How many tokens, and whether that is only an estimate."""
        asked = anthropic_request.read(body, counting=True)
        if not {asked.model, untagged(asked.model)} & self._services.models.keys():
            raise ModelNotFound(f"cannot find the model {asked.model[:200]!r}: GET /v1/models lists them")
        whole = msgspec.json.encode({"model": asked.model, "text": asked.messages})
        for path, question in ((_COUNT, body), (_ENCODE, whole)):
            status, reply = await ask(self._services, path, question)
            counted = _read_count(reply) if status == 200 else None
            if counted is not None:
                return counted, False
            if status in (0, _NOT_READY):
                break
        return anthropic_reply.estimate(asked.messages, asked.tools), True


def _read_count(reply: bytes) -> int | None:
    try:
        counted = _decode_counted(reply)
    except (ValueError, RecursionError):
        return None
    return counted.input_tokens if counted.input_tokens is not None else counted.length


def routes(services: Services, limit: int) -> list[Route]:
    """`limit`: of a request's body, in bytes."""
    return [
        Route("/v1/messages", _Messages(services, limit), methods=["POST"]),
        Route("/v1/messages/count_tokens", _CountTokens(services, limit), methods=["POST"]),
    ]
