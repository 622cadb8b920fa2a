"""A front end that takes the router for a llama-server with several models: it lists, loads, ejects and listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from engines import program
from routing import RouterProcess, Start, fake, numbers


def value_of(listing: dict[str, Any], model: str) -> str:
    found: str = next(one["status"]["value"] for one in listing["data"] if one["id"] == model)
    return found


async def listed(client: httpx.AsyncClient, path: str = "/models") -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(path)).json()
    return found


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


async def until(client: httpx.AsyncClient, model: str, value: str) -> None:
    async with asyncio.timeout(10):
        while value_of(await listed(client), model) != value:  # noqa: ASYNC110 - what a polling front end does
            await asyncio.sleep(0.01)


async def test_both_listings_say_the_same_and_never_wait(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.5", aliases=["x"]), "b": fake(hidden=True)})
    async with router.client() as client:
        assert value_of(await listed(client), "a") == "unloaded"
        assert (await client.post("/models/load", json={"model": "x"})).json() == {"success": True}
        await until(client, "a", "loading")
        assert await listed(client) == await listed(client, "/v1/models")
        assert [one["id"] for one in (await listed(client))["data"]] == ["a"]
        await until(client, "a", "loaded")
        one = (await listed(client))["data"][0]
        assert (one["loaded"], one["can_remove"], one["architecture"]["input_modalities"]) == (True, False, ["text"])


async def test_a_model_is_loaded_and_ejected_without_a_request(start: Start) -> None:
    router = await start({"a": fake(), "b": fake()})
    async with router.client() as client:
        for model in ("a", "b"):
            assert (await client.post("/models/load", json={"model": model})).json() == {"success": True}
            await until(client, model, "loaded")
        assert value_of(await listed(client), "a") == "unloaded", "there is room for one"
        assert (await client.post("/models/unload", json={"model": "b"})).json() == {"success": True}
        await until(client, "b", "unloaded")
        assert (await client.post("/models/unload", json={"model": "b"})).json() == {"success": True}
    assert router.loads() == ["a", "b"]


async def test_a_load_is_told_with_its_progress_and_an_eject_too(start: Start, tmp_path: Path) -> None:
    binary = program(tmp_path, "llama-server", "fake_backend.py", "--push-lines", "--startup-s", "1.2")
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    model = {"backend": "llamacpp", "path": str(file)}
    router = await start({"a": model}, backends={"llamacpp": {"binary": str(binary)}})
    told = []
    async with router.client() as client, client.stream("GET", "/models/sse", timeout=10) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        await client.post("/models/load", json={"model": "a"})
        async for event in events(stream):
            told.append(event)
            if event["data"]["status"] == "loaded":
                await client.post("/models/unload", json={"model": "a"})
            if event["data"]["status"] == "unloaded":
                break
    assert {event["model"] for event in told} == {"a"}
    assert (told[0]["event"], told[0]["data"]) == ("model_status", {"status": "loading"})
    assert {event["event"] for event in told[1:]} == {"status_change"}
    progress = [event["data"]["progress"] for event in told if "progress" in event["data"]]
    assert {"stages": ["text_model"], "current": "text_model", "value": 0.5} in progress
    assert [event["data"]["status"] for event in told][-2:] == ["loaded", "unloaded"]


async def test_a_failed_load_is_said_in_the_listing(start: Start) -> None:
    router = await start({"a": fake("--exit-at-start", "3")})
    async with router.client() as client:
        await client.post("/models/load", json={"model": "a"})
        await router.until("a", "failed")
        status = (await listed(client))["data"][0]["status"]
        assert status == {"value": "unloaded", "failed": True}


async def test_an_eject_lets_the_running_answer_finish(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "20")})
    await router.chat("a", max_tokens=1)
    running = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.until_running("a", 1)
    async with router.client() as client:
        await client.post("/models/unload", json={"model": "a"})
        assert (await running).text == numbers("a", 30)
        await until(client, "a", "unloaded")


@pytest.mark.parametrize("path", ["/models/load", "/models/unload"])
async def test_bad_input_is_told_in_openais_shape(router_: RouterProcess, path: str) -> None:
    async with router_.client() as client:
        for body, status, code in (
            (b'{"model":"nope"}', 404, "model_not_found"),
            (b"{}", 400, "invalid_request"),
            (b"[", 400, "invalid_request"),
            (b'{"model":"\xff"}', 400, "invalid_request"),
        ):
            answer = await client.post(path, content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), body
        answer = await client.post(path, content=b'{"model":"a"}', headers={"content-type": "text/plain"})
        assert answer.status_code == 415, "no web page may do this by itself"


async def test_models_are_neither_fetched_nor_deleted(router_: RouterProcess) -> None:
    async with router_.client() as client:
        for answer in (await client.post("/models", json={"model": "x"}), await client.delete("/models?model=a")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_supported")


async def test_who_listens_does_not_hold_up_the_end(start: Start) -> None:
    router = await start({"a": fake()}, drain_timeout="60s")
    async with router.client() as client, client.stream("GET", "/models/sse") as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == ": from now on"
        assert await router.stop() == 0


@pytest.fixture
async def router_(share: Start) -> RouterProcess:
    return await share({"a": fake()})
