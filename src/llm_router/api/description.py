"""The whole API as OpenAPI: what FastAPI knows of its own routes, and what is to be said of those that are relayed.

Counterpart: `build`, which asks for it. Of a relayed request only what the router reads is described; everything else
is between the client and the server of the model.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_MODEL = {"model": {"type": "string", "minLength": 1, "description": "A configured model, by name or alias."}}
_STREAM = {"stream": {"type": "boolean"}}
_FILE = {"file": {"type": "string", "format": "binary"}}
_IMAGE = {"image": {"type": "string", "format": "binary"}}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"description": "What went wrong, in the shape of the API that was called."}},
}

# By path: what it is called, the media type of its body, and the keys that the router reads. Those of `_MODEL` are
# required.
_FORM = "multipart/form-data"
_RELAYED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "/v1/chat/completions": ("Chat", "application/json", _MODEL | _STREAM),
    "/v1/completions": ("Text completion", "application/json", _MODEL | _STREAM),
    "/v1/embeddings": ("Embeddings", "application/json", _MODEL),
    "/v1/responses": ("Responses", "application/json", _MODEL | _STREAM),
    "/v1/rerank": ("Rerank", "application/json", _MODEL),
    "/rerank": ("Rerank", "application/json", _MODEL),
    "/v1/reranking": ("Rerank", "application/json", _MODEL),
    "/v1/audio/speech": ("Speech", "application/json", _MODEL),
    "/v1/audio/transcriptions": ("Transcription", _FORM, _MODEL | _FILE),
    "/v1/audio/translations": ("Translation", _FORM, _MODEL | _FILE),
    "/v1/images/generations": ("Images", "application/json", _MODEL),
    "/v1/images/edits": ("Edited images", _FORM, _MODEL | _IMAGE),
    "/v1/messages": ("Anthropic's Messages", "application/json", _MODEL | _STREAM),
    "/v1/messages/count_tokens": ("Anthropic's count of tokens", "application/json", _MODEL),
    "/api/chat": ("Ollama's chat", "application/json", _MODEL | _STREAM),
    "/api/generate": ("Ollama's completion", "application/json", _MODEL | _STREAM),
    "/api/embed": ("Ollama's embeddings", "application/json", _MODEL),
    "/api/embeddings": ("Ollama's embeddings, as they were", "application/json", _MODEL),
    "/api/show": ("Ollama's description of a model", "application/json", _MODEL),
    "/models/load": ("Load", "application/json", _MODEL),
    "/models/unload": ("Unload", "application/json", _MODEL),
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, as a value."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path, (name, media_type, keys) in _RELAYED.items():
            document["paths"].setdefault(path, {})["post"] = _operation(name, media_type, keys)
        app.openapi_schema = document
    return app.openapi_schema


def _operation(name: str, media_type: str, keys: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["model"], "properties": keys}
    return {
        "summary": name,
        "requestBody": {"required": True, "content": {media_type: {"schema": schema}}},
        "responses": {
            "200": {"description": "What the model's server answers."},
            "default": {"description": "An error.", "content": {"application/json": {"schema": _ERROR}}},
        },
    }
