"""Anthropic's own client against a real router: on the embedded llama.cpp, and on the fake backend."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import official
import pytest
from routing import RouterProcess, Start, fake, numbers

MESSAGES: Any = [{"role": "user", "content": "hello"}]
ClientFor = Callable[[RouterProcess], "official.anthropic.AsyncAnthropic"]


@pytest.fixture
async def client_for() -> AsyncIterator[ClientFor]:
    clients: list[official.anthropic.AsyncAnthropic] = []

    def client_for(router: RouterProcess) -> official.anthropic.AsyncAnthropic:
        clients.append(official.anthropic.AsyncAnthropic(base_url=router.url, api_key="none", max_retries=0))
        return clients[-1]

    yield client_for
    for client in clients:
        await client.close()


@pytest.fixture
async def router(start: Start, tiny_models: dict[str, Any]) -> RouterProcess:
    return await start(tiny_models)


@pytest.fixture
async def fakes(share: Start) -> RouterProcess:
    return await share(
        {
            "a": fake(aliases=["claude-local"]),
            "dying": fake("--fault", "close_after_3"),
            "failing": fake("--exit-at-start", "3"),
        }
    )


async def test_the_official_client_gets_whole_and_streamed_messages(
    router: RouterProcess, client_for: ClientFor
) -> None:
    client = client_for(router)
    message = await client.messages.create(model="tiny-a", max_tokens=100, messages=MESSAGES)
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == numbers("tiny-a", 50)  # type: ignore[union-attr]
    assert (message.model, message.role, message.stop_reason) == ("tiny-a", "assistant", "end_turn")
    assert message.id.startswith("msg_")
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == 9
    assert message.usage.output_tokens >= 50

    async with client.messages.stream(model="tiny-b", max_tokens=100, messages=MESSAGES) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == numbers("tiny-b", 50)
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == message.usage.output_tokens
    assert final.usage.input_tokens == 9

    short = await client.messages.create(model="tiny-b", max_tokens=4, messages=MESSAGES)
    assert short.content[0].text == " I am tiny-b: 1"  # type: ignore[union-attr]
    assert short.stop_reason == "max_tokens"


async def test_the_official_client_lists_the_models(fakes: RouterProcess, client_for: ClientFor) -> None:
    client = client_for(fakes)
    models = [model async for model in client.models.list()]
    assert [(model.id, model.display_name, model.type) for model in models] == [
        (name, name, "model") for name in ("a", "dying", "failing")
    ]
    assert (await client.models.retrieve("claude-local")).id == "a"
    assert models[0].created_at.year >= 2026


async def test_a_client_that_leaves_takes_its_request_along(fakes: RouterProcess, client_for: ClientFor) -> None:
    async with client_for(fakes).messages.stream(
        model="a", max_tokens=100_000, messages=MESSAGES, extra_body={"ignored": True}
    ) as stream:
        async for _ in stream.text_stream:
            break
    await fakes.when("a", lambda status: status["leases"] == 0)


async def test_tokens_are_counted_by_the_model_once_it_is_ready(router: RouterProcess, client_for: ClientFor) -> None:
    client = client_for(router)
    guess = await client.messages.with_raw_response.count_tokens(model="tiny-a", messages=MESSAGES)
    assert guess.headers["x-llm-router-estimate"] == "true"
    assert 1 <= (await guess.parse()).input_tokens < 20
    assert (await router.status())["tiny-a"]["state"] == "unloaded", "counting loads nothing"

    await client.messages.create(model="tiny-a", max_tokens=1, messages=MESSAGES)
    counted = await client.messages.with_raw_response.count_tokens(model="tiny-a", messages=MESSAGES)
    assert "x-llm-router-estimate" not in counted.headers
    assert (await counted.parse()).input_tokens == 9


async def test_a_stream_has_its_events_in_order_and_pings_while_the_model_loads(start: Start) -> None:
    body = {"model": "a", "max_tokens": 9, "stream": True, "messages": MESSAGES}
    events = await events_of(await start({"a": fake()}), body)
    names = [name for name, _ in events]
    assert all(name == data["type"] for name, data in events)
    assert names[0] == "message_start"
    assert "ping" in names[: names.index("content_block_start")]
    rest = [name for name in names if name != "ping"]
    assert rest[:2] == ["message_start", "content_block_start"]
    assert set(rest[2:-3]) == {"content_block_delta"}
    assert rest[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert dict(events)["message_delta"]["usage"]["output_tokens"] == 9
    assert dict(events)["message_delta"]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}


async def events_of(router: RouterProcess, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """As Claude Code asks for them."""
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219", "x-api-key": "none"}
    async with (
        router.client() as client,
        client.stream("POST", "/v1/messages?beta=true", json=body, headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = (await response.aread()).decode()
    events = []
    for event in text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


async def test_an_agents_traffic_reaches_the_server_as_chat_completions(
    fakes: RouterProcess, client_for: ClientFor
) -> None:
    """The shape of a coding agent's second turn: system blocks, tools, thinking, two results at once."""
    mark = {"type": "ephemeral"}
    tools: Any = [
        {"name": f"Tool{i}", "description": "x", "input_schema": {"type": "object", "properties": {}}}
        for i in range(20)
    ]
    tools[-1]["cache_control"] = mark
    message = await client_for(fakes).messages.create(
        model="claude-local",
        max_tokens=3,
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=74943;"},
            {"type": "text", "text": "You are a coding agent.", "cache_control": mark},
            {"type": "text", "text": "The folder is /src.", "cache_control": mark},
        ],
        tools=tools,
        thinking={"type": "enabled", "budget_tokens": 1024},
        metadata={"user_id": "user_1"},
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "list"}, {"type": "text", "text": "both"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "two calls", "signature": ""},
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "toolu_1", "name": "Tool1", "input": {"path": "/a"}},
                    {"type": "tool_use", "id": "toolu_2", "name": "Tool2", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "one"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_2",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no such file"}],
                    },
                    {"type": "text", "text": "go on", "cache_control": mark},
                ],
            },
        ],
    )
    assert message.model == "claude-local"
    last = (await fakes.stats("a"))["last"]
    assert last["path"] == "/v1/chat/completions"
    assert not {"x-api-key", "anthropic-version", "x-llm-router-status"} & set(last["headers"])
    sent = last["body"]
    assert sent["messages"] == [
        {"role": "system", "content": "You are a coding agent.\nThe folder is /src."},
        {"role": "user", "content": "list\nboth"},
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning_content": "two calls",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "Tool1", "arguments": '{"path":"/a"}'}},
                {"id": "toolu_2", "type": "function", "function": {"name": "Tool2", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "one"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no such file"},
        {"role": "user", "content": "go on"},
    ]
    assert len(sent["tools"]) == 20
    assert sent["tools"][-1]["function"] == {
        "name": "Tool19",
        "description": "x",
        "parameters": {"type": "object", "properties": {}},
    }
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}
    assert "cache_control" not in json.dumps(sent)


async def test_errors_are_raised_as_the_clients_own_classes(fakes: RouterProcess, client_for: ClientFor) -> None:
    client = client_for(fakes)
    with pytest.raises(official.anthropic.NotFoundError, match="cannot find the model") as missing:
        await client.messages.create(model="nope", max_tokens=1, messages=MESSAGES)
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(official.anthropic.NotFoundError):
        await client.messages.count_tokens(model="nope", messages=MESSAGES)
    with pytest.raises(official.anthropic.BadRequestError, match="cannot read the request"):
        await client.messages.create(model="a", max_tokens=1, messages=[{"role": "robot", "content": "x"}])  # type: ignore[typeddict-item]
    with pytest.raises(official.anthropic.InternalServerError, match="failing") as failed:
        await client.messages.create(model="failing", max_tokens=1, messages=MESSAGES)
    assert failed.value.status_code == 503
    assert failed.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]


async def test_an_error_in_a_stream_ends_it_in_an_error_event(fakes: RouterProcess, client_for: ClientFor) -> None:
    text = ""
    with pytest.raises(official.anthropic.APIStatusError) as caught:
        async with client_for(fakes).messages.stream(model="dying", max_tokens=99, messages=MESSAGES) as stream:
            async for piece in stream.text_stream:
                text += piece
    assert text == " I am dying: 1 2"
    assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]


COMPLETE = {"model": "a", "max_tokens": 9, "messages": MESSAGES}
WRONG = {
    "nothing at all": b"",
    "no messages": b'{"model": "a", "max_tokens": 9}',
    "a content of another type": json.dumps({**COMPLETE, "messages": [{"role": "user", "content": 1}]}).encode(),
    "no max_tokens": json.dumps({"model": "a", "messages": MESSAGES}).encode(),
    "not UTF-8": b'{"model": "\xff"}',
    "nested too deeply": b"[" * 5000,
    "a tool of Anthropic's": json.dumps({**COMPLETE, "tools": [{"type": "bash_20250124", "name": "bash"}]}).encode(),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_body_gets_anthropics_envelope(share: Start, wrong: str) -> None:
    router = await share({"a": fake()})
    await refuses(router, "POST", "/v1/messages", WRONG[wrong], 400, "invalid_request_error")
    if "max_tokens" not in wrong:
        await refuses(router, "POST", "/v1/messages/count_tokens", WRONG[wrong], 400, "invalid_request_error")


async def test_wrong_methods_paths_and_sizes_get_anthropics_envelope(start: Start) -> None:
    router = await start({"a": fake()}, max_body="2MiB")
    await refuses(router, "GET", "/v1/messages", b"", 405, "invalid_request_error")
    await refuses(router, "POST", "/v1/messages/batches", b"{}", 404, "not_found_error")
    await refuses(router, "POST", "/v1/messages", b" " * 3_000_000, 413, "request_too_large")


async def refuses(router: RouterProcess, method: str, path: str, body: bytes, status: int, kind: str) -> None:
    async with router.client() as client:
        answer = await client.request(method, path, content=body)
    said = answer.json()
    assert (answer.status_code, said["type"], said["error"]["type"]) == (status, "error", kind)
    assert said["error"]["message"].startswith("cannot ")
