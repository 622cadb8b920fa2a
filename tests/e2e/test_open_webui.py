"""What Open-WebUI 0.12 does with a connection, sent as it sends it, and what must come back for its pages to be right.

Counterpart: `test_open_webui_box`, which has the real one in a real browser.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from routing import Events, RouterProcess, Start, fake, numbers, until

# What its back end says of itself in every request.
AGENT = {"User-Agent": "Python/3.11 aiohttp/3.14.5"}
TITLE = "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history."
FOLLOW_UP = "### Task:\nSuggest 3-5 relevant follow-up questions or prompts"
TAGS = "### Task:\nGenerate 1-3 broad tags categorizing the main themes"


async def chat(router: RouterProcess, model: str, **more: Any) -> Events:
    return await router.chat(model, headers=AGENT, **more)


def statuses(events: Events) -> list[dict[str, Any]]:
    assert {chunk["event"]["type"] for chunk in events.chunks if "event" in chunk} <= {"status"}
    return [chunk["event"]["data"] for chunk in events.chunks if "event" in chunk]


def is_closed(events: Events) -> bool:
    """No status line is left to shimmer for ever, nor comes one after an error."""
    kinds = ["error" if "error" in chunk else "event" if "event" in chunk else "text" for chunk in events.chunks]
    return (
        statuses(events)[-1]["done"] and "event" not in kinds[kinds.index("error") + 1 :] if "error" in kinds else True
    )


# -- the status line


async def test_a_load_is_a_status_line_and_never_part_of_the_text(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.3")})
    events = await chat(router, "a")
    shown = statuses(events)
    assert shown[0] == {"description": "⏳ Loading model... 0s / 180s", "done": False}
    assert (shown[-1]["description"][:14], shown[-1]["done"]) == ("✓ Model ready!", True)
    assert events.content == numbers("a", 30), "no status, no figures"
    assert [chunk["choices"][0]["delta"] for chunk in events.chunks if "event" in chunk] == [{}] * len(shown)


async def test_a_loaded_model_shows_none(share: Start) -> None:
    router = await share({"a": fake()})
    await chat(router, "a")
    assert statuses(await chat(router, "a")) == []


async def test_a_load_that_fails_ends_the_line_before_it_says_why(start: Start) -> None:
    router = await start({"a": fake("--say", "CUDA out of memory", "--exit-at-start", "3", "--startup-s", "0.2")})
    events = await chat(router, "a")
    assert is_closed(events)
    assert statuses(events)[-1]["description"] == "✗ a failed to load", "the error alone says why"
    assert events.error is not None
    assert "CUDA out of memory" in events.error["message"]
    assert "choices" not in events.chunks[-1], "with choices the message would be lost on reload"
    assert (events.done, events.broken) == (True, False)


@pytest.mark.parametrize("fault", ["die_after_3", "close_after_3", "error_in_stream"])
async def test_a_server_that_fails_in_mid_answer_leaves_what_it_said(start: Start, fault: str) -> None:
    router = await start({"a": fake("--fault", fault)})
    events = await chat(router, "a")
    assert is_closed(events)
    assert events.content == " I am a: 1 2"
    assert "choices" not in events.chunks[-1]
    assert (events.error is not None, events.done, events.broken) == (True, True, False)


async def test_a_server_that_dies_before_it_says_anything_twice_ends_the_line(start: Start) -> None:
    router = await start({"a": fake("--die-before-first-byte")})
    events = await chat(router, "a")
    assert is_closed(events)
    assert [shown["done"] for shown in statuses(events)].count(True) >= 2, "each wait has its end"
    assert (events.error is not None, events.done) == (True, True)


async def test_an_answer_that_has_to_give_way_says_so(start: Start) -> None:
    models = {"a": fake("--token-ms", "200"), "b": fake()}
    router = await start(models, patience="0s", drain_timeout="0.3s")
    long, other = await asyncio.gather(chat(router, "a"), _later(router, "b"))
    assert is_closed(long)
    assert long.error is not None
    assert long.error["code"] == "preempted"
    assert other.content == numbers("b", 30)


async def _later(router: RouterProcess, model: str) -> Events:
    await router.until_running("a", 1)
    return await chat(router, model)


# -- Stop


async def _is_free(router: RouterProcess) -> bool:
    return all(model["leases"] == model["waiting"] == 0 for model in (await router.status()).values())


@asynccontextmanager
async def asked(router: RouterProcess, model: str, *, stream: bool = True) -> AsyncIterator[asyncio.StreamWriter]:
    """A chat on a connection of its own, of which nothing has been read."""
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
    host, port = router.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nuser-agent: {AGENT['User-Agent']}\r\n"
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    yield writer
    writer.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_stop_while_the_model_loads(start: Start, stream: bool) -> None:
    router = await start({"a": fake("--startup-s", "0.5")})
    async with asked(router, "a", stream=stream):
        await router.when("a", lambda status: status["waiting"] == 1)
    await router.when("a", lambda status: status["waiting"] == 0, timeout_s=0.4)
    await router.until("a", "ready")
    assert (await router.stats("a"))["requests"] == 0, "the load goes on, the request doesn't"


@pytest.mark.parametrize("stream", [True, False])
async def test_stop_while_another_model_is_busy(start: Start, stream: bool) -> None:
    router = await start({"a": fake("--token-ms", "100"), "b": fake()})
    async with asked(router, "a"):
        await router.until_running("a", 1)
        async with asked(router, "b", stream=stream):
            await router.when("b", lambda status: status["waiting"] == 1)
        await router.when("b", lambda status: status["waiting"] == 0, timeout_s=1)
    await until(lambda: _is_free(router), 2)
    assert router.loads() == ["a"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("options", [("--fault", "hang"), ("--token-ms", "50")], ids=["before-a-byte", "in-the-answer"])
async def test_stop_while_the_model_answers(start: Start, options: tuple[str, ...], stream: bool) -> None:
    router = await start({"a": fake(*options)})
    async with asked(router, "a", stream=stream):
        await router.until_running("a", 1)
    await router.until_running("a", 0)
    await until(lambda: _is_free(router), 2)
    assert (await router.stats("a"))["aborted"] == 1


# -- its own requests


async def task(router: RouterProcess, model: str, text: str = TITLE, **headers: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": False, "max_tokens": 1000}
    async with router.client() as client:
        return await client.post("/v1/chat/completions", json=body, headers={**AGENT, **headers})


async def test_a_new_chat_costs_one_load_whatever_is_asked_around_it(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "0.2"), "b": fake()})
    await chat(router, "b")
    title = asyncio.ensure_future(task(router, "a"))  # noqa: TID251 - before the chat, as Open-WebUI sends it
    events = await chat(router, "a")
    assert events.content == numbers("a", 30)
    assert (await title).json()["choices"][0]["message"]["content"] == numbers("a", 30)
    assert [(await task(router, "a", text)).status_code for text in (FOLLOW_UP, TAGS)] == [200, 200]
    assert router.loads() == ["b", "a"]


async def test_a_title_without_a_chat_is_refused_soon(start: Start) -> None:
    router = await start({"a": fake()})
    title = await task(router, "a")
    assert (title.status_code, title.json()["error"]["code"]) == (503, "model_not_ready")
    assert router.loads() == []


async def test_a_task_model_is_never_loaded_for_its_tasks(start: Start) -> None:
    router = await start({"chat": fake("--startup-s", "0.2"), "task": fake()})
    answers = [await task(router, "task")]
    await chat(router, "chat")
    answers += await asyncio.gather(*(task(router, "task", text) for text in (FOLLOW_UP, TAGS, FOLLOW_UP)))
    await chat(router, "chat")
    assert {answer.status_code for answer in answers} == {503}
    assert router.loads() == ["chat"]


async def test_a_task_model_that_lives_beside_the_chat_answers(start: Start) -> None:
    home = await start({"small": fake()})
    await home.chat("small")
    far = {"backend": "openai", "url": home.url, "model_name": "small", "preload": True}
    router = await start({"chat": fake(), "task": far})
    await router.until("task", "ready")
    await chat(router, "chat")
    assert (await task(router, "task", FOLLOW_UP)).status_code == 200
    assert router.loads() == ["task", "chat"]


async def test_a_task_that_is_named_needs_no_known_form(start: Start) -> None:
    router = await start({"a": fake()})
    named = {"X-LLM-Router-Task": "title_generation"}
    assert (await task(router, "a", "Titel, bitte!", **named)).status_code == 503
    assert router.loads() == []
    assert (await task(router, "a", TITLE, **{"X-LLM-Router-Task": ""})).status_code == 200, "the user's own words"
    assert "x-llm-router-task" not in (await router.stats("a"))["last"]["headers"]


async def test_a_chat_with_documents_is_no_task(share: Start) -> None:
    router = await share({"a": fake()})
    text = "### Task:\nRespond to the user query using the provided context"
    events = await chat(router, "a", messages=[{"role": "user", "content": text}])
    assert events.content == numbers("a", 30)


# -- what may not reach a browser


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def speaking(*events: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """A model at an endpoint elsewhere that answers every chat with these chunks."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        stream = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        writer.write(head + stream)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield {"backend": "openai", "url": f"http://127.0.0.1:{port}"}


def chunk(**more: Any) -> dict[str, Any]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}], **more}


async def test_a_servers_own_events_never_reach_the_browser(start: Start) -> None:
    run = {"type": "execute", "data": {"code": "document.title = 'mine'"}}
    foreign = {"event": run, "sources": [], "done": True, "selected_model_id": "z", "output": [], "content": "y"}
    async with speaking(
        chunk(**foreign),
        chunk(event=run, choices=[]),
        chunk(type="response.completed"),
        chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], event=run),
    ) as model:
        router = await start({"m": model})
        events = await chat(router, "m")
        assert {shown["description"][0] for shown in statuses(events)} <= {"⏳", "✓"}, "the router's own, and no others"
        answer = [one for one in events.chunks if "event" not in one]
        assert not {"type", *foreign} & {key for one in answer for key in one}
        assert events.content == "xx"


async def test_a_null_costs_no_text(start: Start) -> None:
    nulls = {"timings": None, "type": None, "event": None, "usage": None, "error": None}
    async with speaking(chunk(**nulls), chunk(), chunk(choices=None, id="n")) as model:
        router = await start({"m": model})
        events = await chat(router, "m")
        assert events.content == "xx"
        dangerous = ("timings", "type", "event", "choices")
        assert not [one for one in events.chunks for key in dangerous if key in one and one[key] is None]


# -- the list of models


async def test_the_list_says_what_the_selector_shows(start: Start) -> None:
    models = {
        "a": fake(name="Model A", description="the best", capabilities=["chat", "vision"]),
        "b": fake(),
        "e": fake(capabilities=["embedding"]),
    }
    router = await start(models)
    await chat(router, "a")
    async with router.client() as client:
        listed = {model["id"]: model for model in (await client.get("/v1/models", headers=AGENT)).json()["data"]}
    a, b, e = listed["a"], listed["b"], listed["e"]
    assert (a["name"], a["loaded"], a["status"]) == ("Model A", True, {"value": "loaded"})
    assert a["info"]["meta"] == {"capabilities": {"vision": True, "builtin_tools": False}, "description": "the best"}
    assert (b["name"], b["loaded"], b["status"], b["info"]) == (
        "b",
        False,
        {"value": "unloaded"},
        {"meta": {"capabilities": {}}},
    )
    assert e["info"]["meta"]["hidden"] is True, "nobody chats with it"


async def test_the_list_does_not_wait_for_a_load(start: Start, tmp_path: Path) -> None:
    router = await start({"a": fake("--never-ready")}, drain_timeout="0.2s")
    async with asked(router, "a"), router.client() as client:
        await router.until("a", "starting")
        async with asyncio.timeout(1):
            listed = (await client.get("/v1/models", headers=AGENT)).json()["data"]
    assert listed[0]["status"] == {"value": "loading"}
