"""The OpenAI dialect: which paths there are and what the relay does on each. Counterpart: `relay`, which serves."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llm_router.api.catalog import Catalog
from llm_router.dialects import anthropic_reply
from llm_router.errors import ModelNotFound
from llm_router.relay.asgi import relay
from llm_router.relay.request import Kind, Target
from llm_router.relay.services import Services

_ANTHROPICS = "anthropic-version"
_INFERENCE = {
    "/v1/chat/completions": Kind.CHAT,
    "/v1/completions": Kind.COMPLETION,
    "/v1/embeddings": Kind.EMBEDDING,
}

TARGETS = {path.encode(): Target(kind=kind, method=b"POST", path=path.encode()) for path, kind in _INFERENCE.items()}
"""The hot routes, by path: what `relay.protocol` takes directly."""


def models(catalog: Catalog) -> APIRouter:
    """`GET /v1/models` and `/v1/models/{id}`, from memory; in Anthropic's words for its clients, which say so."""
    router = APIRouter(tags=["openai"])

    @router.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        listing = catalog.listing()
        return anthropic_reply.model_list(listing) if _ANTHROPICS in request.headers else listing

    @router.get("/v1/models/{model:path}")
    async def get_model(model: str, request: Request) -> dict[str, Any]:
        entry = catalog.find_known(model)
        if entry is None:
            raise ModelNotFound(f"cannot find the model {model!r}: GET /v1/models lists them", param="model")
        card = catalog.describe(entry)
        return anthropic_reply.model_card(card) if _ANTHROPICS in request.headers else card

    return router


class _Inference:
    """An inference route through the ASGI sink: what the protocol sink can't take ends here."""

    def __init__(self, services: Services, target: Target, limit: int) -> None:
        self._services = services
        self._target = target
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await relay(self._services, self._target, scope, receive, send, limit=self._limit)


class _Through:
    """`/upstream/{model}/…`: straight to the model's own server, whatever the path and method."""

    def __init__(self, services: Services, catalog: Catalog, limit: int) -> None:
        self._services = services
        self._catalog = catalog
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model, path = self._split(Request(scope).path_params["rest"])
        query = scope["query_string"]
        target = Target(
            kind=Kind.RAW,
            method=scope["method"].encode(),
            path=path.encode("ascii", "replace") + (b"?" + query if query else b""),
            model=model,
        )
        await relay(self._services, target, scope, receive, send, limit=self._limit)

    def _split(self, rest: str) -> tuple[str, str]:
        """The longest known name at the start: names may contain slashes themselves."""
        parts = rest.split("/")
        for count in range(len(parts), 0, -1):
            entry = self._catalog.find("/".join(parts[:count]))
            if entry is not None:
                return entry.name, "/" + "/".join(parts[count:])
        raise ModelNotFound(f"cannot find a model at the start of {rest!r}: GET /v1/models lists them")


def inference(services: Services, catalog: Catalog, limit: int) -> list[Route]:
    """The routes that relay. `limit`: of a request's body, in bytes."""
    routes = [Route(path, _Inference(services, TARGETS[path.encode()], limit), methods=["POST"]) for path in _INFERENCE]
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return [*routes, Route("/upstream/{rest:path}", _Through(services, catalog, limit), methods=methods)]
