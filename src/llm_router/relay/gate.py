"""Who may ask, as the relay sees it: a caller is let in once, and each of his requests is counted while it runs.

Counterpart: `api.auth`, which knows the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol


class Caller(Protocol):
    """Somebody whose key has limits."""

    def enter(self, model: str) -> None:
        """A request of his for this model (its canonical name) begins; `leave` ends it. Raises: ModelNotAllowed,
        RateLimited: then there is nothing to leave."""
        ...

    def leave(self) -> None: ...

    def resume(self) -> None:
        """A request of his that he left goes on after all: what it counts for it has counted already."""
        ...

    def may_use(self, model: str) -> bool:
        """Whether a request of his for this model could be served at all."""
        ...


class Gate(Protocol):
    """`for_browsers`: replies to web pages need headers that only the ASGI side writes."""

    for_browsers: bool

    def admit(self, headers: Mapping[bytes, bytes]) -> Caller | None:
        """Who asks, by the headers (names in lower case); None: somebody without limits. The same headers have the same
        answer as long as it is the same gate. Raises: Unauthenticated, OriginNotAllowed."""
        ...


asking: ContextVar[Caller | None] = ContextVar("asking", default=None)
"""Whose request is being served here; None: somebody without limits, or nobody's. Set by whoever takes requests in, and
read where each of them gets its number (`runtime.leases`), so that no route can forget it."""
