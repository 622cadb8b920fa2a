"""The error tree: what can go wrong, named once.

Every error that a client or a user may see is one of these, with a stable `code`. This module knows
no HTTP: `api.errors` alone turns a code into a status. Foreign exceptions are translated at the border
where they appear, with `from`. A message starts with "cannot …", names the thing and ends with the next step.
"""

from __future__ import annotations


class LlmRouterError(Exception):
    """Base of everything the router raises on purpose.

    `code` is stable and machine-readable; `retry_after_s` is set where trying again later can help.
    """

    code = "internal_error"

    def __init__(self, message: str, *, retry_after_s: float | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.param = param


class ConfigError(LlmRouterError):
    """A configuration that can't be used."""

    code = "invalid_configuration"


class InvalidRequest(LlmRouterError):
    """The request itself is wrong; sending it again unchanged can't help."""

    code = "invalid_request"


class RequestTooLarge(InvalidRequest):
    code = "request_too_large"


class UnsupportedMediaType(InvalidRequest):
    code = "unsupported_media_type"


class ModelNotFound(InvalidRequest):
    code = "model_not_found"


class Unauthenticated(LlmRouterError):
    """No key, or none that is configured."""

    code = "invalid_api_key"


class Forbidden(LlmRouterError):
    """Whoever asks is known, or needn't be, and may not do this."""

    code = "forbidden"


class AdminOnly(Forbidden):
    code = "admin_key_required"


class ModelNotAllowed(Forbidden):
    code = "model_not_allowed"


class OriginNotAllowed(Forbidden):
    """A web page asks that nobody has allowed to, or one that has taken over a name (DNS rebinding)."""

    code = "origin_not_allowed"


class RateLimited(LlmRouterError):
    """The key's own limit is reached."""

    code = "rate_limit_exceeded"


class NotSupported(LlmRouterError):
    """The endpoint exists, but this model's backend can't do it."""

    code = "not_supported"


class Unavailable(LlmRouterError):
    """The request is fine, but can't be served now."""

    code = "unavailable"


class QueueFull(Unavailable):
    code = "queue_full"


class ModelNotReady(Unavailable):
    """A background request named a model that isn't loaded, and such requests never cause a switch."""

    code = "model_not_ready"


class LoadFailed(Unavailable):
    """The model could not be made ready; the message holds the engine's last meaningful lines."""

    code = "model_load_failed"


class NoRoom(Unavailable):
    """What is loaded may not be evicted (pinned), and the model doesn't fit beside it."""

    code = "no_room"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class Preempted(Unavailable):
    """The drain deadline passed, or someone unloaded the model, while this request was running."""

    code = "preempted"


class UpstreamError(LlmRouterError):
    """The inference server behind the router misbehaved."""

    code = "upstream_error"


class UpstreamLost(UpstreamError):
    """The connection to the inference server broke before its reply was complete."""

    code = "upstream_lost"


class UpstreamGarbage(UpstreamError):
    """The inference server sent something that is not HTTP."""

    code = "upstream_garbage"


class UpstreamTimeout(UpstreamError):
    code = "upstream_timeout"


class LaunchError(LlmRouterError):
    """An inference server could not be started or never became ready."""

    code = "launch_failed"
