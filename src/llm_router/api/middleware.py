"""Stands before all that isn't a hot route: who may ask, a number for each request, and a line for each management act.

Counterparts: `auth`, which knows who may; `relay.protocol`, which does the same for the hot routes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_router.api.auth import Caller, Gate
from llm_router.api.shapes import render_at
from llm_router.errors import LlmRouterError
from llm_router.relay import ids
from llm_router.relay.gate import asking

_audit = logging.getLogger("llm_router.audit")
_log = logging.getLogger(__name__)

CALLER = "llm_router.caller"
"""Where a request's `Caller` stands in its scope, if it has one."""

_OPEN = ("/health",)
# What manages the router, and what reaches a server past it: with the router's own key for that server.
_ADMIN = ("/admin", "/metrics", "/docs", "/openapi.json", "/upstream", "/models/unload")


class Guard:
    """An ASGI application before another one. `gate_of`: the rules in force."""

    def __init__(self, app: ASGIApp, gate_of: Callable[[], Gate]) -> None:
        self._app = app
        self._gate_of = gate_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        number = ids.of_request(headers)

        async def numbered(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message["status"], number)
                fields = [pair for pair in message["headers"] if pair[0] != ids.HEADER]
                message = {**message, "headers": [*fields, (ids.HEADER, number)]}
            await send(message)

        try:
            caller = scope[CALLER] = self._admitted(scope, headers)
        except LlmRouterError as error:
            await refuse(scope["path"], error, numbered)
            return
        asking.set(caller if caller is not None and caller.is_limited else None)
        await self._app(scope, receive, numbered)

    def _admitted(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller | None:
        path, client = scope["path"], scope.get("client")
        if path in _OPEN:
            return None
        if _is_below(path, _ADMIN):
            return self._gate_of().admit_admin(headers, client[0] if client else None)
        return self._gate_of().identify(headers)

    def _note(self, scope: Scope, status: int, number: bytes) -> None:
        """Who did what, from where, and whether he could. Reading is no act. Before the reply goes out, so that whoever
        has it finds the line."""
        path, client, caller = scope["path"], scope.get("client"), scope.get(CALLER)
        about = {"request_id": number.decode()}
        if status >= 500:
            _log.info("request %s to %s: %d", number.decode(), path, status, extra=about)
        if not _is_below(path, _ADMIN) or (scope["method"] in ("GET", "HEAD", "OPTIONS") and status not in (401, 403)):
            return
        _audit.info(
            "%s %s by %s from %s: %d (request %s)",
            scope["method"],
            path,
            "nobody known" if caller is None else caller.name,
            client[0] if client else "a socket",
            status,
            number.decode(),
            extra=about,
        )


def _is_below(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


async def refuse(path: str, error: LlmRouterError, send: Send) -> None:
    """An error reply in the shape of the dialect whose path it is, else in OpenAI's."""
    status, headers, body = render_at(path, error)
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Browsers:
    """An ASGI application before another one: which web pages may read its replies. At first none."""

    def __init__(self, app: ASGIApp) -> None:
        self._closed = self._app = app

    def configure(self, origins: Collection[str]) -> None:
        """These may from now on."""
        if not origins:
            self._app = self._closed
            return
        self._app = CORSMiddleware(
            self._closed,
            allow_origins=tuple(origin.rstrip("/") for origin in origins),
            allow_methods=("*",),
            allow_headers=("*",),
            expose_headers=(ids.HEADER.decode(), "retry-after"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
