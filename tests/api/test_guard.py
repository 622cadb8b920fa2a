"""What stands before every route but the hot ones: who gets to `/metrics`, and what a line of the log is about."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from llm_router.api.auth import Gate
from llm_router.api.middleware import Guard
from llm_router.config.keys import ClientKey

ANNA = b"anna-has-a-key-like-this"
BOSS = b"boss-has-a-key-like-that"
HERE, ELSEWHERE = "127.0.0.1", "192.0.2.7"


def key(name: str, text: bytes, *, admin: bool = False) -> ClientKey:
    digest = hashlib.sha256(text).digest()
    return ClientKey(name=name, digest=digest, admin=admin, models=("*",), requests_per_minute=None, concurrency=None)


ANNAS, BOSSES = key("anna", ANNA), key("boss", BOSS, admin=True)


async def status_of(gate: Gate, path: str, client: str, *, answered: int = 200, **headers: bytes) -> int:
    """What a request gets where the routes behind the guard answer so."""
    said: list[int] = []

    async def routes(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": answered, "headers": []})

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    async def receive() -> Message:
        raise AssertionError("nothing of the body is read")

    pairs = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "path": path, "method": "GET", "headers": pairs, "client": (client, 1)}
    await Guard(routes, lambda: gate)(scope, receive, send)
    return said[0]


@pytest.mark.parametrize(
    ("keys", "client", "sent", "status"),
    [
        ((ANNAS, BOSSES), ELSEWHERE, {"authorization": b"Bearer " + BOSS}, 200),
        ((ANNAS, BOSSES), ELSEWHERE, {"x_api_key": BOSS}, 200),
        ((ANNAS, BOSSES), HERE, {"authorization": b"Bearer " + ANNA}, 403),
        ((ANNAS, BOSSES), HERE, {}, 401),
        ((ANNAS,), HERE, {}, 200),
        ((ANNAS,), HERE, {"x_forwarded_for": b"192.0.2.7"}, 403),
        ((ANNAS,), ELSEWHERE, {"authorization": b"Bearer " + ANNA}, 403),
        ((), HERE, {}, 200),
        ((), HERE, {"host": b"evil.example"}, 403),
        ((), HERE, {"host": b"localhost", "origin": b"https://evil.example"}, 403),
    ],
)
async def test_who_may_read_the_metrics(
    keys: tuple[ClientKey, ...], client: str, sent: dict[str, bytes], status: int
) -> None:
    assert await status_of(Gate(keys, is_private=not keys), "/metrics", client, **sent) == status


async def test_a_line_about_a_request_has_its_number_for_programs_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate((ANNAS, BOSSES), is_private=False)
    await status_of(gate, "/admin/status", ELSEWHERE, x_request_id=b"refused:1")
    await status_of(gate, "/v1/models", HERE, answered=500, x_api_key=ANNA, x_request_id=b"broken:2")
    assert [getattr(record, "request_id", None) for record in caplog.records] == ["refused:1", "broken:2"]
