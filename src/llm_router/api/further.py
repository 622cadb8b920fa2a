"""OpenAI's further endpoints: responses, rerank, audio, images. They pass through to the server that has them; a server
that lacks one answers 501, but for responses, which are translated from a chat there.

Counterparts: `openai`, for what every server has; `backends.endpoints`, which knows who has what.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llm_router.api.catalog import Catalog, Entry
from llm_router.api.converse import Asked, Conversation
from llm_router.api.errors import render
from llm_router.backends import endpoints
from llm_router.backends.endpoints import Endpoint
from llm_router.dialects import responses_reply, responses_request
from llm_router.dialects.responses_reply import ResponseTranslation
from llm_router.errors import LlmRouterError, ModelNotFound, NotSupported
from llm_router.relay import body as bodies
from llm_router.relay import failure
from llm_router.relay.asgi import AsgiSink, deliver, read_body
from llm_router.relay.exchange import Exchange
from llm_router.relay.form import Form, boundary_of
from llm_router.relay.headers import Headers, RequestHead
from llm_router.relay.native import NativeStream
from llm_router.relay.request import Kind, Target
from llm_router.relay.services import Services
from llm_router.relay.sink import Sink
from llm_router.relay.upload import Upload

_CHAT = Target(kind=Kind.CHAT, method=b"POST", path=b"/v1/chat/completions")
# Clients know reranking by several paths; all servers know the first.
_JSON = {
    "/v1/rerank": Endpoint.RERANK,
    "/rerank": Endpoint.RERANK,
    "/v1/reranking": Endpoint.RERANK,
    "/v1/audio/speech": Endpoint.SPEECH,
    "/v1/images/generations": Endpoint.IMAGES,
}
_FORMS = {
    "/v1/audio/transcriptions": Endpoint.TRANSCRIPTIONS,
    "/v1/audio/translations": Endpoint.TRANSLATIONS,
    "/v1/images/edits": Endpoint.IMAGE_EDITS,
}
_NOT_THERE = (404, 405)


class _Tried:
    """A sink that knows what it means when a server hasn't heard of a path. Everything else goes on as it is."""

    def __init__(self, sink: Sink, entry: Entry, endpoint: Endpoint) -> None:
        self._sink = sink
        self._entry = entry
        self._endpoint = endpoint
        self.head, self.data, self.end, self.abort = sink.head, sink.data, sink.end, sink.abort

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        if status in _NOT_THERE:
            said = failure.of_reply(body, status=status, model=self._entry.name).message
            self._sink.reply(*render(_lacks(self._entry, self._endpoint, f" ({said})")))
        else:
            self._sink.reply(status, headers, body)


def _lacks(entry: Entry, endpoint: Endpoint, why: str = "") -> NotSupported:
    return NotSupported(
        f"cannot use {endpoint.value} with {entry.name}: its server ({entry.backend}) doesn't have it{why}; "
        "name a model whose server does",
        param="model",
    )


def _find(catalog: Catalog, model: str) -> Entry:
    entry = catalog.find(model)
    if entry is None:
        raise ModelNotFound(f"cannot find the model {model[:200]!r}: GET /v1/models lists them", param="model")
    return entry


class _Passing:
    """What both kinds of routes know. `limit`: of a body, in bytes."""

    def __init__(self, services: Services, catalog: Catalog, endpoint: Endpoint, limit: int) -> None:
        self._services = services
        self._catalog = catalog
        self._endpoint = endpoint
        self._target = Target(kind=Kind.EMBEDDING, method=b"POST", path=endpoint.value.encode())
        self._limit = limit

    def _entry(self, model: str) -> Entry:
        """Raises: ModelNotFound, NotSupported."""
        entry = _find(self._catalog, model)
        if endpoints.has(entry.backend, self._endpoint) is False:
            raise _lacks(entry, self._endpoint)
        return entry


class _PassingJson(_Passing):
    """A route whose JSON goes to the server as it is, but for the model's name and its `parameters`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sink = AsgiSink()
        try:
            body = await read_body(receive, self._limit)
            if body is None:
                return
            entry = self._entry(bodies.read(body).model)
        except LlmRouterError as error:
            sink.reply(*render(error))
            await sink.pump(send)
            return
        tried = _Tried(sink, entry, self._endpoint)
        head = RequestHead(list(scope["headers"]))
        exchange = sink.exchange = Exchange(self._services, tried, self._target, head)
        exchange.start(body)
        await deliver(sink, exchange, receive, send)


class _PassingForm(_Passing):
    """A route that takes a form with files, which is kept in a file until the model is there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sink = AsgiSink()
        head = RequestHead(list(scope["headers"]))
        try:
            form = Form(boundary_of(head.fields.get(b"content-type", b"")), self._limit)
            if not await _receive(form, receive):
                return
            await asyncio.to_thread(form.close)
            entry = self._entry(form.model)
            parameters = self._services.models[entry.name].parameters
            if parameters is not None:
                await asyncio.to_thread(form.amend, parameters)
        except LlmRouterError as error:
            sink.reply(*render(error))
            await sink.pump(send)
            return
        upload = Upload(self._services, _Tried(sink, entry, self._endpoint), self._target, head, form)
        sink.exchange = upload
        upload.start_form()
        await deliver(sink, upload, receive, send)


async def _receive(form: Form, receive: Receive) -> bool:
    """Whether the form is here; False: the client left. Raises: RequestTooLarge, Unavailable."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        form.add(message.get("body", b""))
        if not message.get("more_body", False):
            return True


class _Responses:
    """Passes through where the server speaks it, else it is translated."""

    def __init__(self, services: Services, catalog: Catalog, limit: int) -> None:
        self._services = services
        self._catalog = catalog
        self._target = Target(kind=Kind.EMBEDDING, method=b"POST", path=Endpoint.RESPONSES.value.encode())
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        talk = Conversation(self._services, responses_reply.error, scope, receive, send, limit=self._limit)
        try:
            body = await talk.body()
            if body is None:
                return
            facts = bodies.read(body)
            entry = _find(self._catalog, facts.model)
            is_native = endpoints.has(entry.backend, Endpoint.RESPONSES) is True
            asked = None if is_native else _translated(body)
        except LlmRouterError as error:
            await talk.refuse(error)
            return
        if asked is not None:
            await talk.relay(asked)
            return
        sink = AsgiSink()
        head = RequestHead([*scope["headers"], *_manner(scope["headers"], facts, body)])
        native = NativeStream(_Tried(sink, entry, Endpoint.RESPONSES), responses_reply.stream_error)
        exchange = sink.exchange = Exchange(self._services, native, self._target, head)
        exchange.start(body)
        await deliver(sink, exchange, receive, send)


def _manner(pairs: Headers, facts: bodies.Facts, body: bytes) -> Headers:
    """What the relay would see by itself in a chat: a front end's own request, and somebody who watches."""
    names = {name for name, _ in pairs}
    if responses_request.is_task(body) and b"x-llm-router-task" not in names:
        return [(b"x-llm-router-task", b"unnamed")]
    if facts.stream and b"x-llm-router-class" not in names:
        return [(b"x-llm-router-class", b"interactive")]
    return []


def _translated(body: bytes) -> Asked:
    """Raises: InvalidRequest."""
    asked = responses_request.read(body)
    translation = ResponseTranslation(
        id=f"resp_{secrets.token_hex(16)}", model=asked.model, streams=asked.stream, echo=asked.echo, now=time.time
    )
    return Asked(target=_CHAT, body=asked.body, translation=translation)


def routes(services: Services, catalog: Catalog, limit: int) -> list[Route]:
    """`limit`: of a request's body, in bytes."""
    passing = [
        Route(path, _PassingJson(services, catalog, endpoint, limit), methods=["POST"])
        for path, endpoint in _JSON.items()
    ]
    uploading = [
        Route(path, _PassingForm(services, catalog, endpoint, limit), methods=["POST"])
        for path, endpoint in _FORMS.items()
    ]
    return [*passing, *uploading, Route("/v1/responses", _Responses(services, catalog, limit), methods=["POST"])]
