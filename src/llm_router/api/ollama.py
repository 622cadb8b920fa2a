"""Ollama's API: `/api/chat`, `/api/generate`, `/api/embed` and what its clients ask before and between.

Counterparts: `ollama_models`, for what they are told of the models; `converse`, which relays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llm_router.api.catalog import Catalog, Entry, may_know
from llm_router.api.converse import Asked, Conversation
from llm_router.api.ollama_models import Shelf
from llm_router.api.timer import Timer
from llm_router.dialects import ollama_reply, ollama_request
from llm_router.dialects.ollama_reply import EmbeddingTranslation, LinesTranslation
from llm_router.errors import LlmRouterError, ModelNotFound
from llm_router.relay.request import Kind, Target
from llm_router.relay.services import Services
from llm_router.runtime.supervisor import Supervisor

_VERSION = "0.13.0"  # the release of Ollama whose API this is: clients ask for it to know what they may send
_CHAT = Target(kind=Kind.CHAT, method=b"POST", path=b"/v1/chat/completions")
_COMPLETION = Target(kind=Kind.COMPLETION, method=b"POST", path=b"/v1/completions")
_EMBEDDING = Target(kind=Kind.EMBEDDING, method=b"POST", path=b"/v1/embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A translated request. `relayed` None: the model is only to be loaded, or gone; `idle` is then the answer."""

    entry: Entry
    asked: ollama_request.Asked
    relayed: Asked | None
    idle: Callable[[str], bytes]


class Ollama:
    """`limit`: of a request's body, in bytes. `path_of`: a model's files; None: it has none that the router knows."""

    def __init__(
        self,
        services: Services,
        catalog: Catalog,
        supervisor: Supervisor,
        *,
        path_of: Callable[[str], str | None],
        limit: int,
    ) -> None:
        self._catalog = catalog
        self._shelf = Shelf(catalog, supervisor, path_of, time.time())
        self.services = services
        self.supervisor = supervisor
        self.limit = limit

    def routes(self) -> list[Route]:
        return [
            Route("/", _root),
            Route("/api/version", _version),
            Route("/api/tags", self._tags),
            Route("/api/ps", self._ps),
            Route("/api/show", _Show(self), methods=["POST"]),
            Route("/api/chat", _Answered(self, self._chat), methods=["POST"]),
            Route("/api/generate", _Answered(self, self._generate), methods=["POST"]),
            Route("/api/embed", _Answered(self, self._embed), methods=["POST"]),
            Route("/api/embeddings", _Answered(self, self._embed_one), methods=["POST"]),
        ]

    async def _tags(self, request: Request) -> Response:
        return JSONResponse(await self._shelf.tags())

    async def _ps(self, request: Request) -> Response:
        return JSONResponse(await self._shelf.loaded())

    async def show(self, body: bytes) -> bytes:
        """Raises: InvalidRequest, ModelNotFound."""
        name, verbose = ollama_request.model(body)
        entry = self._find(name)
        if not may_know(entry.name):
            raise _unknown(name)
        return msgspec.json.encode(await self._shelf.show(entry, verbose=verbose))

    def _find(self, name: str) -> Entry:
        """Raises: ModelNotFound."""
        entry = self._catalog.find(name)
        if entry is None:
            raise _unknown(name)
        return entry

    def _entry(self, body: bytes) -> Entry:
        return self._find(ollama_request.model(body)[0])

    def _chat(self, body: bytes, timer: Timer) -> _Question:
        entry = self._entry(body)
        return self._spoken(entry, ollama_request.chat(body, name=entry.name), timer, chat=True)

    def _generate(self, body: bytes, timer: Timer) -> _Question:
        entry = self._entry(body)
        chats = "completion" not in entry.capabilities or "chat" in entry.capabilities
        return self._spoken(entry, ollama_request.generate(body, name=entry.name, chats=chats), timer, chat=False)

    def _spoken(self, entry: Entry, asked: ollama_request.Asked, timer: Timer, *, chat: bool) -> _Question:
        translation = LinesTranslation(
            model=asked.model,
            streams=asked.stream,
            chat=chat,
            thinking=asked.thinking,
            clock=timer,
            begun=asked.begun,
        )
        target = _COMPLETION if asked.plain else _CHAT
        relayed = None if asked.body is None else Asked(target=target, body=asked.body, translation=translation)
        return _Question(entry=entry, asked=asked, relayed=relayed, idle=translation.idle)

    def _embed(self, body: bytes, timer: Timer, *, legacy: bool = False) -> _Question:
        entry = self._entry(body)
        asked = ollama_request.embed(body, name=entry.name)
        translation = EmbeddingTranslation(model=asked.model, legacy=legacy, clock=timer)
        relayed = None if asked.body is None else Asked(target=_EMBEDDING, body=asked.body, translation=translation)
        return _Question(entry=entry, asked=asked, relayed=relayed, idle=translation.idle)

    def _embed_one(self, body: bytes, timer: Timer) -> _Question:
        return self._embed(body, timer, legacy=True)


def _unknown(name: str) -> ModelNotFound:
    return ModelNotFound(f"cannot find the model {name[:200]!r}: GET /api/tags lists them")


class _Answered:
    """A route that needs the model. `read`: translates the request's body."""

    def __init__(self, ollama: Ollama, read: Callable[[bytes, Timer], _Question]) -> None:
        self._ollama = ollama
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ollama = self._ollama
        talk = Conversation(ollama.services, ollama_reply.error, scope, receive, send, limit=ollama.limit)
        try:
            body = await talk.body()
            if body is None:
                return
            question = self._read(body, talk.timer)
            keep_s = question.asked.keep_alive_s
            if keep_s:
                keep = partial(ollama.supervisor.keep, question.entry.name, math.inf if keep_s < 0 else keep_s)
                talk.timer.on_granted = keep  # who gets no lease has no say
            if question.relayed is None:
                await self._load(question, talk)
                return
        except LlmRouterError as error:
            await talk.refuse(error)
            return
        # Its connection to Ollama has no place for an error within a stream: the user would see an empty answer.
        await talk.relay(replace(question.relayed, silent=talk.is_open_webui))
        if keep_s == 0 and talk.timer.was_granted:
            self._let_go(question.entry.name)

    async def _load(self, question: _Question, talk: Conversation) -> None:
        """Nothing is asked, so the model is only to be there; or, with `keep_alive` 0, to be gone: it drains first."""
        supervisor, name = self._ollama.supervisor, question.entry.name
        if question.asked.keep_alive_s == 0:
            talk.check(name)  # who may not use a model may not take it from others
            if supervisor.instance_of(name) is not None:
                supervisor.unload(name)
            await talk.answer(question.idle("unload"))
            return
        if await talk.loaded(name):
            await talk.answer(question.idle("load"))

    def _let_go(self, name: str) -> None:
        """Unless others use it: their wish counts too, and the last one's is seen to."""
        supervisor = self._ollama.supervisor
        snapshot = supervisor.handle.scheduler.snapshot()
        instance = next((one for one in snapshot.instances if one.model == name), None)
        if instance is not None and not instance.leases and not snapshot.waiting.get(name):
            supervisor.unload(name)


class _Show:
    """A model in detail, from memory and its files' headers."""

    def __init__(self, ollama: Ollama) -> None:
        self._ollama = ollama

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ollama = self._ollama
        talk = Conversation(ollama.services, ollama_reply.error, scope, receive, send, limit=ollama.limit)
        try:
            body = await talk.body()
            shown = None if body is None else await ollama.show(body)
        except LlmRouterError as error:
            await talk.refuse(error)
        else:
            if shown is not None:
                await talk.answer(shown)


async def _root(request: Request) -> Response:
    """What clients and people look for to see whether Ollama is there."""
    return PlainTextResponse("Ollama is running")


async def _version(request: Request) -> Response:
    return JSONResponse({"version": _VERSION})
