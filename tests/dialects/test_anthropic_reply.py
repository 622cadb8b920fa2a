"""Chat completions become Anthropic's messages: content blocks, reasons, usage, the order of events, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from said import FIGURES, chunk, piece, read, reply

from llm_router.dialects.anthropic_errors import error
from llm_router.dialects.anthropic_reply import MessageTranslation
from llm_router.dialects.completion import Completion, Problem
from llm_router.errors import UpstreamGarbage

USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 20,
    "output_tokens": 5,
}


def translation(*, thinking: bool = True, stops: tuple[str, ...] = (), begun: str = "") -> MessageTranslation:
    return MessageTranslation(id="msg_1", model="m", streams=True, thinking=thinking, stops=stops, begun=begun)


def whole(body: bytes, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(translation(**more).whole(body))
    return found


def events(*chunks: Completion, **more: Any) -> list[dict[str, Any]]:
    """A whole stream's data, each under the name that it says."""
    one = translation(**more)
    return parsed(one.begin() + b"".join(one.chunk(said) for said in chunks) + one.end())


def parsed(stream: bytes) -> list[dict[str, Any]]:
    found = []
    for event in stream.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


def blocks(*chunks: Completion, **more: Any) -> list[dict[str, Any]]:
    """The content of a stream as a client puts it together; fails where the order is wrong."""
    found: list[dict[str, Any]] = []
    is_open = False
    for event in events(*chunks, **more)[1:-2]:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": begun}:
                assert not is_open
                assert index == len(found)
                found.append({**begun, "json": ""} if begun["type"] == "tool_use" else begun)
                is_open = True
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert is_open
                assert index == len(found) - 1
                kind = delta.pop("type").removesuffix("_delta")
                key = {"input_json": "partial_json"}.get(kind, kind)
                place = {"input_json": "json"}.get(kind, kind)
                found[-1][place] += delta[key]
            case {"type": "content_block_stop", "index": index}:
                assert is_open
                assert index == len(found) - 1
                is_open = False
            case {"type": "ping"}:
                pass
            case _:
                pytest.fail(f"{event} has no place here")
    assert not is_open
    return found


def test_a_text_in_one_piece() -> None:
    assert whole(reply(content="hi")) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }


def test_thinking_and_calls_in_one_piece() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"id": "c3", "type": "function", "function": {"name": "h", "arguments": "{oops"}},
        {"id": "c4", "type": "function", "function": {"name": "i", "arguments": "[1]"}},
    ]
    said = whole(reply("tool_calls", content="\n\n", reasoning_content="hm", tool_calls=calls))
    assert said["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "toolu_1_1", "name": "g", "input": {}},
        {"type": "tool_use", "id": "c3", "name": "h", "input": {"invalid_json": "{oops"}},
        {"type": "tool_use", "id": "c4", "name": "i", "input": {"invalid_json": "[1]"}},
    ]
    assert said["stop_reason"] == "tool_use"


def test_thinking_that_nobody_asked_for_stays_unseen() -> None:
    assert whole(reply(content="hi", reasoning_content="hm"), thinking=False)["content"] == [
        {"type": "text", "text": "hi"}
    ]
    assert blocks(chunk(reasoning_content="hm"), chunk(content="hi"), chunk("stop"), thinking=False) == [
        {"type": "text", "text": "hi"}
    ]


def test_a_stream_that_thinks_unseen_pings_now_and_then() -> None:
    chunks = [chunk(reasoning_content="hm")] * 100
    names = [event["type"] for event in events(*chunks, chunk("stop"), thinking=False)]
    assert names.count("ping") == 4


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": 5}', b"\xff", b"[" * 10_000])
def test_an_answer_that_is_none_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamGarbage, match="cannot read the answer"):
        translation().whole(body)


def test_a_stream_of_text_has_its_events_in_order() -> None:
    assert events(chunk(role="assistant", content=""), chunk(content="a"), chunk(content=" b"), chunk("stop")) == [
        {
            "type": "message_start",
            "message": {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {"input_tokens": 0, "output_tokens": 0},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " b"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE},
        {"type": "message_stop"},
    ]


def test_thoughts_text_and_calls_follow_each_other_as_blocks() -> None:
    assert blocks(
        chunk(reasoning_content="h"),
        chunk(reasoning_content="m"),
        chunk(content="\n"),
        chunk(content="\n"),
        chunk(content="so"),
        chunk(tool_calls=[piece(0, id="c1", name="f")]),
        chunk(tool_calls=[piece(0, '{"a"')]),
        chunk(tool_calls=[piece(0, ": 1}")]),
        chunk(tool_calls=[piece(1, "{}", id="c2", name="g")]),
        chunk("tool_calls"),
    ) == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "\n\nso"},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {}, "json": '{"a": 1}'},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {}, "json": "{}"},
    ]


def test_white_space_between_a_thought_and_a_call_is_no_text() -> None:
    said = blocks(
        chunk(reasoning_content="hm"),
        chunk(content="\n\n"),
        chunk(tool_calls=[piece(0, "{}", id="c", name="f")]),
        chunk("stop"),
    )
    assert [block["type"] for block in said] == ["thinking", "tool_use"]


def test_calls_that_come_whole_in_the_finish_chunk() -> None:
    """TabbyAPI's: without an index, and all at once."""
    calls = [{"id": f"c{i}", "function": {"name": "f", "arguments": "{}"}} for i in range(2)]
    assert [block["id"] for block in blocks(chunk("tool_calls", tool_calls=calls))] == ["c0", "c1"]


def test_arguments_wait_for_the_name_of_their_tool() -> None:
    assert blocks(
        chunk(tool_calls=[piece(0, '{"a"', id="c")]), chunk(tool_calls=[piece(0, ":1}", name="f")]), chunk("stop")
    ) == [{"type": "tool_use", "id": "c", "name": "f", "input": {}, "json": '{"a":1}'}]


def test_calls_whose_pieces_are_mixed_are_an_error_rather_than_half_a_call() -> None:
    one = translation()
    one.begin()
    for said in (piece(0, "{", id="a", name="f"), piece(1, "{", id="b", name="g")):
        one.chunk(chunk(tool_calls=[said]))
    [failed] = parsed(one.chunk(chunk(tool_calls=[piece(0, "}")])))
    assert (failed["type"], failed["error"]["type"]) == ("error", "api_error")
    assert one.chunk(chunk("stop")) + one.end() == b""


@pytest.mark.parametrize(
    ("finish", "choice", "reason", "stop"),
    [
        ("stop", {}, "end_turn", None),
        ("length", {}, "max_tokens", None),
        ("content_filter", {}, "refusal", None),
        ("stop", {"matched_stop": "END"}, "stop_sequence", "END"),
        ("stop", {"stop_reason": "END"}, "stop_sequence", "END"),
        ("stop", {"stop_str": "END"}, "stop_sequence", "END"),
        ("stop", {"matched_stop": 151645}, "end_turn", None),
        ("stop", {"stop_reason": "<|im_end|>"}, "end_turn", None),
    ],
)
def test_why_an_answer_ended(finish: str, choice: dict[str, Any], reason: str, stop: str | None) -> None:
    said = whole(reply(finish, choice=choice, content="x"), stops=("END",))
    assert (said["stop_reason"], said["stop_sequence"]) == (reason, stop)
    streamed = events(chunk(content="x"), chunk(finish, choice=choice), stops=("END",))[-2]["delta"]
    assert streamed == {"stop_reason": reason, "stop_sequence": stop}


def test_a_call_is_the_reason_even_where_the_server_says_stop() -> None:
    calls = [piece(0, "{}", id="c", name="f")]
    assert events(chunk(tool_calls=calls), chunk("stop"))[-2]["delta"]["stop_reason"] == "tool_use"
    assert events(chunk(tool_calls=calls), chunk("length"))[-2]["delta"]["stop_reason"] == "max_tokens"


def test_figures_that_come_apart_from_the_finish_are_not_lost() -> None:
    finish = read({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert events(chunk(content="x"), finish, read({"choices": [], **FIGURES}))[-2]["usage"] == USAGE


def test_waiting_is_a_ping() -> None:
    assert translation().waiting() == b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_an_error_is_of_its_statuss_type(status: int, kind: str) -> None:
    assert json.loads(error(status, Problem(message="cannot"))) == {
        "type": "error",
        "error": {"type": kind, "message": "cannot"},
    }


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (Problem(message="x", code="model_load_failed"), "overloaded_error"),
        (Problem(message="x", code="upstream_timeout"), "timeout_error"),
        (Problem(message="x", code="upstream_lost", type="server_error"), "api_error"),
        (Problem(message="x", type="rate_limit_error"), "rate_limit_error"),
        (Problem(message="x", code=500), "api_error"),
    ],
)
def test_an_error_in_a_stream_is_of_its_codes_type_and_the_last_event(problem: Problem, kind: str) -> None:
    one = translation()
    [failed] = parsed(one.fail(problem))
    assert failed == {"type": "error", "error": {"type": kind, "message": "x"}}
    assert one.fail(problem) + one.chunk(chunk(content="x")) + one.end() == b""


def test_a_prompt_that_is_too_long_is_called_so_in_the_words_that_agents_look_for() -> None:
    problem = Problem(message="m", code="context_length_exceeded", n_prompt_tokens=5000, n_ctx=4096)
    said = json.loads(error(400, problem))["error"]
    assert said == {
        "type": "invalid_request_error",
        "message": "prompt is too long: 5000 tokens > 4096 maximum. m",
    }
    assert json.loads(error(400, Problem(message="m", code="context_length_exceeded")))["error"]["message"].startswith(
        "prompt is too long."
    )


def test_what_the_client_began_itself_is_not_said_again_in_one_piece() -> None:
    said = whole(reply(content='{"a": 1}'), begun="{")
    assert said["content"] == [{"type": "text", "text": '"a": 1}'}]
    assert whole(reply(content="{"), begun="{")["content"] == []
    assert whole(reply(content='"a": 1}'), begun="{")["content"] == [{"type": "text", "text": '"a": 1}'}]


@pytest.mark.parametrize("size", range(1, 12))
def test_what_the_client_began_itself_is_not_said_again_in_a_stream(size: int) -> None:
    def said(text: str, begun: str) -> str:
        pieces = [chunk(content=text[at : at + size]) for at in range(0, len(text), size)]
        return "".join(block["text"] for block in blocks(*pieces, chunk("stop"), begun=begun))

    assert said("Begin here", "Begin ") == "here"
    assert said("here", "Begin ") == "here"
    assert said("Beginners", "Begin ") == "Beginners"
    assert said("Beg", "Begin ") == "Beg", "it ends before it can be told"
    assert said("hahaha", "ha") == "haha", "once only"
    assert said("Begin ", "Begin ") == ""


def test_a_call_of_a_tool_ends_the_waiting_for_what_the_client_began() -> None:
    found = blocks(
        chunk(content="Be"), chunk(tool_calls=[piece(0, "{}", id="c", name="f")]), chunk("tool_calls"), begun="Begin"
    )
    assert [block["type"] for block in found] == ["text", "tool_use"]
    assert found[0]["text"] == "Be"
