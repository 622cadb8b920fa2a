"""Idle models leave in steps: an engine that can gives its memory back first, and is woken by the next request."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from engines import program
from routing import RouterProcess, Start, leftovers, numbers

COUNT = 20
PACE = ("--count", str(COUNT), "--token-ms", "1", "--startup-s", "0.05")
# So much that nobody ever leaves for another.
ROOM: dict[str, Any] = {"memory": "64GiB"}

Model = Callable[..., dict[str, Any]]


@pytest.fixture
def vllm(tmp_path: Path) -> Model:
    def make(*options: str, **more: Any) -> dict[str, Any]:
        return {"backend": "vllm", "path": str(tmp_path), "args": [*PACE, *options], **PARKED, **more}

    return make


@pytest.fixture
def sglang(tmp_path: Path) -> Model:
    def make(*options: str, **more: Any) -> dict[str, Any]:
        pace = (*PACE, "--term-tick-s", "0.05", "--warmup-s", "0")
        return {"backend": "sglang", "path": str(tmp_path), "args": [*pace, *options], **PARKED, **more}

    return make


PARKED: dict[str, Any] = {"park_after": "0.2s", "memory": "1GiB"}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    backends = {name: {"binary": str(program(tmp_path, name, f"fake_{name}.py"))} for name in ("vllm", "sglang")}
    return {**ROOM, "backends": backends}


async def asked(status: dict[str, Any], path: str) -> Any:
    """The engine itself, behind the router's back."""
    async with httpx.AsyncClient(verify=False) as client:
        return (await client.get(f"http://127.0.0.1:{status['port']}{path}")).json()


async def answers(router: RouterProcess, model: str) -> list[str]:
    """A chat is answered, and by whom it should be; the comments that its client saw."""
    events = await router.chat(model, headers={"X-LLM-Router-Status": "comment"})
    assert events.text == numbers(model, COUNT) and events.done, events
    return events.comments


async def listed(router: RouterProcess) -> dict[str, str]:
    async with router.client() as client:
        return {model["id"]: model["status"]["value"] for model in (await client.get("/v1/models")).json()["data"]}


async def test_an_idle_engine_is_parked_and_a_request_wakes_the_same_process(
    start: Start, vllm: Model, sglang: Model, settings: dict[str, Any]
) -> None:
    router = await start({"sleeper": vllm(), "giver": sglang()}, **settings)
    for name in ("sleeper", "giver"):
        await answers(router, name)
    before = {name: await router.until(name, "parked") for name in ("sleeper", "giver")}
    assert await asked(before["sleeper"], "/is_sleeping") == {"is_sleeping": True}
    assert (await asked(before["giver"], "/stats"))["last"]["path"] == "/release_memory_occupation"
    assert await listed(router) == {"sleeper": "sleeping", "giver": "sleeping"}

    for name in ("sleeper", "giver"):
        comments = await answers(router, name)
        assert any("Waking model" in comment for comment in comments), comments
        assert (await router.status())[name]["pid"] == before[name]["pid"]
    assert router.loads() == ["sleeper", "giver"]
    async with router.client() as client:
        metrics = (await client.get("/metrics")).text
    assert 'llm_router_wakes_total{model="sleeper",outcome="ready"} 1.0' in metrics
    assert 'llm_router_parks_total{model="giver"}' in metrics


async def test_the_last_step_is_to_stop(start: Start, vllm: Model, settings: dict[str, Any]) -> None:
    router = await start({"model": vllm(idle_timeout="0.6s")}, **settings)
    await answers(router, "model")
    await router.until("model", "unloaded")
    log = router.log.read_text()
    assert log.index("model is parked") < log.index("stopping model")
    assert leftovers(router) == []


async def test_an_engine_that_fails_on_the_way_down_or_up_is_started_anew_and_nobody_is_refused(
    start: Start, vllm: Model, sglang: Model, settings: dict[str, Any]
) -> None:
    """It can't be parked; it can't be woken; it says nothing and dies of it; it is killed while it is parked."""
    router = await start(
        {
            "insomniac": vllm("--insomniac"),
            "comatose": vllm("--comatose"),
            "mortal": sglang("--comatose"),
            "killed": vllm(),
        },
        **settings,
    )
    first = {}

    async def goes_down(name: str, state: str) -> None:
        await answers(router, name)
        first[name] = (await router.status())[name]["pid"]
        await router.until(name, state)

    await asyncio.gather(
        goes_down("insomniac", "unloaded"),
        *(goes_down(name, "parked") for name in ("comatose", "mortal", "killed")),
    )
    os.kill(first["killed"], signal.SIGKILL)
    await router.until("killed", "unloaded")

    await asyncio.gather(*(answers(router, name) for name in first))
    now = await router.status()
    for name, pid in first.items():
        assert now[name]["error"] is None and now[name]["pid"] != pid
    assert sorted(router.loads()) == sorted([*first, *first])


async def test_a_parked_engine_outlives_a_killed_router_if_it_can_say_that_it_is_parked(
    start: Start, vllm: Model, sglang: Model, settings: dict[str, Any]
) -> None:
    router = await start({"sleeper": vllm(), "giver": sglang()}, **settings)
    await asyncio.gather(*(answers(router, name) for name in ("sleeper", "giver")))
    before = {name: await router.until(name, "parked") for name in ("sleeper", "giver")}
    await router.kill()
    await router.start()

    await router.until("sleeper", "parked")
    await router.until("giver", "unloaded")
    await asyncio.gather(*(answers(router, name) for name in ("sleeper", "giver")))
    after = await router.status()
    assert after["sleeper"]["pid"] == before["sleeper"]["pid"]
    assert after["giver"]["pid"] != before["giver"]["pid"]
