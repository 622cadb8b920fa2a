"""One endpoint, several models: what a client sees when the model it names isn't the one that is loaded."""

from __future__ import annotations

import asyncio
import re

from routing import RouterProcess, Start, fake, numbers


async def test_the_first_request_loads_the_model_and_says_so(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.3")})
    events = await router.chat("a")
    assert events.text == numbers("a", 30)
    assert "⏳ Loading model... 0s / 180s" in events.written
    assert re.search(r"✓ Model ready! \(\d\.\ds\)\n\n", events.written)
    assert re.search(r"\n\n\[Performance: [\d.]+ tok/s \| 31 tokens in [\d.]+s\]$", events.written)
    assert events.done


async def test_a_loaded_model_answers_without_a_status(start: Start) -> None:
    router = await start({"a": fake()})
    await router.chat("a")
    events = await router.chat("a")
    assert events.text == numbers("a", 30)
    assert "Loading" not in events.written
    assert events.written.startswith("\n\n[Performance: ")


async def test_models_take_turns_and_only_one_is_loaded(start: Start) -> None:
    router = await start({"a": fake(), "b": fake()})
    for name in ("a", "b", "a"):
        assert (await router.chat(name)).text == numbers(name, 30)
        states = {model: status["state"] for model, status in (await router.status()).items()}
        assert states == {"a": "unloaded", "b": "unloaded"} | {name: "ready"}
    assert router.loads() == ["a", "b", "a"]


async def test_a_burst_of_three_models_costs_three_loads(start: Start) -> None:
    router = await start({name: fake("--token-ms", "5") for name in "abc"})
    answers = await asyncio.gather(*(router.chat(name) for name in "abaacabc"))
    assert [answer.text for answer in answers] == [numbers(name, 30) for name in "abaacabc"]
    assert sorted(router.loads()) == ["a", "b", "c"]


async def test_a_running_answer_is_finished_before_a_switch(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "20"), "b": fake()}, patience="0s")
    await router.chat("a", max_tokens=1)
    long, other = await asyncio.gather(router.chat("a"), router.chat("b"))
    assert long.text == numbers("a", 30)
    assert other.text == numbers("b", 30)


async def test_an_answer_that_outlives_the_drain_deadline_is_cut_with_an_error(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "200"), "b": fake()}, patience="0s", drain_timeout="0.3s")
    await router.chat("a", max_tokens=1)
    answer = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.until_running("a", 1)
    other, long = await router.chat("b"), await answer
    assert long.error is not None
    assert long.error["code"] == "preempted"
    assert long.done
    assert not long.broken
    assert other.text == numbers("b", 30)


async def test_one_load_serves_everyone_who_waits(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.3")})
    answers = await asyncio.gather(*(router.chat("a") for _ in range(20)))
    assert {answer.text for answer in answers} == {numbers("a", 30)}
    assert router.loads() == ["a"]


async def test_a_load_goes_on_when_its_client_leaves(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.5")})
    waiting = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.until("a", "starting")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await router.until("a", "ready")
    assert router.loads() == ["a"]


async def test_a_helper_model_lives_beside_the_chat_model(start: Start) -> None:
    router = await start({"a": fake(), "e": fake(capabilities=["embedding"])})
    await router.chat("a")
    async with router.client() as client:
        answer = await client.post("/v1/embeddings", json={"model": "e", "input": "x"})
    assert answer.status_code == 200
    assert answer.json()["data"][0]["embedding"]
    states = {model: status["state"] for model, status in (await router.status()).items()}
    assert states == {"a": "ready", "e": "ready"}


async def test_a_full_queue_says_when_to_come_back(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.5")}, queue_limit=2)
    async with router.client() as client:
        body = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(5)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 3
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}


async def test_a_title_request_never_causes_a_switch(start: Start) -> None:
    router = await start({"a": fake(), "b": fake()})
    await router.chat("a")
    task = {"model": "b", "messages": [{"role": "user", "content": "### Task:\nGenerate a concise title"}]}
    async with router.client() as client:
        answer = await client.post("/v1/chat/completions", json=task)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_ready")
        answer = await client.post("/v1/chat/completions", json={**task, "model": "a"})
        assert answer.status_code == 200
    assert router.loads() == ["a"]


async def test_aliases_and_parameters_reach_the_server(start: Start) -> None:
    model = fake(
        "--strict-model",
        aliases=["gpt-4"],
        parameters={"defaults": {"temperature": 0.5}, "overrides": {"top_k": 7}, "removals": ["user"]},
    )
    router = await start({"a": model})
    events = await router.chat("gpt-4", user="me", temperature=0.9, max_tokens=3)
    assert events.text == numbers("a", 2)
    sent = (await router.stats("a"))["last"]["body"]
    assert (sent["temperature"], sent["top_k"], "user" in sent) == (0.9, 7, False)


async def test_what_the_router_wrote_doesnt_come_back_to_the_model(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.1")})
    first = await router.chat("a")
    history = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "again"},
    ]
    await router.chat("a", messages=history)
    seen = (await router.stats("a"))["last"]["body"]["messages"][1]["content"]
    assert seen == numbers("a", 30)


async def test_usage_and_timings_are_in_one_chunk_only(start: Start) -> None:
    openai = ("--style", "openai")
    router = await start({"a": fake(), "b": fake(*openai), "c": fake(*openai, "--always-usage")})
    for name in "abc":
        events = await router.chat(name)
        carrying = [chunk for chunk in events.chunks if chunk.get("usage") or chunk.get("timings")]
        assert len(carrying) == 1
        assert carrying[0]["choices"][0]["finish_reason"] == "stop"
        assert carrying[0]["usage"]["completion_tokens"] == 31
        assert carrying[0]["timings"]["predicted_n"] == 31
        events = await router.chat(name, stream_options={"include_usage": True})
        carrying = [chunk for chunk in events.chunks if chunk.get("usage") or chunk.get("timings")]
        assert [chunk["choices"] for chunk in carrying] == [[]]


async def test_a_remote_endpoint_needs_no_start(start: Start) -> None:
    home = await start({"far": fake("--strict-model")})
    await home.chat("far")
    router = await start(
        {"near": {"backend": "openai", "url": home.url, "model_name": "far"}, "c": fake("--count", "5")}
    )
    assert (await router.chat("near")).text == numbers("far", 30)
    await router.chat("c")
    assert (await router.status())["near"]["state"] == "ready"


async def _statuses(router: RouterProcess, mode: str) -> str:
    events = await router.chat("a", headers={"X-LLM-Router-Status": mode, "X-LLM-Router-Performance": "never"})
    async with router.client() as client:
        await client.post("/admin/unload", json={"model": "a"})
    assert events.text == numbers("a", 30)
    if mode == "event":
        return str([chunk["event"]["data"] for chunk in events.chunks if "event" in chunk])
    if mode == "reasoning":
        return str([chunk["choices"][0]["delta"].get("reasoning_content") for chunk in events.chunks])
    return str(events.comments) if mode == "comment" else events.written + str(events.comments)


async def test_the_client_chooses_where_the_status_is_shown(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.1")})
    shown = {mode: await _statuses(router, mode) for mode in ("content", "event", "reasoning", "comment", "off")}
    for mode in ("content", "event", "reasoning", "comment"):
        assert "Loading model" in shown[mode], mode
    assert "'done': True" in shown["event"]
    assert shown["off"] == "[]"
