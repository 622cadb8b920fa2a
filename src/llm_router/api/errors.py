"""The one place where errors get an HTTP status."""

from __future__ import annotations

import json
import math

from llm_router.errors import (
    Forbidden,
    InvalidRequest,
    LlmRouterError,
    ModelNotFound,
    NotSupported,
    RateLimited,
    RequestTooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    UpstreamError,
    UpstreamTimeout,
)
from llm_router.relay.headers import Headers

# The first class that fits counts, so the special ones come first.
_STATUS: list[tuple[type[LlmRouterError], int, str]] = [
    (ModelNotFound, 404, "invalid_request_error"),
    (RequestTooLarge, 413, "invalid_request_error"),
    (UnsupportedMediaType, 415, "invalid_request_error"),
    (InvalidRequest, 400, "invalid_request_error"),
    (Unauthenticated, 401, "authentication_error"),
    (Forbidden, 403, "permission_error"),
    (RateLimited, 429, "rate_limit_error"),
    (NotSupported, 501, "not_supported_error"),
    (Unavailable, 503, "unavailable_error"),
    (UpstreamTimeout, 504, "upstream_error"),
    (UpstreamError, 502, "upstream_error"),
    (LlmRouterError, 500, "server_error"),
]


def status_of(error: LlmRouterError) -> int:
    return next(status for kind, status, _ in _STATUS if isinstance(error, kind))


def body_of(error: LlmRouterError) -> dict[str, dict[str, str | None]]:
    """OpenAI's error shape: `{"error": {"message", "type", "param", "code"}}`."""
    type_ = next(type_ for kind, _, type_ in _STATUS if isinstance(error, kind))
    return {"error": {"message": error.message, "type": type_, "param": error.param, "code": error.code}}


def render(error: LlmRouterError) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the reply that tells a client about `error`."""
    headers: Headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    return status_of(error), headers, json.dumps(body_of(error), ensure_ascii=False).encode()
