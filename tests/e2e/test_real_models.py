"""The main job on the real, embedded llama.cpp: two chat models whose answers are known, and an embedding model."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import official
import pytest
from routing import RouterProcess, Start, numbers

from llm_router.relay.usage import performance_line

MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def router(start: Start, tiny_models: dict[str, Any]) -> RouterProcess:
    return await start(tiny_models)


def client_for(router: RouterProcess) -> official.openai.AsyncOpenAI:
    return official.openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0)


async def test_three_requests_to_two_models_give_three_real_answers(router: RouterProcess) -> None:
    answers = [await router.chat(name) for name in ("tiny-a", "tiny-b", "tiny-a", "tiny-a")]
    assert [answer.text for answer in answers] == [
        numbers(name, 50) for name in ("tiny-a", "tiny-b", "tiny-a", "tiny-a")
    ]
    assert ["✓ Model ready!" in answer.written for answer in answers] == [True, True, True, False]
    for answer in answers:
        timings = answer.chunks[-1]["timings"]
        rate = timings["predicted_per_second"]
        counts = performance_line(timings["predicted_n"], timings["predicted_ms"], rate, estimated=False)
        assert answer.written.endswith(counts), "the line shows the engine's own counts"
        assert answer.chunks[-1]["usage"]["completion_tokens"] == timings["predicted_n"]


async def test_bursts_for_two_models_come_back_whole_and_from_the_right_one(router: RouterProcess) -> None:
    names = ["tiny-a", "tiny-b", "tiny-a", "tiny-b", "tiny-a"] * 4
    answers = await asyncio.gather(*(router.chat(name) for name in names))
    assert [answer.text for answer in answers] == [numbers(name, 50) for name in names]
    assert len(router.loads()) <= 3


async def test_an_engine_killed_in_a_stream_is_replaced(router: RouterProcess) -> None:
    await router.chat("tiny-a")
    pid = (await router.status())["tiny-a"]["pid"]
    streams = asyncio.gather(*(router.chat("tiny-a", ignore_eos=True, max_tokens=500) for _ in range(4)))
    await router.when("tiny-a", lambda status: status["leases"] == 4)
    os.kill(pid, signal.SIGKILL)
    for events in await streams:
        assert events.done
        assert events.error is not None or events.text.startswith(numbers("tiny-a", 50))
    assert (await router.chat("tiny-a")).text == numbers("tiny-a", 50)


async def test_the_official_client_chats_streams_embeds_and_sees_errors(router: RouterProcess) -> None:
    async with client_for(router) as client:
        whole = await client.chat.completions.create(model="tiny-a", messages=MESSAGES)
        assert whole.choices[0].message.content == numbers("tiny-a", 50)
        assert whole.usage is not None
        assert whole.usage.completion_tokens >= 50

        text, usage = "", None
        stream = await client.chat.completions.create(
            model="tiny-b", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert numbers("tiny-b", 50) in text
        assert usage is not None
        assert usage.completion_tokens >= 50

        completion = await client.completions.create(model="tiny-b", prompt="x", max_tokens=5)
        assert completion.choices[0].text.startswith(" I am tiny-b:")

        vectors = await client.embeddings.create(model="tiny-embed", input=["one", "two"])
        assert [len(item.embedding) for item in vectors.data] == [len(vectors.data[0].embedding)] * 2

        models = {model.id async for model in client.models.list()}
        assert models == {"tiny-a", "tiny-b", "tiny-embed"}
        assert (await client.models.retrieve("tiny-a")).id == "tiny-a"

        with pytest.raises(official.openai.NotFoundError, match="cannot find the model"):
            await client.chat.completions.create(model="nope", messages=MESSAGES)
        with pytest.raises(official.openai.BadRequestError):
            await client.chat.completions.create(model="tiny-b", messages=[{"role": "user"}])  # type: ignore[typeddict-item, list-item]


async def test_an_official_client_sees_a_failed_load_as_an_error(start: Start, tmp_path: Any) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    router = await start({"broken": {"backend": "llamacpp", "path": str(broken)}})
    async with client_for(router) as client:
        with pytest.raises(official.openai.InternalServerError) as caught:
            await client.chat.completions.create(model="broken", messages=MESSAGES)
    assert caught.value.status_code == 503
    assert caught.value.code == "model_load_failed"
    assert "broken" in caught.value.message


async def test_a_hundred_streams_share_one_real_model(router: RouterProcess) -> None:
    answers = await asyncio.gather(*(router.chat("tiny-a", max_tokens=6) for _ in range(100)))
    assert {answer.text for answer in answers} == {numbers("tiny-a", 3)}


async def test_straight_through_reaches_the_servers_own_paths(router: RouterProcess) -> None:
    async with router.client() as client:
        answer = await client.post("/upstream/tiny-a/tokenize", json={"content": "1 2"})
        assert answer.json()["tokens"]
        assert (await client.get("/upstream/tiny-a/props")).json()["total_slots"] >= 1
        assert (await client.head("/upstream/tiny-a/health")).status_code == 200
        assert (await client.get("/upstream/nope/health")).status_code == 404


async def test_the_model_list_tells_what_is_loaded(router: RouterProcess) -> None:
    await router.chat("tiny-a")
    async with router.client() as client:
        listed = {model["id"]: model for model in (await client.get("/v1/models")).json()["data"]}
        assert {name: model["status"]["value"] for name, model in listed.items()} == {
            "tiny-a": "loaded",
            "tiny-b": "unloaded",
            "tiny-embed": "unloaded",
        }
        assert (await client.get("/v1/models/tiny-a")).json()["loaded"] is True
        assert (await client.get("/v1/models/nope")).status_code == 404
        assert (await client.get("/health")).json() == {"status": "ok"}
        unknown = await client.get("/v1/nothing")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
