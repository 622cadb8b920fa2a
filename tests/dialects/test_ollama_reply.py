"""OpenAI's replies become Ollama's lines: words, thoughts, calls, figures in nanoseconds, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from said import StoppedClock, chunk, piece, read, reply

from llm_router.dialects.completion import Completion, Problem
from llm_router.dialects.ollama_reply import EmbeddingTranslation, LinesTranslation, error
from llm_router.errors import UpstreamGarbage

HEAD = {"model": "m:latest", "created_at": "2026-11-22T17:00:31.250000Z"}
FIGURES = {
    "total_duration": 2_500_000_000,
    "load_duration": 1_500_000_000,
    "prompt_eval_count": 30,
    "prompt_eval_duration": 12_500_000,
    "eval_count": 5,
    "eval_duration": 40_000_000,
}


def translation(*, chat: bool = True, thinking: bool = True, begun: str = "") -> LinesTranslation:
    return LinesTranslation(
        model="m:latest", streams=True, chat=chat, thinking=thinking, clock=StoppedClock(), begun=begun
    )


def lines(*chunks: Completion, **more: Any) -> list[dict[str, Any]]:
    one = translation(**more)
    stream = one.begin() + b"".join(one.chunk(said) for said in chunks) + one.end()
    assert stream.endswith(b"\n")
    return [json.loads(line) for line in stream.splitlines()]


def message(content: str = "", **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **more}}


def test_a_chat_in_lines() -> None:
    assert lines(chunk(role="assistant", content=""), chunk(content="a"), chunk(content=" b"), chunk("stop")) == [
        {**HEAD, **message("a"), "done": False},
        {**HEAD, **message(" b"), "done": False},
        {**HEAD, **message(), "done": True, "done_reason": "stop", **FIGURES},
    ]


def test_a_chat_in_one_piece() -> None:
    assert json.loads(translation().whole(reply(content="hi", reasoning_content="hm"))) == {
        **HEAD,
        **message("hi", thinking="hm"),
        "done": True,
        "done_reason": "stop",
        **FIGURES,
    }


def test_a_prompts_answer_is_a_response() -> None:
    assert lines(chunk(content="a"), chunk("length"), chat=False) == [
        {**HEAD, "response": "a", "done": False},
        {**HEAD, "response": "", "done": True, "done_reason": "length", **FIGURES},
    ]


def test_a_text_completion_is_a_response_too() -> None:
    said = read({"choices": [{"index": 0, "text": "a", "finish_reason": None}]})
    assert lines(said, chunk("stop"), chat=False)[0] == {**HEAD, "response": "a", "done": False}
    body = json.dumps({"choices": [{"text": "a", "finish_reason": "stop"}]}).encode()
    whole = json.loads(translation(chat=False).whole(body))
    assert (whole["response"], whole["eval_count"]) == ("a", 0)


def test_thoughts_have_a_place_of_their_own_or_none() -> None:
    chunks = (chunk(reasoning_content="hm"), chunk(content="a"), chunk("stop"))
    assert [line["message"] for line in lines(*chunks)][:2] == [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "a"},
    ]
    assert [line["message"]["content"] for line in lines(*chunks, thinking=False)] == ["a", ""]


def test_calls_are_whole_and_their_arguments_objects() -> None:
    found = lines(
        chunk(tool_calls=[piece(0, '{"a"', id="c1", name="f")]),
        chunk(tool_calls=[piece(1, "oops", name="g")]),
        chunk(tool_calls=[piece(0, ": 1}")]),
        chunk("tool_calls"),
    )
    calls = [
        {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
        {"function": {"index": 1, "name": "g", "arguments": {"invalid_json": "oops"}}},
    ]
    assert found[0] == {**HEAD, **message(tool_calls=calls), "done": False}
    assert (found[1]["done"], found[1]["done_reason"]) == (True, "stop")
    whole = [{"id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    assert json.loads(translation().whole(reply(tool_calls=whole)))["message"]["tool_calls"] == calls[:1]


def test_logprobs_keep_what_ollama_knows_of_them() -> None:
    entry = {"id": 5, "token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    said = chunk(content="a", choice={"logprobs": {"content": [entry]}})
    assert lines(said, chunk("stop"))[0]["logprobs"] == [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    ]


def test_waiting_is_a_line_that_says_nothing() -> None:
    assert json.loads(translation().waiting()) == {**HEAD, **message(), "done": False}


def test_an_error_is_one_line_and_the_last() -> None:
    one = translation()
    assert one.fail(Problem(message="cannot")) == b'{"error":"cannot"}\n'
    assert one.fail(Problem(message="again")) + one.chunk(chunk(content="x")) + one.end() == b""
    assert json.loads(error(404, Problem(message="cannot"))) == {"error": "cannot"}


def test_nothing_was_asked_so_nothing_is_said() -> None:
    said = json.loads(translation().idle("load"))
    assert said == {
        **HEAD,
        **message(),
        "done": True,
        "done_reason": "load",
        "total_duration": 2_500_000_000,
        "load_duration": 1_500_000_000,
    }


def embedding(*, legacy: bool) -> EmbeddingTranslation:
    return EmbeddingTranslation(model="m", legacy=legacy, clock=StoppedClock())


def test_embeddings_stay_in_order_and_to_the_digit() -> None:
    vectors = b'[{"index": 1, "embedding": [2.50]}, {"index": 0, "embedding": [0.1000000000000000055]}]'
    body = b'{"data": ' + vectors + b', "usage": {"prompt_tokens": 4}}'
    said = embedding(legacy=False).whole(body)
    assert b"[[0.1000000000000000055],[2.50]]" in said
    assert json.loads(said) | {"embeddings": None} == {
        "model": "m",
        "embeddings": None,
        "total_duration": 2_500_000_000,
        "load_duration": 1_500_000_000,
        "prompt_eval_count": 4,
    }
    assert embedding(legacy=True).whole(body) == b'{"embedding":[0.1000000000000000055]}'
    assert json.loads(embedding(legacy=False).idle("load"))["embeddings"] == []


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data": 5}', b"\xff"])
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamGarbage, match="cannot read"):
        embedding(legacy=False).whole(body)
    with pytest.raises(UpstreamGarbage, match="cannot read"):
        translation().whole(body)


def test_what_the_client_began_itself_is_not_said_again() -> None:
    assert json.loads(translation(begun="{").whole(reply(content='{"a": 1}')))["message"]["content"] == '"a": 1}'
    stream = (chunk(content="Be"), chunk(content="gin h"), chunk(content="ere"), chunk("stop"))
    assert [line["message"]["content"] for line in lines(*stream, begun="Begin ")] == ["h", "ere", ""]


def test_an_answer_that_ends_within_the_beginning_is_said_all_the_same() -> None:
    found = lines(chunk(content="Beg"), chunk("stop"), begun="Begin")
    assert [line["message"]["content"] for line in found] == ["Beg", ""]
    called = (chunk(content="Be"), chunk(tool_calls=[piece(0, "{}", id="c", name="f")]), chunk("tool_calls"))
    assert [line["message"]["content"] for line in lines(*called, begun="Begin")] == ["Be", "", ""]
