"""The seam between moving bytes and deciding: what the relay asks for and is told. Implemented by `runtime.leases`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llm_router.errors import LlmRouterError
from llm_router.relay.status_text import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where a granted request goes. One value per instance, shared by all its leases.

    `base_path`: put before the request's path, without a slash at its end. `served_name`: the name the server insists
    on in `model`; None: it ignores it. `host_header`: ready to be sent. `credential`: the server's own key.
    `usage_on_request`: even a reply in one piece has usage only if the request asks for it (TabbyAPI). Other servers
    refuse the question there (vLLM). `last_words`: texts in its errors that mean that its engine is dead.
    """

    instance: int
    model: str
    host: str
    port: int
    host_header: bytes
    tls: bool = False
    base_path: bytes = b""
    served_name: str | None = None
    credential: str | None = None
    usage_on_request: bool = False
    last_words: tuple[str, ...] = ()


class Waiter(Protocol):
    """Someone who asked for a lease. Each call comes on the event loop, possibly from inside `Dispatcher.open`."""

    def granted(self, request: int, upstream: Upstream) -> None:
        """The lease is open until `Dispatcher.close(request)`."""

    def refused(self, error: LlmRouterError) -> None:
        """There will be no lease; the request is closed already."""

    def cut(self, error: LlmRouterError) -> None:
        """The lease must end now: tell the client why, then close it."""


class Dispatcher(Protocol):
    def open(self, model: str, *, request_class: str, waiter: Waiter) -> int:
        """Ask for a lease on `model` (a canonical name). `request_class`: "interactive", "normal", "background",
        "task", or "aside": a task that doesn't wait for anything. Returns the request's id, under which it can be
        closed until it is granted; then it is closed under the one that is told with that."""
        ...

    def close(self, request: int, *, lost: bool = False) -> None:
        """The request is over, or its client left while it waited. `lost`: its instance broke the connection."""

    def suspect(self, instance: int) -> None:
        """A request has waited long for a word of `instance`: see whether it lives. The request goes on meanwhile; if
        the instance is gone, its connections break. May be called again while the silence lasts."""
        ...

    def progress(self, request: int) -> Progress | None:
        """What a waiting request waits for; None when it doesn't wait."""
        ...
