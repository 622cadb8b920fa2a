"""Which of OpenAI's further endpoints each inference server has; all of them chat and complete.

Read from their sources: llama.cpp b11434 `server.cpp`, SGLang 0.5.23 `http_server.py`, vLLM 0.33 `api_server.py`,
TabbyAPI 2026-11 `endpoints/OAI`. Whether a loaded model can do it is the server's to say. llama.cpp's responses don't
count: the events of their streams have no `content_index` and no `output_index`, on which OpenAI's own client fails.
"""

from __future__ import annotations

from enum import Enum


class Endpoint(Enum):
    """The values are their paths."""

    RESPONSES = "/v1/responses"
    RERANK = "/v1/rerank"
    TRANSCRIPTIONS = "/v1/audio/transcriptions"
    TRANSLATIONS = "/v1/audio/translations"
    SPEECH = "/v1/audio/speech"
    IMAGES = "/v1/images/generations"
    IMAGE_EDITS = "/v1/images/edits"


_HAS = {
    "llamacpp": frozenset({Endpoint.RERANK, Endpoint.TRANSCRIPTIONS}),
    "sglang": frozenset({Endpoint.RESPONSES, Endpoint.RERANK, Endpoint.TRANSCRIPTIONS}),
    "tabbyapi": frozenset[Endpoint](),
    "tabbyapi-exl2": frozenset[Endpoint](),
    "vllm": frozenset({Endpoint.RESPONSES, Endpoint.RERANK, Endpoint.TRANSCRIPTIONS, Endpoint.TRANSLATIONS}),
}


def has(kind: str, endpoint: Endpoint) -> bool | None:
    """None: nobody knows, so it is to be tried. `kind`: the backend's."""
    known = _HAS.get(kind)
    return None if known is None else endpoint in known
