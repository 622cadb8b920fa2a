"""Ollama's own client against a real router: on the embedded llama.cpp with known answers, and on the fake backend."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import official
import pytest
from routing import RouterProcess, Start, fake, numbers, until

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def router(start: Start, tiny_models: dict[str, Any]) -> RouterProcess:
    return await start(tiny_models)


@pytest.fixture
async def used(share: Start, tiny_models: dict[str, Any]) -> RouterProcess:
    """For tests to which it is all the same what is loaded."""
    return await share(tiny_models)


ClientFor = Callable[[RouterProcess], "official.ollama.AsyncClient"]


@pytest.fixture
async def client_for() -> AsyncIterator[ClientFor]:
    clients: list[official.ollama.AsyncClient] = []

    def client_for(router: RouterProcess) -> official.ollama.AsyncClient:
        clients.append(official.ollama.AsyncClient(host=router.url, verify=False))
        return clients[-1]

    yield client_for
    for client in clients:
        await client.close()


async def test_the_official_client_chats_and_generates_streamed_and_whole(
    router: RouterProcess, client_for: ClientFor
) -> None:
    client = client_for(router)
    whole = await client.chat(model="tiny-a", messages=MESSAGES)
    assert whole.message.content == numbers("tiny-a", 50)
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert whole.eval_count is not None
    assert whole.eval_count >= 50
    assert whole.load_duration is not None
    assert whole.total_duration is not None
    assert 50_000_000 < whole.load_duration <= whole.total_duration, "it had to be loaded, and that was measured"
    assert whole.prompt_eval_count == 9
    assert whole.eval_duration
    assert whole.prompt_eval_duration

    parts = [part async for part in await client.chat(model="tiny-a", messages=MESSAGES, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == numbers("tiny-a", 50)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count
    assert parts[-1].load_duration is not None
    assert parts[-1].load_duration < 50_000_000

    told = await client.generate(model="tiny-b", prompt="hello", options={"num_predict": 4})
    assert told.response == " I am tiny-b: 1"
    assert told.done_reason == "length"
    raw = [part async for part in await client.generate(model="tiny-b", prompt="x", raw=True, stream=True)]
    assert "".join(part.response or "" for part in raw).startswith(" I am tiny-b:")


async def test_an_answer_that_the_client_began_is_continued(used: RouterProcess, client_for: ClientFor) -> None:
    client = client_for(used)
    begun = [*MESSAGES, {"role": "assistant", "content": "1, 2, 3,"}]
    said = await client.chat(model="tiny-a", messages=begun)
    assert said.message.content == numbers("tiny-a", 50)
    parts = [part async for part in await client.chat(model="tiny-a", messages=begun, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == numbers("tiny-a", 50)


async def test_a_name_with_the_tag_latest_is_the_name_without(used: RouterProcess, client_for: ClientFor) -> None:
    said = await client_for(used).chat(model="tiny-a:latest", messages=MESSAGES)
    assert said.model == "tiny-a:latest"
    assert said.message.content == numbers("tiny-a", 50)


async def test_a_model_that_was_listed_here_can_be_asked_in_openais_way_too(a_router: RouterProcess) -> None:
    said = await a_router.chat("a:latest")
    assert said.text == numbers("a", 30)
    assert {chunk["model"] for chunk in said.chunks} == {"a:latest"}
    assert (await a_router.chat("nope:latest")).status == 404
    async with a_router.client() as client:
        for path, more in (("/v1/responses", {"input": "hi"}), ("/v1/messages/count_tokens", {"messages": MESSAGES})):
            assert (await client.post(path, json={"model": "a:latest", **more})).status_code == 200, path
            assert (await client.post(path, json={"model": "nope:latest", **more})).status_code == 404, path
        assert (await client.get("/v1/models/a:latest")).json()["id"] == "a"


async def test_embeddings_come_in_both_forms(used: RouterProcess, client_for: ClientFor) -> None:
    client = client_for(used)
    found = await client.embed(model="tiny-embed", input=["one", "two"])
    assert len(found.embeddings) == 2
    assert len(found.embeddings[0]) == len(found.embeddings[1]) > 0
    assert found.prompt_eval_count
    assert found.total_duration
    one = await client.embeddings(model="tiny-embed", prompt="one")
    assert list(one.embedding) == pytest.approx(list(found.embeddings[0]), abs=1e-3)
    assert (await client.embed(model="tiny-embed", input="one")).embeddings[0] == found.embeddings[0]


async def test_the_client_lists_shows_loads_and_unloads(router: RouterProcess, client_for: ClientFor) -> None:
    client = client_for(router)
    listed = {model.model: model for model in (await client.list()).models}
    assert set(listed) == {"tiny-a:latest", "tiny-b:latest", "tiny-embed:latest"}
    assert listed["tiny-a:latest"].size
    assert listed["tiny-a:latest"].details is not None
    assert listed["tiny-a:latest"].details.format == "gguf"
    assert len(listed["tiny-a:latest"].digest or "") == 64
    assert (await client.ps()).models == []

    loaded = await client.generate(model="tiny-a")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    [resident] = (await client.ps()).models
    assert (resident.model, resident.context_length) == ("tiny-a:latest", 1024)
    assert resident.expires_at is not None

    shown = await client.show("tiny-a")
    assert shown.details is not None
    assert shown.modelinfo is not None
    family = shown.details.family
    assert shown.modelinfo["general.architecture"] == family
    assert shown.modelinfo[f"{family}.context_length"] == 1024
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    assert (await client.show("tiny-embed")).capabilities == ["embedding"]

    gone = await client.chat(model="tiny-a", messages=[], keep_alive=0)
    assert (gone.done, gone.done_reason) == (True, "unload")
    await router.until("tiny-a", "unloaded")


async def test_an_answer_with_keep_alive_zero_is_the_models_last(used: RouterProcess, client_for: ClientFor) -> None:
    client = client_for(used)
    assert (await client.chat(model="tiny-a", messages=MESSAGES, keep_alive=0)).message.content
    await used.until("tiny-a", "unloaded")
    assert (await client.chat(model="tiny-a", messages=MESSAGES, keep_alive="5m")).message.content
    assert (await used.status())["tiny-a"]["state"] == "ready"


async def test_a_client_says_how_long_its_model_stays_until_one_says_otherwise(
    start: Start, client_for: ClientFor
) -> None:
    router = await start({"a": fake(idle_timeout="1h"), "b": fake()})
    client = client_for(router)

    async def told() -> tuple[float | None, float]:
        """What the status says of its time, and in how many seconds it ends for Ollama's clients."""
        [resident] = (await client.ps()).models
        assert resident.expires_at is not None
        status = (await router.status())["a"]
        assert status["idle_s"] < 5
        return status["idle_timeout_s"], resident.expires_at.timestamp() - time.time()

    for wish, counts_s in ((None, 3600), ("1h30m", 5400), (None, 5400), (60, 60)):
        await client.chat(model="a", messages=MESSAGES, keep_alive=wish)
        timeout_s, rest_s = await told()
        assert timeout_s == counts_s
        assert rest_s == pytest.approx(counts_s, abs=5)
    await client.generate(model="a", keep_alive=-1)
    timeout_s, rest_s = await told()
    assert timeout_s is None
    assert rest_s > 7000 * 365 * 86400
    assert (await client.chat(model="b", messages=MESSAGES)).message.content, "it is in nobody's way"
    await client.embed(model="a", input="x", keep_alive="300ms")
    await router.until("a", "unloaded")


async def test_the_model_stays_while_others_use_it_whatever_one_client_wishes(
    start: Start, client_for: ClientFor
) -> None:
    router = await start({"slow": fake("--token-ms", "20")})
    client = client_for(router)
    others = asyncio.ensure_future(client.chat(model="slow", messages=MESSAGES))  # noqa: TID251
    await router.when("slow", lambda status: status["leases"] == 1)
    await client.chat(model="slow", messages=MESSAGES, keep_alive=0, options={"num_predict": 1})
    assert (await others).message.content == numbers("slow", 30)
    assert (await router.status())["slow"]["state"] == "ready"


async def test_errors_are_the_clients_own(used: RouterProcess, client_for: ClientFor) -> None:
    client = client_for(used)
    for call in (
        client.chat(model="nope", messages=MESSAGES),
        client.generate(model="nope", prompt="x"),
        client.embed(model="nope", input="x"),
        client.show("nope"),
    ):
        with pytest.raises(official.ollama.ResponseError, match="cannot find the model") as caught:
            await call
        assert caught.value.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/chat", b"", 400),
        ("POST", "/api/chat", b"{", 400),
        ("POST", "/api/chat", b'{"model": 5}', 400),
        ("POST", "/api/chat", b'{"model": "a", "messages": [{"role": "robot"}]}', 400),
        ("POST", "/api/generate", b'{"model": "a", "prompt": "x", "suffix": "y"}', 400),
        ("POST", "/api/embed", b"[]", 400),
        ("POST", "/api/show", b"{}", 400),
        ("GET", "/api/chat", b"", 405),
        ("POST", "/api/pull", b'{"model": "a"}', 404),
    ],
)
async def test_bad_input_gets_ollamas_error_shape(
    a_router: RouterProcess, method: str, path: str, body: bytes, status: int
) -> None:
    async with a_router.client() as client:
        answer = await client.request(method, path, content=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith("cannot ")
    if status == 405:
        assert answer.json()["error"] == f"cannot {method} {path}: use {answer.headers['allow']}"


@pytest.fixture
async def a_router(share: Start) -> RouterProcess:
    return await share(
        {"a": fake(), "dying": fake("--fault", "close_after_3"), "failing": fake("--exit-at-start", "3")}
    )


async def test_it_says_that_it_is_there_in_ollamas_words(a_router: RouterProcess) -> None:
    async with a_router.client() as client:
        assert (await client.get("/")).text == "Ollama is running"
        assert (await client.head("/")).status_code == 200
        assert (await client.head("/api/tags")).status_code == 200
        version = (await client.get("/api/version")).json()["version"]
    assert [part.isdigit() for part in version.split(".")] == [True] * 3


async def test_a_body_without_a_content_type_is_read_but_not_from_a_web_page(a_router: RouterProcess) -> None:
    body = json.dumps({"model": "a", "messages": MESSAGES, "stream": False})
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl sends
    async with a_router.client() as client:
        assert (await client.post("/api/chat", content=body, headers=form)).status_code == 200
        refused = await client.post("/api/chat", content=body, headers={**form, "origin": a_router.url})
    assert refused.status_code == 415
    assert "Content-Type" in refused.json()["error"]


async def test_a_stream_waits_in_empty_lines_and_ends_in_an_error_line(a_router: RouterProcess) -> None:
    body = {"model": "dying", "messages": MESSAGES}
    async with a_router.client() as client, client.stream("POST", "/api/chat", json=body) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) async for line in response.aiter_lines()]
    assert lines[0]["message"] == {"role": "assistant", "content": ""}, "the model was being loaded"
    said = "".join(line["message"]["content"] for line in lines[:-1])
    assert said == " I am dying: 1 2"
    assert list(lines[-1]) == ["error"]


async def test_open_webui_waits_in_silence_so_that_a_failed_load_has_a_status(a_router: RouterProcess) -> None:
    """It reads no error within Ollama's stream: the user would see an empty answer."""
    headers = {"user-agent": "Python/3.11 aiohttp/3.14.5"}
    async with a_router.client() as client:
        failed = await client.post("/api/chat", json={"model": "failing", "messages": MESSAGES}, headers=headers)
        assert failed.status_code == 503
        assert "failing" in failed.json()["error"]
        said = await client.post("/api/chat", json={"model": "a", "messages": MESSAGES}, headers=headers)
    lines = [json.loads(line) for line in said.text.splitlines()]
    assert lines[0]["message"]["content"], "no line before the first word"


async def test_open_webuis_own_requests_load_nothing_here_either(start: Start) -> None:
    router = await start({"a": fake()})
    task = [{"role": "user", "content": "### Task:\nGenerate a concise title"}]
    async with router.client() as client:
        refused = await client.post("/api/chat", json={"model": "a", "messages": task, "stream": False})
    assert refused.status_code == 503
    assert (await router.status())["a"]["state"] == "unloaded"


async def test_a_failed_load_is_an_error_with_the_servers_last_words(
    a_router: RouterProcess, client_for: ClientFor
) -> None:
    with pytest.raises(official.ollama.ResponseError, match="failing") as caught:
        await client_for(a_router).generate(model="failing")
    assert caught.value.status_code == 503


async def test_who_leaves_while_a_model_loads_leaves_nothing_behind(start: Start) -> None:
    router = await start({"never": fake("--never-ready")})
    with pytest.raises(httpx.ReadTimeout):
        async with httpx.AsyncClient(base_url=router.url, timeout=0.5, verify=False) as client:
            await client.post("/api/generate", json={"model": "never"})

    async def nobody_waits() -> bool:
        return bool((await router.status())["never"]["waiting"] == 0)

    await until(nobody_waits)
