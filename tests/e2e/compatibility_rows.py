"""The rows of the table of compatibility, by dialect. Each asks for one feature and looks at what the client gets.

Counterpart: `compatibility`, which tells from the engine's journal how it came about.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

from compatibility import COUNT, EMBEDS, Asking, NotPossible, feature
from routing import numbers, until

OPENAI, ANTHROPIC, OLLAMA, LLAMACPP = "OpenAI", "Anthropic", "Ollama", "llama.cpp's management"
HELLO = [{"role": "user", "content": "hello"}]
PICTURE = "iVBORw0KGgo="
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CALLED = ("weather", {"city": "Oslo"})
STOP = " 3"  # one of the tokens
BEFORE_STOP = " 1 2"
ANEW = " and nothing else"  # as a server ends that doesn't know how its answer began
SILENT = {"X-LLM-Router-Status": "off", "X-LLM-Router-Performance": "never"}


def text_of(asking: Asking) -> str:
    return numbers(asking.model, COUNT)


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of an event stream."""
    found = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in found if line != "[DONE]"]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def refused(said: dict[str, Any], words: str) -> NotPossible:
    """The dialect's own error, which says so."""
    assert words in str(said["error"]), said
    return NotPossible(str(said["error"]))


# -- OpenAI


async def chat(asking: Asking, **more: Any) -> dict[str, Any]:
    said = await asking.json("/v1/chat/completions", {"model": asking.model, "messages": HELLO, **more})
    choice: dict[str, Any] = said["choices"][0]
    return choice


async def deltas(asking: Asking, **more: Any) -> list[dict[str, Any]]:
    body = {"model": asking.model, "messages": HELLO, "stream": True, **more}
    answer = await asking.post("/v1/chat/completions", body, headers=SILENT)
    assert answer.text.rstrip().endswith("data: [DONE]")
    return [choice for chunk in events(answer.text) for choice in chunk["choices"]]


@feature(OPENAI, "`/v1/chat/completions`")
async def a_chat(asking: Asking) -> None:
    assert (await chat(asking))["message"]["content"] == text_of(asking)


@feature(OPENAI, "streamed, with `usage` and `timings` at the end")
async def a_streamed_chat(asking: Asking) -> None:
    body = {"model": asking.model, "messages": HELLO, "stream": True}
    chunks = events((await asking.post("/v1/chat/completions", body, headers=SILENT)).text)
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said == text_of(asking)
    assert chunks[-1]["usage"]["completion_tokens"] == COUNT + 1
    assert chunks[-1]["timings"]["predicted_n"] == COUNT + 1


@feature(OPENAI, "tools, whole and streamed")
async def a_chat_with_tools(asking: Asking) -> None:
    [call] = (await chat(asking, tools=[FUNCTION]))["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == CALLED
    parts = [piece for one in await deltas(asking, tools=[FUNCTION]) for piece in one["delta"].get("tool_calls") or ()]
    assert parts[0]["function"]["name"] == "weather"
    assert json.loads("".join(part["function"]["arguments"] for part in parts)) == {"city": "Oslo"}


@feature(OPENAI, "structured output (`response_format`)")
async def structured_output(asking: Asking) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}
    await chat(asking, response_format=wanted)
    assert asking.answered()[-1]["body"]["response_format"] == wanted


@feature(OPENAI, "`logprobs`, whole and streamed")
async def probabilities(asking: Asking) -> None:
    asked = {"logprobs": True, "top_logprobs": 1}
    whole = (await chat(asking, **asked))["logprobs"]["content"]
    assert "".join(token["token"] for token in whole) == text_of(asking)
    parts = [token for one in await deltas(asking, **asked) for token in (one.get("logprobs") or {}).get("content", ())]
    assert parts == whole


@feature(OPENAI, "`n` > 1, whole and streamed")
async def several_choices(asking: Asking) -> None:
    said = await asking.json("/v1/chat/completions", {"model": asking.model, "messages": HELLO, "n": 2})
    assert [choice["message"]["content"] for choice in said["choices"]] == [text_of(asking)] * 2
    found = await deltas(asking, n=2)
    for index in (0, 1):
        pieces = [one["delta"].get("content") or "" for one in found if one["index"] == index]
        assert "".join(pieces) == text_of(asking)


@feature(OPENAI, "images in messages")
async def a_picture_in_a_chat(asking: Asking) -> None:
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}]
    await chat(asking, messages=[{"role": "user", "content": parts}])
    assert asking.answered()[-1]["body"]["messages"][0]["content"] == parts


@feature(OPENAI, "thinking as `reasoning_content`, whole and streamed")
async def thinking_in_a_chat(asking: Asking) -> None:
    asked = {"chat_template_kwargs": {"enable_thinking": True}}
    message = (await chat(asking, **asked))["message"]
    assert (message["reasoning_content"], "reasoning" in message) == (" 1 2 3", False)
    found = [one["delta"] for one in await deltas(asking, **asked)]
    assert "".join(delta.get("reasoning_content") or "" for delta in found) == " 1 2 3"
    assert not any("reasoning" in delta for delta in found)


@feature(OPENAI, "`/v1/completions`, whole and streamed")
async def a_completion(asking: Asking) -> None:
    body = {"model": asking.model, "prompt": "hello"}
    assert (await asking.json("/v1/completions", body))["choices"][0]["text"] == text_of(asking)
    answer = await asking.post("/v1/completions", {**body, "stream": True}, headers=SILENT)
    chunks = events(answer.text)
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == text_of(asking)


@feature(OPENAI, "`/v1/embeddings`", "TabbyAPI: where its own `config.yml` names an embedding model")
async def embeddings(asking: Asking) -> None:
    found = await asking.json("/v1/embeddings", {"model": asking.model + EMBEDS, "input": ["one", "two"]})
    assert len(found["data"]) == 2


async def response(asking: Asking, **more: Any) -> dict[str, Any]:
    return await asking.json("/v1/responses", {"model": asking.model, "input": "hello", **more})


@feature(OPENAI, "`/v1/responses`", "llama.cpp has its own, but OpenAI's client fails on its streams")
async def a_response(asking: Asking) -> None:
    said = await response(asking)
    assert said["output"][0]["content"][0]["text"] == text_of(asking)
    assert (said["object"], said["status"]) == ("response", "completed")


@feature(OPENAI, "Responses, streamed")
async def a_streamed_response(asking: Asking) -> None:
    body = {"model": asking.model, "input": "hello", "stream": True}
    found = events((await asking.post("/v1/responses", body)).text)
    kinds = [event["type"] for event in found]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    pieces = [event for event in found if event["type"] == "response.output_text.delta"]
    assert "".join(piece["delta"] for piece in pieces) == text_of(asking)
    assert all((piece["output_index"], piece["content_index"]) == (0, 0) for piece in pieces)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))


@feature(OPENAI, "Responses, tools")
async def a_response_with_tools(asking: Asking) -> None:
    tool = {"type": "function", "name": "weather", "parameters": CITY}
    [call] = (await response(asking, tools=[tool]))["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", *CALLED)


@feature(OPENAI, "`/v1/rerank`", "TabbyAPI has no such endpoint")
async def ranks(asking: Asking) -> None:
    for path in ("/v1/rerank", "/rerank", "/v1/reranking"):
        body = {"model": asking.model + EMBEDS, "query": "q", "documents": ["a", "b"]}
        assert (await asking.json(path, body))["results"][0]["index"] == 1


def form(asking: Asking) -> dict[str, Any]:
    return {"data": {"model": asking.model}, "files": {"file": ("a.wav", b"sound")}}


@feature(OPENAI, "`/v1/audio/transcriptions`", "TabbyAPI has no such endpoint")
async def a_transcription(asking: Asking) -> None:
    assert (await asking.json("/v1/audio/transcriptions", **form(asking)))["text"] == "hello"


@feature(OPENAI, "`/v1/audio/translations`", "of the four, vLLM alone has such an endpoint")
async def a_translation(asking: Asking) -> None:
    assert (await asking.json("/v1/audio/translations", **form(asking)))["text"] == "hello"


@feature(OPENAI, "`/v1/audio/speech`", "none of the four has such an endpoint")
async def speech(asking: Asking) -> None:
    answer = await asking.post("/v1/audio/speech", {"model": asking.model, "input": "hello", "voice": "x"})
    assert (answer.headers["content-type"], answer.content[:2]) == ("audio/mpeg", b"\xff\xfb")


@feature(OPENAI, "`/v1/images/generations`", "none of the four has such an endpoint")
async def an_image(asking: Asking) -> None:
    found = await asking.json("/v1/images/generations", {"model": asking.model, "prompt": "a cat"})
    assert found["data"][0]["b64_json"]


@feature(OPENAI, "`/v1/images/edits`", "none of the four has such an endpoint")
async def an_edited_image(asking: Asking) -> None:
    assert (await asking.json("/v1/images/edits", **form(asking)))["data"][0]["b64_json"]


@feature(OPENAI, "`/v1/models`", "from memory, whatever is loading")
async def a_listing(asking: Asking) -> None:
    listed = (await asking.client.get("/v1/models")).json()["data"]
    assert asking.model in {model["id"] for model in listed}
    assert (await asking.client.get(f"/v1/models/{asking.model}")).json()["id"] == asking.model


@feature(OPENAI, "a chat with a status line while the model loads", "the router writes it into the stream")
async def a_status_line(asking: Asking) -> None:
    await asking.unloaded()
    body = {"model": asking.model, "messages": HELLO, "stream": True}
    answer = await asking.post("/v1/chat/completions", body, headers={"X-LLM-Router-Status": "content"})
    said = "".join(choice["delta"].get("content") or "" for one in events(answer.text) for choice in one["choices"])
    assert "⏳" in said
    assert text_of(asking) in said


@feature(OPENAI, "the server's own routes, at `/upstream/{model}/…`")
async def straight_through(asking: Asking) -> None:
    path = f"/upstream/{asking.model}/v1/chat/completions"
    asking.paths.append("/v1/chat/completions")
    answer = await asking.client.post(path, json={"model": asking.model, "messages": HELLO})
    assert answer.json()["choices"][0]["message"]["content"] == text_of(asking)


# -- what the client says for the model

BEGUN = "llama.cpp goes on, and only what is new is sent; the others answer anew"


def goes_on(asking: Asking, said: str) -> None:
    if said != text_of(asking):
        assert said == text_of(asking) + ANEW
        raise NotPossible


# -- Anthropic


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


# -- Ollama


async def ollama(asking: Asking, path: str = "/api/chat", **more: Any) -> dict[str, Any]:
    asked = {"messages": HELLO} if path == "/api/chat" else {}
    return await asking.json(path, {"model": asking.model, "stream": False, **asked, **more})


async def ollama_lines(asking: Asking, path: str = "/api/chat", **more: Any) -> list[dict[str, Any]]:
    asked = {"messages": HELLO} if path == "/api/chat" else {}
    answer = await asking.post(path, {"model": asking.model, **asked, **more})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert '{"error"' not in answer.text, answer.text
    return lines(answer.text)


@feature(OLLAMA, "`/api/version`, `/api/tags`, `/api/show`", "from the configuration and the headers of the files")
async def ollamas_listings(asking: Asking) -> None:
    assert (await asking.client.get("/api/version")).json()["version"]
    listed = (await asking.client.get("/api/tags")).json()["models"]
    assert f"{asking.model}:latest" in {model["model"] for model in listed}
    assert "completion" in (await asking.json("/api/show", {"model": asking.model}))["capabilities"]


@feature(OLLAMA, "`/api/ps`")
async def ollamas_residents(asking: Asking) -> None:
    await asking.loaded()
    resident = (await asking.client.get("/api/ps")).json()["models"]
    assert f"{asking.model}:latest" in {model["model"] for model in resident}


@feature(OLLAMA, "`/api/chat`, whole and streamed, with durations and counts")
async def ollamas_chat(asking: Asking) -> None:
    said = await ollama(asking)
    assert (said["message"]["content"], said["done"]) == (text_of(asking), True)
    assert said["eval_count"] == COUNT + 1
    assert said["total_duration"] >= said["load_duration"] >= 0
    found = await ollama_lines(asking)
    assert "".join(line["message"]["content"] for line in found) == text_of(asking)
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]


@feature(OLLAMA, "a chat whose answer the client begins", BEGUN)
async def ollamas_beginning(asking: Asking) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well,"}]
    said = (await ollama(asking, messages=messages))["message"]["content"]
    found = await ollama_lines(asking, messages=messages)
    assert "".join(line["message"]["content"] for line in found) == said
    goes_on(asking, said)


@feature(OLLAMA, "tools, arguments as objects")
async def ollamas_tools(asking: Asking) -> None:
    for found in ([await ollama(asking, tools=[FUNCTION])], await ollama_lines(asking, tools=[FUNCTION])):
        [call] = [call["function"] for line in found for call in line["message"].get("tool_calls", ())]
        assert (call["name"], call["arguments"]) == CALLED


@feature(OLLAMA, "`think`")
async def ollamas_thinking(asking: Asking) -> None:
    assert (await ollama(asking, think=True))["message"]["thinking"] == " 1 2 3"
    found = await ollama_lines(asking, think=True)
    assert "".join(line["message"].get("thinking", "") for line in found) == " 1 2 3"


@feature(OLLAMA, "`images`")
async def ollamas_pictures(asking: Asking) -> None:
    await ollama(asking, messages=[{"role": "user", "content": "what?", "images": [PICTURE]}])
    parts = asking.answered()[-1]["body"]["messages"][0]["content"]
    assert parts[1] == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}


@feature(OLLAMA, '`format`: "json" or a schema')
async def ollamas_format(asking: Asking) -> None:
    await ollama(asking, format="json")
    assert asking.answered()[-1]["body"]["response_format"] == {"type": "json_object"}
    await ollama(asking, format=CITY)
    assert asking.answered()[-1]["body"]["response_format"]["json_schema"]["schema"] == CITY


@feature(OLLAMA, "`logprobs`")
async def ollamas_probabilities(asking: Asking) -> None:
    found = (await ollama(asking, logprobs=True, top_logprobs=1))["logprobs"]
    assert "".join(token["token"] for token in found) == text_of(asking)


@feature(OLLAMA, "`/api/generate`, whole, streamed and `raw`")
async def ollamas_prompt(asking: Asking) -> None:
    assert (await ollama(asking, "/api/generate", prompt="hello"))["response"] == text_of(asking)
    for more in ({}, {"raw": True}):
        found = await ollama_lines(asking, "/api/generate", prompt="hello", **more)
        assert "".join(line["response"] for line in found) == text_of(asking)


@feature(
    OLLAMA, "`options`: sampling, `num_predict`, `stop`, `seed`", "what shapes a load (`num_ctx`, …) is configured"
)
async def ollamas_options(asking: Asking) -> None:
    said = await ollama(asking, options={"num_predict": 2, "temperature": 0.5, "seed": 7, "num_ctx": 8192})
    assert (said["message"]["content"], said["done_reason"]) == (f" I am {asking.model}: 1", "length")
    sent = asking.answered()[-1]["body"]
    assert (sent["temperature"], sent["seed"], "num_ctx" in sent) == (0.5, 7, False)


@feature(OLLAMA, "`/api/embed`, `/api/embeddings`", "TabbyAPI: where its own `config.yml` names an embedding model")
async def ollamas_embeddings(asking: Asking) -> None:
    model = asking.model + EMBEDS
    assert len((await asking.json("/api/embed", {"model": model, "input": ["one", "two"]}))["embeddings"]) == 2
    assert (await asking.json("/api/embeddings", {"model": model, "prompt": "one"}))["embedding"]


async def stays_s(asking: Asking, **more: Any) -> float:
    """How long the model will stay after a request, by `/api/ps`."""
    await ollama(asking, **more)
    residents = (await asking.client.get("/api/ps")).json()["models"]
    until_ = next(model["expires_at"] for model in residents if model["model"] == f"{asking.model}:latest")
    return (datetime.fromisoformat(until_) - datetime.now(UTC)).total_seconds()


@feature(OLLAMA, '`keep_alive`: a duration, as `"1h30m"`, `"300"`, `300`', "instead of the `idle_timeout`")
async def ollamas_durations(asking: Asking) -> None:
    for asked, wanted_s in (("1h30m", 5400), ("300", 300), (300, 300), ("1.5m", 90)):
        assert wanted_s - 30 < await stays_s(asking, keep_alive=asked) <= wanted_s


@feature(OLLAMA, '`keep_alive`: `-1`, `"-1m"`', "it isn't unloaded for want of use, but makes room for others")
async def ollamas_staying(asking: Asking) -> None:
    for asked in (-1, "-1", "-1m"):
        assert await stays_s(asking, keep_alive=asked) > 10**8


@feature(OLLAMA, "`keep_alive`: `0`", "unloads after the answer, unless others use the model")
async def ollamas_leaving(asking: Asking) -> None:
    assert (await ollama(asking, keep_alive="0s"))["message"]["content"] == text_of(asking)
    await asking.router.until(asking.model, "unloaded")


@feature(OLLAMA, "no prompt or no messages: loads, or with `keep_alive: 0` unloads")
async def ollamas_loading(asking: Asking) -> None:
    assert (await ollama(asking, "/api/generate"))["done_reason"] == "load"
    assert (await asking.router.status())[asking.model]["state"] == "ready"
    assert (await ollama(asking, messages=[], keep_alive=0))["done_reason"] == "unload"
    await asking.router.until(asking.model, "unloaded")


@feature(OLLAMA, "a chat with empty lines while the model loads", "the router writes them into the stream")
async def ollamas_waiting(asking: Asking) -> None:
    await asking.unloaded()
    found = await ollama_lines(asking)
    assert found[0]["message"] == {"role": "assistant", "content": ""}
    assert "".join(line["message"]["content"] for line in found) == text_of(asking)
    assert found[-1]["load_duration"] > 0


@feature(OLLAMA, "errors of the server in Ollama's shape")
async def an_error_for_ollama(asking: Asking) -> None:
    body = {"model": asking.model, "messages": [{"role": "user", "content": "fault: error400"}], "stream": False}
    answer = await asking.post("/api/chat", body)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert "as you wished" in answer.json()["error"]


@feature(OLLAMA, "`suffix`, `template`", "models have their own marks and templates: send the whole prompt with `raw`")
async def ollamas_suffix(asking: Asking) -> None:
    for more in ({"suffix": "x"}, {"template": "x"}):
        answer = await asking.post("/api/generate", {"model": asking.model, "prompt": "x", **more})
        assert answer.status_code == 400
    raise refused(answer.json(), "cannot use a")


@feature(OLLAMA, "`/api/pull`, `create`, `copy`, `push`, `DELETE /api/delete`", "models come with the configuration")
async def ollamas_pull(asking: Asking) -> None:
    for name in ("pull", "create", "copy", "push"):
        answer = await asking.post(f"/api/{name}", {"model": asking.model})
        assert (answer.status_code, list(answer.json())) == (404, ["error"])
    raise NotPossible


# -- llama.cpp's management


async def value(asking: Asking) -> str:
    listed = (await asking.client.get("/models")).json()["data"]
    found: str = next(model["status"]["value"] for model in listed if model["id"] == asking.model)
    return found


async def becomes(asking: Asking, wanted: str) -> None:
    async def is_so() -> bool:
        return await value(asking) == wanted

    await until(is_so)


@feature(LLAMACPP, "`GET /models` with `status`")
async def managements_listing(asking: Asking) -> None:
    await asking.loaded()
    assert await value(asking) == "loaded"


@feature(LLAMACPP, "`POST /models/unload`, `POST /models/load`, `GET /models/sse`")
async def managed(asking: Asking) -> None:
    await asking.loaded()
    async with asyncio.timeout(10), asking.client.stream("GET", "/models/sse") as stream:
        told = stream.aiter_lines()
        assert await anext(told) == ": from now on"
        for word, wanted in (("unload", "unloaded"), ("load", "loaded")):
            answer = await asking.client.post(f"/models/{word}", json={"model": asking.model})
            assert answer.json() == {"success": True}
            async for line in told:
                event = events(line)
                if event and (event[0]["model"], event[0]["data"]["status"]) == (asking.model, wanted):
                    break
            await becomes(asking, wanted)


@feature(LLAMACPP, "`POST /models`, `DELETE /models`", "models come with the configuration")
async def managed_files(asking: Asking) -> None:
    answer = await asking.client.delete(f"/models?model={asking.model}")
    assert answer.status_code == 501
    await asking.post("/models", {"model": asking.model})
