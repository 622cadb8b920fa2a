"""The request as the inference server gets it. Counterparts: `request`, which read it; `exchange`, which sends it."""

from __future__ import annotations

from llm_router.relay import body as bodies
from llm_router.relay.headers import RequestHead
from llm_router.relay.lease import Upstream
from llm_router.relay.request import Kind, Request, Target

COUNTED = (Kind.CHAT, Kind.COMPLETION)
"""The kinds whose replies get figures."""


def outgoing(target: Target, asked: Request, client: RequestHead, body: bytes, upstream: Upstream) -> bytes:
    """Head and body, ready to be sent. Raises: InvalidRequest, ConfigError."""
    facts = asked.facts
    if facts is not None:
        body = bodies.rewrite(
            body,
            facts,
            served_name=upstream.served_name,
            ask_usage=target.kind in COUNTED and (facts.stream or upstream.usage_on_request),
            parameters=asked.model.parameters,
        )
    block = client.block(host=upstream.host_header, content_length=len(body), credential=upstream.credential)
    return b"".join((target.method, b" ", upstream.base_path, target.path, b" HTTP/1.1\r\n", block, body))
