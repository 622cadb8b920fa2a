"""The router is told to end: what runs may finish, what waits is told, nothing is left, and the exit code is 0."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest
from routing import RouterProcess, Start, fake, is_alive, leftovers, numbers, until


async def _logged(router: RouterProcess, words: str) -> None:
    async def is_there() -> bool:
        return words in router.log.read_text()

    await until(is_there)


async def test_running_answers_are_finished_and_new_ones_refused(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "20"), "b": fake()})
    await router.chat("a", max_tokens=1)
    running = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.until_running("a", 1)
    router.signal(signal.SIGTERM)
    assert (await running).text == numbers("a", 30)
    assert await router.stop() == 0


async def test_a_second_signal_skips_the_waiting(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "1000")})
    await router.chat("a", max_tokens=1)
    running = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.until_running("a", 1)
    router.signal(signal.SIGTERM)
    await _logged(router, "finishing what runs")
    router.signal(signal.SIGTERM)
    assert await router.stop() == 0
    assert not (await running).text.endswith("30")


async def test_a_client_that_waits_is_told_and_the_load_is_given_up(start: Start) -> None:
    router = await start({"a": fake("--never-ready")})
    waiting = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.when("a", lambda status: status["pid"] is not None)
    router.signal(signal.SIGTERM)
    events = await waiting
    assert events.error is not None
    assert events.error["code"] == "shutting_down"
    assert events.done
    assert not events.broken
    assert await router.stop() == 0
    assert leftovers(router) == []


async def test_a_client_that_waits_for_a_turn_is_told(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "20"), "b": fake()}, patience="30s")
    await router.chat("a", max_tokens=1)
    running = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.until_running("a", 1)
    waiting = asyncio.ensure_future(router.chat("b"))  # noqa: TID251
    await router.when("b", lambda status: status["waiting"] == 1)
    router.signal(signal.SIGTERM)
    events = await waiting
    assert (events.error or {})["code"] == "shutting_down"
    assert events.done
    assert (await running).text == numbers("a", 30)
    assert await router.stop() == 0


async def test_a_load_that_nobody_waits_for_ends_with_the_router(start: Start) -> None:
    router = await start({"a": fake("--never-ready", preload=True)})
    await router.when("a", lambda status: status["pid"] is not None)
    assert await router.stop() == 0
    assert leftovers(router) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_a_server_uses_its_grace_ends_that(start: Start, number: signal.Signals) -> None:
    router = await start({"a": fake("--ignore-term")})  # its grace is ten seconds
    await router.chat("a")
    router.signal(number)
    await _logged(router, "stopping a")
    router.signal(number)
    async with asyncio.timeout(3):
        assert await router.stop() == 0
    assert leftovers(router) == []


async def test_models_are_left_if_asked_for_ready_or_not(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.5"), "b": fake(capabilities=["embedding"])}, on_exit="leave")
    async with router.client() as client:
        await client.post("/v1/embeddings", json={"model": "b", "input": "x"})
    load = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.when("a", lambda status: status["pid"] is not None)
    pids = {name: status["pid"] for name, status in (await router.status()).items()}
    assert await router.stop() == 0
    assert ((await load).error or {})["code"] == "shutting_down"
    assert all(is_alive(pid) for pid in pids.values())
    router.config.write_text(router.config.read_text().replace('"leave"', '"stop"'))
    await router.start()
    assert (await router.chat("a")).text == numbers("a", 30)
    assert {name: status["pid"] for name, status in (await router.status()).items()} == pids
    assert router.loads() == ["b", "a"]
    assert await router.stop() == 0
    assert not any(is_alive(pid) for pid in pids.values())


async def test_a_model_on_its_way_out_is_not_left(start: Start) -> None:
    router = await start({"a": fake("--ignore-term", backend="hasty"), "b": fake()}, on_exit="leave")
    await router.chat("a")
    pid = (await router.status())["a"]["pid"]
    switch = asyncio.ensure_future(router.chat("b"))  # noqa: TID251
    await _logged(router, "stopping a")
    assert await router.stop() == 0
    await switch
    assert not is_alive(pid)
    assert leftovers(router) == []


async def test_the_installed_program_serves_and_ends(tmp_path: Path) -> None:
    config = tmp_path / "router_config.json"
    model = {"backend": "openai", "url": "http://127.0.0.1:9"}
    config.write_text(json.dumps({"router_port": 0, "state_dir": str(tmp_path), "models": {"m": model}}))
    program = Path(sys.executable).with_name("llm-router")
    process = await asyncio.create_subprocess_exec(
        program, "serve", "--config", str(config), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    url = re.search(r"http://\S+", (await process.stdout.readline()).decode())
    assert url is not None
    async with httpx.AsyncClient(verify=False) as client:
        assert [model["id"] for model in (await client.get(f"{url[0]}/models")).json()["data"]] == ["m"]
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
