"""The client's half of the relay, as `exchange` sees it. Two implementations: `asgi` (public API, any server) and
`protocol` (inside uvicorn's own protocol, for the hot routes)."""

from __future__ import annotations

from typing import Protocol

from llm_router.relay.headers import Headers
from llm_router.relay.lane import Write


class Sink(Protocol):
    """Where a reply goes. In turn it calls `Exchange.client_gone`, `.pause` and `.resume`."""

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole reply at once, instead of all that follows."""

    def head(self, status: int, headers: Headers, length: int | None) -> Write | None:
        """`length`: the body's, in bytes; None: not known, so the sink frames it. Once, before anything else.

        Returns what takes whole chunks, framed as HTTP does, in the place of `data`; None: nothing does."""
        ...

    def data(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def abort(self) -> None:
        """Break the client's connection: the honest end of a reply whose server died."""
