"""The table's rows about OpenAI's API."""

from __future__ import annotations

import json
from typing import Any

from compatibility import COUNT, EMBEDS, Asking, feature
from compatibility_words import CALLED, CITY, FUNCTION, HELLO, PICTURE, SILENT, events, text_of

OPENAI = "OpenAI"


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
