"""Whatever is sent to the other dialects' routes, the answer is in their shape, comes soon, and is no 500."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from routing import Start, fake

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "x"]), "content": JSON | st.text(max_size=5)},
    optional={"images": JSON, "tool_calls": JSON, "thinking": JSON, "tool_name": JSON},
)
FOR_ANTHROPIC = ["system", "tools", "tool_choice", "thinking", "stop_sequences", "temperature", "output_config"]
FOR_OLLAMA = ["options", "format", "think", "keep_alive", "raw", "suffix", "images", "input", "logprobs", "name"]
KEYS = ["stream", *FOR_ANTHROPIC, *FOR_OLLAMA]
BODIES = st.builds(
    lambda base, more: {**base, **more},
    st.fixed_dictionaries(
        {"model": st.sampled_from(["a", "a:latest", "a", "nope"]), "messages": st.lists(MESSAGE, max_size=3)},
        optional={"max_tokens": st.just(3), "prompt": st.text(max_size=5)},
    ),
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2),
)
OLLAMA = ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"]
ANTHROPIC = ["/v1/messages", "/v1/messages/count_tokens"]


def is_in_shape(path: str, said: Any) -> bool:
    if path in OLLAMA:
        return list(said) == ["error"] and isinstance(said["error"], str)
    return said["type"] == "error" and isinstance(said["error"]["message"], str)


async def fuzz(start: Start, examples: int) -> None:
    router = await start({"a": fake()})
    await router.chat("a")
    with httpx.Client(base_url=router.url, timeout=10, verify=False) as client:

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(
            path=st.sampled_from(OLLAMA + ANTHROPIC),
            body=BODIES.map(lambda body: json.dumps(body).encode()) | st.binary(),
        )
        def send(path: str, body: bytes) -> None:
            answer = client.post(path, content=body)
            assert answer.status_code in (200, 400, 404, 503), answer.text
            if answer.status_code != 200:
                assert is_in_shape(path, answer.json()), answer.text

        send()


async def test_whatever_is_sent_is_answered_in_shape(start: Start) -> None:
    await fuzz(start, 150)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_whatever_is_sent_for_minutes_is_answered_in_shape(start: Start) -> None:
    await fuzz(start, 1_500)
