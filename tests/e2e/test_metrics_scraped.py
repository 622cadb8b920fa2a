"""What a running router says and writes down of what has happened: two switches and three chats."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from routing import RouterProcess, Start, fake

from llm_router.history import reading


async def scraped(router: RouterProcess) -> dict[tuple[str, str], float]:
    """By name and model or phase, over all other labels."""
    async with router.client() as client:
        reply = await client.get("/metrics")
    assert reply.status_code == 200
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            key = sample.name, sample.labels.get("model", sample.labels.get("phase", ""))
            found[key] = found.get(key, 0) + sample.value
    return found


async def test_two_switches_and_three_chats_are_in_the_metrics(start: Start) -> None:
    router = await start({"a": fake(), "b": fake()})
    for name in ("a", "a", "b"):
        await router.chat(name)
    found = await scraped(router)
    assert found["llm_router_requests_total", "a"] == 2
    assert found["llm_router_completion_tokens_total", "a"] == 62
    assert found["llm_router_time_to_first_token_seconds_count", "a"] == 2
    assert found["llm_router_switches_total", "a"] == found["llm_router_switches_total", "b"] == 1
    assert (found["llm_router_evictions_total", "a"], found["llm_router_evictions_total", "b"]) == (1, 0)
    assert found["llm_router_switch_phase_seconds_count", "load"] == 2
    assert found["llm_router_switch_phase_seconds_count", "drain"] == 1
    assert found["llm_router_switch_phase_seconds_count", "stop"] == 1
    assert found["llm_router_switch_phase_seconds_sum", "load"] > 0
    assert found["llm_router_instance_state", "b"] == 1


async def test_what_happened_is_written_down(start: Start) -> None:
    router = await start({"a": fake()})
    await router.chat("a")
    await router.stop()
    path = router.folder / "state" / "history.sqlite"
    [load] = reading.loads(path, model="a", count=5)
    [request] = reading.requests(path, model="a", count=5)
    assert load.error is None
    assert (request.kind, request.outcome, request.completion_tokens) == ("chat", "completed", 31)
    assert request.wait_s is not None
    assert request.first_token_s is not None
    assert request.wait_s <= request.first_token_s <= request.took_s
