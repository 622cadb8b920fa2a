"""Tools, thinking and stop sequences with the official clients, against a server whose every byte is written here."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import official
import pytest
from routing import Start

Json = dict[str, Any]

USAGE = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
CALLS = [
    {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
    {"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
]


class Scripted:
    """An OpenAI server. `message`, `finish`: of every answer; a stream has a chunk for each letter of it."""

    def __init__(self) -> None:
        self.message: Json = {"content": "hi"}
        self.finish: Json = {"finish_reason": "stop"}
        self.bodies: list[Json] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                found = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(0 if found is None else int(found[1]))
                writer.write(self.answer(head.split(" ")[1], body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def answer(self, path: str, body: bytes) -> bytes:
        if path == "/v1/token/encode":
            return whole({"tokens": [1] * 7, "length": 7})
        if path != "/v1/chat/completions":
            return whole({"detail": "Not Found"}, status=200 if path in ("/health", "/v1/models") else 404)
        asked = json.loads(body)
        self.bodies.append(asked)
        if not asked.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", **self.message}, **self.finish}
            return whole({"id": "x", "choices": [choice], "usage": USAGE})
        chunks = [{"index": 0, "delta": delta, "finish_reason": None} for delta in pieces(self.message)]
        last = {"index": 0, "delta": {}, **self.finish}
        events = [{"id": "x", "choices": [one]} for one in [*chunks, last]] + [{"choices": [], "usage": USAGE}]
        stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return reply(stream.encode(), "text/event-stream")


def pieces(message: Json) -> list[Json]:
    found: list[Json] = [{"role": "assistant", "content": ""}]
    for key in ("reasoning_content", "content"):
        found += [{key: letter} for letter in message.get(key) or ""]
    for call in message.get("tool_calls", ()):
        found.append({"tool_calls": [{**call, "function": {**call["function"], "arguments": ""}}]})
        for letter in call["function"]["arguments"]:
            found.append({"tool_calls": [{"index": call["index"], "function": {"arguments": letter}}]})
    return found


def whole(value: Json, status: int = 200) -> bytes:
    return reply(json.dumps(value).encode(), "application/json", status)


def reply(body: bytes, kind: str, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    scripted = Scripted()
    listening = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield scripted
    listening.close()


@pytest.fixture
async def url(start: Start, server: Scripted) -> str:
    return (await start({"m": {"backend": "openai", "url": server.url}})).url


@pytest.fixture
async def gpt(url: str) -> AsyncIterator[official.openai.AsyncOpenAI]:
    async with official.openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(url: str) -> AsyncIterator[official.anthropic.AsyncAnthropic]:
    async with official.anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def llama(url: str) -> AsyncIterator[official.ollama.AsyncClient]:
    async with official.ollama.AsyncClient(host=url, verify=False) as client:
        yield client


CITY: Json = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: Any = [{"name": "weather", "description": "x", "input_schema": CITY}, {"name": "time", "input_schema": {}}]


async def ask(
    client: official.anthropic.AsyncAnthropic, *, streams: bool, **more: Any
) -> official.anthropic.types.Message:
    asked = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}], **more}
    if not streams:
        return await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        return await stream.get_final_message()


@pytest.mark.parametrize("streams", [False, True])
async def test_anthropics_client_makes_a_round_trip_with_tools(
    claude: official.anthropic.AsyncAnthropic, server: Scripted, streams: bool
) -> None:
    server.message = {"content": "Looking.", "reasoning_content": "two calls", "tool_calls": CALLS}
    server.finish = {"finish_reason": "tool_calls"}
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    message = await ask(claude, streams=streams, tools=TOOLS, thinking=thinking)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    thought, text, weather, time = message.content
    assert (thought.thinking, text.text) == ("two calls", "Looking.")  # type: ignore[union-attr]
    assert (weather.id, weather.name, weather.input) == ("call_a", "weather", {"city": "Oslo"})  # type: ignore[union-attr]
    assert (time.name, time.input) == ("time", {})  # type: ignore[union-attr]
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (20, 9)

    server.message, server.finish = {"content": "Cold, at noon."}, {"finish_reason": "stop"}
    ids = (weather.id, time.id)  # type: ignore[union-attr]
    results = [{"type": "tool_result", "tool_use_id": id_, "content": "x"} for id_ in ids]
    history = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": results},
    ]
    final = await ask(claude, streams=streams, tools=TOOLS, messages=history)
    assert final.content[0].text == "Cold, at noon."  # type: ignore[union-attr]
    sent = server.bodies[-1]["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["reasoning_content"] == "two calls"
    assert [call["id"] for call in sent[1]["tool_calls"]] == [one["tool_call_id"] for one in sent[2:]]


FUNCTIONS: Any = [
    {"type": "function", "name": "weather", "parameters": CITY, "strict": False},
    {"type": "function", "name": "time", "parameters": {}, "strict": False},
]


@pytest.mark.parametrize("streams", [False, True])
async def test_openais_client_makes_a_round_trip_with_tools_by_responses(
    gpt: official.openai.AsyncOpenAI, server: Scripted, streams: bool
) -> None:
    async def respond(input: Any) -> official.openai.types.responses.Response:  # noqa: A002 -- the API's own word
        if not streams:
            return await gpt.responses.create(model="m", input=input, tools=FUNCTIONS)
        async with gpt.responses.stream(model="m", input=input, tools=FUNCTIONS) as stream:
            return await stream.get_final_response()

    server.message = {"content": "Looking.", "reasoning_content": "two calls", "tool_calls": CALLS}
    server.finish = {"finish_reason": "tool_calls"}
    history: list[Any] = [{"role": "user", "content": "hello"}]
    said = await respond(history)
    assert [item.type for item in said.output] == ["reasoning", "message", "function_call", "function_call"]
    calls = [item for item in said.output if item.type == "function_call"]
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [
        ("call_a", "weather", '{"city": "Oslo"}'),
        ("call_b", "time", "{}"),
    ]

    server.message, server.finish = {"content": "Cold, at noon."}, {"finish_reason": "stop"}
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": call.name} for call in calls]
    assert (await respond([*history, *said.output, *results])).output_text == "Cold, at noon."
    sent = server.bodies[-1]["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == [one["tool_call_id"] for one in sent[2:]]


@pytest.mark.parametrize("streams", [False, True])
async def test_anthropics_client_is_told_which_stop_sequence_it_was(
    claude: official.anthropic.AsyncAnthropic, server: Scripted, streams: bool
) -> None:
    server.finish = {"finish_reason": "stop", "stop_reason": "END"}
    message = await ask(claude, streams=streams, stop_sequences=["END", "STOP"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    assert server.bodies[-1]["stop"] == ["END", "STOP"]


async def test_tokens_are_counted_in_tabbyapis_way_where_there_is_no_other(
    claude: official.anthropic.AsyncAnthropic,
) -> None:
    await ask(claude, streams=False)
    counted = await claude.messages.count_tokens(model="m", messages=[{"role": "user", "content": "hello"}])
    assert counted.input_tokens == 7


def weather(city: str) -> str:
    """The weather.

    Args:
      city: Where.
    """
    return f"cold in {city}"


@pytest.mark.parametrize("streams", [False, True])
async def test_ollamas_client_makes_a_round_trip_with_tools(
    llama: official.ollama.AsyncClient, server: Scripted, streams: bool
) -> None:
    server.message = {"content": "", "reasoning_content": "a call", "tool_calls": CALLS}
    server.finish = {"finish_reason": "tool_calls"}
    history: list[Any] = [{"role": "user", "content": "hello"}]
    said = await talk(llama, history, streams=streams, think=True)
    assert said.thinking == "a call"
    assert said.tool_calls is not None
    assert [(call.function.name, dict(call.function.arguments)) for call in said.tool_calls] == [
        ("weather", {"city": "Oslo"}),
        ("time", {}),
    ]
    assert server.bodies[-1]["tools"][0]["function"]["parameters"]["properties"]["city"]["type"] == "string"

    server.message, server.finish = {"content": "Cold."}, {"finish_reason": "stop"}
    results = [{"role": "tool", "tool_name": name, "content": name} for name in ("time", "weather")]
    assert (await talk(llama, [*history, said, *results], streams=streams)).content == "Cold."
    sent = server.bodies[-1]["messages"]
    ids = {call["id"]: call["function"]["name"] for call in sent[1]["tool_calls"]}
    assert [ids[one["tool_call_id"]] for one in sent[2:]] == [one["content"] for one in sent[2:]] == ["time", "weather"]


async def talk(
    client: official.ollama.AsyncClient, history: list[Any], *, streams: bool, **more: Any
) -> official.ollama.Message:
    if not streams:
        return (await client.chat(model="m", messages=history, tools=[weather], **more)).message
    found = official.ollama.Message(role="assistant", content="", thinking="", tool_calls=None)
    async for part in await client.chat(model="m", messages=history, tools=[weather], stream=True, **more):
        found.content = (found.content or "") + (part.message.content or "")
        found.thinking = (found.thinking or "") + (part.message.thinking or "")
        found.tool_calls = part.message.tool_calls or found.tool_calls
    return found
