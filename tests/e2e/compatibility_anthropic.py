"""The table's rows about Anthropic's API."""

from __future__ import annotations

import json
from typing import Any

from compatibility import COUNT, Asking, NotPossible, feature
from compatibility_words import (
    BEFORE_STOP,
    BEGUN,
    CALLED,
    CITY,
    HELLO,
    PICTURE,
    STOP,
    events,
    goes_on,
    refused,
    text_of,
)

ANTHROPIC = "Anthropic"


async def message(asking: Asking, **more: Any) -> dict[str, Any]:
    body = {"model": asking.model, "max_tokens": 50, "messages": HELLO, **more}
    return await asking.json("/v1/messages", body)


async def message_events(asking: Asking, **more: Any) -> list[dict[str, Any]]:
    body = {"model": asking.model, "max_tokens": 50, "messages": HELLO, "stream": True, **more}
    return events((await asking.post("/v1/messages", body)).text)


@feature(ANTHROPIC, "`/v1/messages`")
async def a_message(asking: Asking) -> None:
    said = await message(asking)
    assert [block["text"] for block in said["content"]] == [text_of(asking)]
    assert (said["stop_reason"], said["usage"]["output_tokens"]) == ("end_turn", COUNT + 1)


@feature(ANTHROPIC, "streamed, events in order")
async def a_streamed_message(asking: Asking) -> None:
    found = [event for event in await message_events(asking) if event["type"] != "ping"]
    kinds = [event["type"] for event in found]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    said = "".join(event["delta"]["text"] for event in found if event["type"] == "content_block_delta")
    assert said == text_of(asking)


@feature(ANTHROPIC, "system blocks with `cache_control`")
async def system_blocks(asking: Asking) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    await message(asking, system=[{"type": "text", "text": "be kind", **mark}])
    sent = asking.answered()[-1]["body"]["messages"]
    assert sent == [{"role": "system", "content": "be kind"}, *HELLO]


@feature(ANTHROPIC, "tools and their results, whole and streamed")
async def a_message_with_tools(asking: Asking) -> None:
    tools = [{"name": "weather", "input_schema": CITY}]
    said = await message(asking, tools=tools)
    call = said["content"][-1]
    assert (call["type"], call["name"], call["input"]) == ("tool_use", *CALLED)
    assert said["stop_reason"] == "tool_use"
    pieces = [event["delta"] for event in await message_events(asking, tools=tools) if "delta" in event]
    arguments = "".join(delta["partial_json"] for delta in pieces if delta.get("type") == "input_json_delta")
    assert json.loads(arguments) == {"city": "Oslo"}
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "cold"}
    turn = [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": [result]}]
    await message(asking, messages=[*HELLO, *turn])
    assert asking.answered()[-1]["body"]["messages"][-1] == {
        "role": "tool",
        "tool_call_id": call["id"],
        "content": "cold",
    }


@feature(ANTHROPIC, "thinking, whole and streamed", "signatures are empty: no local server checks them")
async def thinking_in_a_message(asking: Asking) -> None:
    asked = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    blocks = [block for block in (await message(asking, **asked))["content"] if block["type"] == "thinking"]
    assert [block["thinking"] for block in blocks] == [" 1 2 3"]
    pieces = [event["delta"] for event in await message_events(asking, **asked) if "delta" in event]
    assert "".join(delta["thinking"] for delta in pieces if delta.get("type") == "thinking_delta") == " 1 2 3"


@feature(ANTHROPIC, "images")
async def a_picture_in_a_message(asking: Asking) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    await message(asking, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
    [part] = asking.answered()[-1]["body"]["messages"][0]["content"]
    assert part == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}


@feature(ANTHROPIC, "structured output (`output_config.format`)")
async def structured_output_of_a_message(asking: Asking) -> None:
    await message(asking, output_config={"format": {"type": "json_schema", "schema": CITY}})
    assert asking.answered()[-1]["body"]["response_format"]["json_schema"]["schema"] == CITY


@feature(ANTHROPIC, "stop sequences")
async def a_stop_sequence(asking: Asking) -> None:
    said = await message(asking, stop_sequences=[STOP])
    assert said["content"][0]["text"].endswith(BEFORE_STOP)


@feature(
    ANTHROPIC,
    "which stop sequence it was",
    "llama.cpp doesn't say in a chat: the reason is `end_turn`, the text is right",
)
async def a_named_stop_sequence(asking: Asking) -> None:
    said = await message(asking, stop_sequences=[STOP])
    if said["stop_reason"] == "end_turn":
        assert said["stop_sequence"] is None
        raise NotPossible
    assert (said["stop_reason"], said["stop_sequence"]) == ("stop_sequence", STOP)


@feature(
    ANTHROPIC, "`/v1/messages/count_tokens`", "an estimate, marked as one, where the server can't count or isn't loaded"
)
async def counted_tokens(asking: Asking) -> None:
    await asking.loaded()
    answer = await asking.post("/v1/messages/count_tokens", {"model": asking.model, "messages": HELLO})
    is_estimate = answer.headers.get("x-llm-router-estimate") == "true"
    assert is_estimate or answer.json() == {"input_tokens": 7}
    assert is_estimate == (asking.backend == "openai")


@feature(ANTHROPIC, "a message with `ping` while the model loads", "the router writes it into the stream")
async def a_ping(asking: Asking) -> None:
    await asking.unloaded()
    kinds = [event["type"] for event in await message_events(asking)]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-1] == "message_stop"


@feature(ANTHROPIC, "errors of the server in Anthropic's envelope")
async def an_error_for_anthropic(asking: Asking) -> None:
    body = {"model": asking.model, "max_tokens": 50, "messages": [{"role": "user", "content": "fault: error400"}]}
    answer = await asking.post("/v1/messages", body)
    said = answer.json()
    assert (answer.status_code, said["type"], said["error"]["type"]) == (400, "error", "invalid_request_error")
    assert "as you wished" in said["error"]["message"]


@feature(ANTHROPIC, "`/v1/models` with `anthropic-version`")
async def anthropics_listing(asking: Asking) -> None:
    listed = (await asking.client.get("/v1/models", headers={"anthropic-version": "2023-06-01"})).json()["data"]
    assert (asking.model, "model") in {(model["id"], model["type"]) for model in listed}


@feature(ANTHROPIC, "PDF documents", "no local server reads them; text and pages as images are taken")
async def a_document(asking: Asking) -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": PICTURE}
    content = [{"type": "document", "source": source}]
    body = {"model": asking.model, "max_tokens": 50, "messages": [{"role": "user", "content": content}]}
    answer = await asking.post("/v1/messages", body)
    assert answer.status_code == 400
    raise refused(answer.json(), "cannot read a document of this kind")


@feature(ANTHROPIC, "tools and MCP servers that run at Anthropic", "only Anthropic's servers run them")
async def a_tool_of_anthropics(asking: Asking) -> None:
    body = {"model": asking.model, "max_tokens": 50, "messages": HELLO}
    theirs = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    for more in (theirs, {"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}):
        answer = await asking.post("/v1/messages", {**body, **more})
        assert answer.status_code == 400
        said = answer.json()
        assert "cannot use" in said["error"]["message"]
    raise NotPossible(said["error"]["message"])


@feature(ANTHROPIC, "an answer that the client begins", BEGUN)
async def a_begun_message(asking: Asking) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well,"}]
    said = (await message(asking, messages=messages))["content"][0]["text"]
    pieces = [event["delta"] for event in await message_events(asking, messages=messages) if "delta" in event]
    assert "".join(delta.get("text", "") for delta in pieces) == said
    goes_on(asking, said)


@feature(ANTHROPIC, "`/v1/messages/batches`, files", "nothing is stored here")
async def batches(asking: Asking) -> None:
    answer = await asking.post("/v1/messages/batches", {"requests": []})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    raise NotPossible
