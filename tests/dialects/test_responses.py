"""OpenAI's Responses, in the words of chat completions and back; what comes of it is what the official client takes."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from llm_router.dialects import completion, responses_reply, responses_request
from llm_router.dialects.responses_reply import ResponseTranslation
from llm_router.errors import InvalidRequest


# Imported where they are used, for that takes a second, which collecting the tests would cost every process.
@functools.cache
def official(name: str) -> TypeAdapter[Any]:
    """What `openai.types.responses` has by this name."""
    import openai.types.responses

    return TypeAdapter(getattr(openai.types.responses, name))


def translated(**request: Any) -> dict[str, Any]:
    body = responses_request.read(json.dumps({"model": "m", "input": "hi", **request}).encode()).body
    found: dict[str, Any] = json.loads(body)
    return found


def translation(*, streams: bool = True, **request: Any) -> ResponseTranslation:
    asked = responses_request.read(json.dumps({"model": "m", "input": "hi", **request}).encode())
    return ResponseTranslation(id="resp_1", model="m", streams=streams, echo=asked.echo, now=lambda: 1000.0)


def told(*chunks: dict[str, Any], **request: Any) -> list[dict[str, Any]]:
    """The events of a stream of these deltas, each valid, and numbered without a gap."""
    speaker = translation(**request)
    out = speaker.begin()
    for chunk in chunks:
        out += speaker.chunk(completion.read(json.dumps(chunk).encode()))
    return events(out + speaker.end())


def events(stream: bytes) -> list[dict[str, Any]]:
    found = []
    for event in stream.decode().strip().split("\n\n"):
        name, data = event.split("\n")
        said = json.loads(data.removeprefix("data: "))
        assert name == f"event: {said['type']}"
        official("ResponseStreamEvent").validate_python(said)
        found.append(said)
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 4}}


# -- there


def test_a_text_is_a_users_message_and_instructions_are_the_systems() -> None:
    assert translated(instructions="be kind")["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
    ]


def test_a_conversation_with_thoughts_calls_and_results_becomes_messages() -> None:
    items = [
        {"role": "developer", "content": "use tools"},
        {"role": "user", "content": [{"type": "input_text", "text": "rain?"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at":"sky"}'},
        {"type": "function_call", "call_id": "c2", "name": "ask", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "wet"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "yes"}]},
    ]
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky"}'}},
        {"id": "c2", "type": "function", "function": {"name": "ask", "arguments": "{}"}},
    ]
    assert translated(instructions="be kind", input=items)["messages"] == [
        {"role": "system", "content": "be kind\n\nuse tools"},
        {"role": "user", "content": [{"type": "text", "text": "rain?"}]},
        {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "wet"},
        {"role": "tool", "tool_call_id": "c2", "content": "yes"},
    ]


def test_two_messages_of_the_assistant_stay_two() -> None:
    said = [{"role": "assistant", "content": text} for text in ("one", "two")]
    assert [message["content"] for message in translated(input=said)["messages"]] == ["one", "two"]


def test_images_go_along() -> None:
    part = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}
    content = translated(input=[{"role": "user", "content": [part]}])["messages"][0]["content"]
    assert content == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}]


def test_tools_formats_and_limits_are_said_as_a_chat_says_them() -> None:
    found = translated(
        tools=[
            {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True},
            {"type": "web_search"},
        ],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
        max_output_tokens=5,
        reasoning={"effort": "low"},
        temperature=0.5,
        top_k=7,
        store=False,
    )
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert found["tools"] == [{"type": "function", "function": function}]
    assert found["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert found["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "object"}},
    }
    assert (found["max_tokens"], found["reasoning_effort"], found["temperature"]) == (5, "low", 0.5)
    assert found["top_k"] == 7, "what neither API knows goes on"
    assert not {"store", "input", "text", "max_output_tokens"} & found.keys()


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": []}, "empty"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input_file"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "wizard"),
        ({"input": 7}, "input"),
        ({"text": {"format": {"type": "grammar"}}}, "grammar"),
        ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(request_: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidRequest, match=word) as caught:
        translated(**request_)
    assert caught.value.message.startswith("cannot")


def test_a_body_that_cannot_be_read_is_refused() -> None:
    for body in (b"", b"[]", b"{", b'{"model":"m","input":"\xff"}', b'{"model":"m","input":' + b"[" * 100_000):
        with pytest.raises(InvalidRequest):
            responses_request.read(body)


def test_a_front_ends_task_is_known_by_its_shape() -> None:
    task = "### Task:\nGenerate a title"
    assert responses_request.is_task(json.dumps({"model": "m", "input": task}).encode())
    assert responses_request.is_task(json.dumps({"model": "m", "input": [{"role": "user", "content": task}]}).encode())
    parts = [{"role": "user", "content": [{"type": "input_text", "text": task}]}]
    assert responses_request.is_task(json.dumps({"model": "m", "input": parts}).encode())
    assert not responses_request.is_task(json.dumps({"model": "m", "input": task, "stream": True}).encode())
    assert not responses_request.is_task(json.dumps({"model": "m", "input": "hi ### Task:\n"}).encode())
    assert not responses_request.is_task(b'{"### Task:')


# -- and back


def test_a_stream_of_thoughts_text_and_calls_has_every_event_in_order() -> None:
    found = told(
        delta(role="assistant", content=""),
        delta(reasoning_content="hm"),
        delta(content="It "),
        delta(content="rains."),
        delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]),
        delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":1}'}}]),
        {**delta("tool_calls"), "usage": USAGE},
    )
    kinds = [event["type"].removeprefix("response.") for event in found]
    assert kinds == [
        "created",
        "in_progress",
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        "output_item.added",
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    final = found[-1]["response"]
    official("Response").validate_python(final)
    assert [item["type"] for item in final["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert final["output"][1]["content"][0]["text"] == "It rains."
    assert [item.get("arguments") for item in final["output"][2:]] == ['{"a":1}', "{}"]
    assert [item["call_id"] for item in final["output"][2:]] == ["c1", "c2"]
    assert final["usage"]["input_tokens_details"]["cached_tokens"] == 4
    assert (final["usage"]["output_tokens"], final["usage"]["total_tokens"]) == (3, 12)
    assert (found[0]["response"]["status"], found[0]["response"]["usage"]) == ("in_progress", None)


def test_an_answer_that_was_too_long_is_incomplete() -> None:
    final = told(delta(content="a"), delta("length"))[-1]
    assert final["type"] == "response.incomplete"
    assert final["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["response"]["output"][0]["status"] == "incomplete"


def test_what_was_cut_short_is_not_said_to_be_complete() -> None:
    """An agent may run a call as soon as it is done."""
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"path": "/'}}
    found = told(delta(reasoning_content="hm"), delta(content="a"), delta(tool_calls=[call]), delta("length"))
    done = [one["item"] for one in found if one["type"] == "response.output_item.done"]
    final = found[-1]["response"]["output"]
    for items in (done, final):
        assert [item.get("status") for item in items] == ["completed", "completed", "incomplete"]
    cut = told(delta(content="a"), delta("length"))
    assert [one["item"]["status"] for one in cut if one["type"] == "response.output_item.done"] == ["incomplete"]


def test_the_reply_repeats_what_was_asked() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}, "strict": False}]
    final = told(delta("stop", content="a"), instructions="be kind", temperature=0.5, tools=tools)[-1]["response"]
    assert (final["instructions"], final["temperature"], final["tools"]) == ("be kind", 0.5, tools)
    assert (final["tool_choice"], final["parallel_tool_calls"], final["metadata"]) == ("auto", True, {})


def test_a_failure_is_said_twice_and_ends_the_stream() -> None:
    speaker = translation()
    out = speaker.begin() + speaker.chunk(completion.read(json.dumps(delta(content="a")).encode()))
    out += speaker.fail(completion.Problem(message="CUDA out of memory", code="model_load_failed"))
    found = events(out + speaker.end() + speaker.chunk(completion.read(b"{}")))
    assert [event["type"] for event in found[-2:]] == ["error", "response.failed"]
    assert found[-2]["message"] == found[-1]["response"]["error"]["message"] == "CUDA out of memory"
    assert found[-2]["code"] == "model_load_failed"


def test_a_reply_in_one_piece_is_a_response() -> None:
    message = {
        "role": "assistant",
        "content": "It rains.",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = translation(streams=False).whole(json.dumps({"choices": [choice], "usage": USAGE}).encode())
    found = official("Response").validate_json(body)
    assert found.output_text == "It rains."
    assert [item.type for item in found.output] == ["reasoning", "message", "function_call"]
    assert found.status == "completed"
    assert found.usage is not None
    assert found.usage.input_tokens == 9


def test_token_probabilities_go_along() -> None:
    token = {"token": "a", "bytes": [97], "logprob": -0.1, "top_logprobs": []}
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token]}}]}
    found = told(chunk, delta("stop"), include=["message.output_text.logprobs"])
    assert next(event for event in found if event["type"].endswith("text.delta"))["logprobs"] == [token]
    assert found[-1]["response"]["output"][0]["content"][0]["logprobs"] == [token]
    assert translated(include=["message.output_text.logprobs"])["logprobs"] is True


def test_an_error_reply_has_openais_envelope() -> None:
    said = json.loads(responses_reply.error(503, completion.Problem(message="no", code="no_room")))
    assert said == {"error": {"message": "no", "type": "server_error", "param": None, "code": "no_room"}}
