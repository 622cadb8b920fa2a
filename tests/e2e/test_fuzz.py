"""The router's own description of its API, played at random: whatever comes, it answers in shape, and goes on."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from routing import RouterProcess, Start, fake

# Of these a random path would only be an instance's own business, or last for ever.
_LEFT_OUT = ("/models/sse", "/admin/logs/{model}")
_PHASES = (Phase.explicit, Phase.generate)  # a failure needn't be small


def check(status: int, kind: str, body: bytes, what: str) -> None:
    """No mistake of ours, and every refusal says why in JSON."""
    assert status not in (500, 502, 504), (what, status, body[:500])
    if status >= 400:
        assert kind.startswith("application/json"), what
        assert "error" in json.loads(body), what


def play(url: str, examples: int, until: float) -> int:
    """Every operation, so many times or as long as there is time. Returns how many requests that were."""
    import schemathesis  # here, for it takes half a second, which collecting the tests would cost every process

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    count = 0
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        if operation.path in _LEFT_OUT:
            continue
        if time.monotonic() > until:
            break

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=_PHASES,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), model=st.sampled_from(["a", "e", "nope", None]))
        def ask(case: Any, model: str | None) -> None:
            nonlocal count
            if time.monotonic() > until:
                return
            if model is not None and isinstance(case.body, dict):
                case.body["model"] = model
            answer = case.call(base_url=url, timeout=20)
            count += 1
            kind = answer.headers.get("content-type", [""])[0]
            check(answer.status_code, kind, answer.content, f"{case.method} {case.path} {case.body!r}"[:500])

        ask()
    return count


@pytest.fixture
async def router(start: Start) -> RouterProcess:
    models = {"a": fake("--count", "3"), "e": fake("--count", "3", capabilities=["embedding"])}
    return await start(models, max_body="64KiB", queue_limit=1000)


async def test_random_requests_to_every_endpoint_are_answered_in_shape(router: RouterProcess) -> None:
    count = await asyncio.to_thread(play, router.url, 4, time.monotonic() + 60)
    assert count > 100
    assert (await router.chat("a")).text.startswith(" I am a:")


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_minutes_of_random_requests_leave_the_router_as_it_was(router: RouterProcess) -> None:
    """One by itself; ten, say, with FUZZ_SECONDS=600."""
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "60"))
    while time.monotonic() < end:
        await asyncio.to_thread(play, router.url, 50, end)
    assert (await router.chat("a")).text.startswith(" I am a:")
