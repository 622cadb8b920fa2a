"""Puts the routes together into one ASGI application."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llm_router import __version__
from llm_router.api import anthropic, description, further, openai
from llm_router.api.admin import Admin
from llm_router.api.catalog import Catalog
from llm_router.api.llamacpp_admin import Management
from llm_router.api.metrics import Metrics
from llm_router.api.ollama import Ollama
from llm_router.api.shapes import render_at, shaped
from llm_router.dialects.completion import Problem
from llm_router.errors import LlmRouterError
from llm_router.relay.services import Services


def build(
    services: Services,
    catalog: Catalog,
    admin: Admin,
    ollama: Ollama,
    management: Management,
    metrics: Metrics,
    *,
    body_limit: int,
) -> FastAPI:
    """`body_limit`: the largest request body taken, in bytes."""
    app = FastAPI(title="llm-router", version=__version__, redoc_url=None)
    app.include_router(openai.models(catalog))
    app.include_router(management.routes())
    app.include_router(admin.routes())
    app.include_router(metrics.routes())
    app.router.routes.extend(openai.inference(services, catalog, body_limit))
    app.router.routes.extend(further.routes(services, catalog, body_limit))
    app.router.routes.extend(anthropic.routes(services, body_limit))
    app.router.routes.extend(ollama.routes())
    app.openapi = partial(description.describe, app)  # type: ignore[method-assign]
    app.add_exception_handler(LlmRouterError, _explain)
    app.add_exception_handler(HTTPException, _refuse)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, LlmRouterError)
    status, headers, body = render_at(request.url.path, error)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


def _refuse(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the error shape of the dialect whose path it is, else in OpenAI's."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    match error.status_code:
        case 404:
            code, message = (
                "not_found",
                f"cannot find {path}: there is no such route; see /docs for those there are",
            )
        case 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            code, message = "method_not_allowed", f"cannot {request.method} {path}: use {allowed}"
        case _:
            code, message = "invalid_request", f"cannot serve this request: {error.detail}"
    said = shaped(path, error.status_code, Problem(message=message))
    if said is not None:
        return Response(said, error.status_code, error.headers, "application/json")
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return JSONResponse(body, error.status_code, error.headers)
