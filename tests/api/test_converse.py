"""The sink between the relay and another dialect's client: whatever the pieces, whatever the reply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_router.api.converse import TranslatingSink
from llm_router.api.errors import render
from llm_router.dialects import anthropic_errors, ollama_reply
from llm_router.dialects.anthropic_reply import MessageTranslation
from llm_router.errors import LoadFailed
from llm_router.relay.headers import Headers

SSE = (b"content-type", b"text/event-stream")
JSON = (b"content-type", b"application/json")
FIGURES = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "timings": {"prompt_ms": 1.0, "predicted_ms": 2.0}}


class Kept:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.ended = self.broken = False

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.head(status, headers, len(body))
        self.body = body
        self.ended = True

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        assert self.status == 0, "a reply has one head"
        self.status, self.headers = status, dict(headers)
        assert len(self.headers) == len(headers), "a header is there twice"

    def data(self, data: bytes) -> None:
        assert self.status
        assert data
        self.body += data

    def end(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.broken = True


def sinks(*, streams: bool = True) -> tuple[TranslatingSink, Kept]:
    kept = Kept()
    sink = TranslatingSink(kept, anthropic_errors.error)
    sink.translate(MessageTranslation(id="msg_1", model="m", streams=streams, thinking=True, stops=()))
    return sink, kept


def event(**value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def said(finish: str | None = None, **delta: Any) -> bytes:
    more = FIGURES if finish else {}
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}], **more)


CALL = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
STREAM = b"".join(
    [
        b": \xe2\x8f\xb3 Loading model... 1s / 180s\n\n",
        said(reasoning_content="hm"),
        b": ping\r\n\r\n",
        said(content="é ⁣"),
        said(tool_calls=[CALL]).replace(b"\n", b"\r\n"),
        said("tool_calls"),
        b"data: [DONE]\n\n",
    ]
)


def names(body: bytes) -> list[str]:
    return [line.removeprefix("event: ") for line in body.decode().splitlines() if line.startswith("event: ")]


def streamed(*pieces: bytes) -> Kept:
    sink, kept = sinks()
    sink.head(200, [SSE, (b"x-request-id", b"1")], None)
    for piece in pieces:
        sink.data(piece)
    sink.end()
    return kept


def test_a_stream_is_the_same_wherever_it_is_split() -> None:
    once = streamed(STREAM)
    assert once.ended
    assert once.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert once.headers[b"x-request-id"] == b"1"
    assert names(once.body)[:3] == ["message_start", "ping", "content_block_start"]
    assert names(once.body)[-2:] == ["message_delta", "message_stop"]
    for at in range(1, len(STREAM)):
        assert streamed(STREAM[:at], STREAM[at:]).body == once.body, at
    assert streamed(*[STREAM[at : at + 1] for at in range(len(STREAM))]).body == once.body


def test_nothing_follows_an_error_event() -> None:
    kept = streamed(said(content="x"), event(error={"message": "died", "code": "upstream_lost"}), b"data: [DONE]\n\n")
    assert names(kept.body)[-1] == "error"
    assert kept.ended


def test_a_chunk_that_cannot_be_read_is_an_error_event() -> None:
    kept = streamed(b"data: {oops\n\n", said(content="x"))
    assert names(kept.body) == ["message_start", "error"]


def test_a_server_that_does_not_stream_is_made_to() -> None:
    sink, kept = sinks()
    body = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], **FIGURES}
    sink.reply(200, [JSON], json.dumps(body).encode())
    assert kept.headers[b"content-type"].startswith(b"text/event-stream")
    assert names(kept.body)[-1] == "message_stop"
    assert b'"text":"hi"' in kept.body


def test_a_reply_that_comes_in_pieces_is_translated_when_it_is_whole() -> None:
    sink, kept = sinks(streams=False)
    body = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], **FIGURES}).encode()
    sink.head(200, [JSON, (b"etag", b'"x"')], len(body))
    for at in range(len(body)):
        sink.data(body[at : at + 1])
        assert kept.status == 0
    sink.end()
    assert json.loads(kept.body)["content"] == [{"type": "text", "text": "hi"}]
    assert b"etag" not in kept.headers


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_that_is_none_is_a_bad_gateway(streams: bool) -> None:
    sink, kept = sinks(streams=streams)
    sink.reply(200, [JSON], b"<html>")
    assert (kept.status, json.loads(kept.body)["error"]["type"]) == (502, "api_error")


def test_an_error_of_the_router_keeps_its_status_and_when_to_try_again() -> None:
    sink, kept = sinks()
    sink.reply(*render(LoadFailed("cannot load m: CUDA out of memory", retry_after_s=2)))
    assert (kept.status, kept.headers[b"retry-after"]) == (503, b"2")
    assert json.loads(kept.body)["error"] == {
        "type": "overloaded_error",
        "message": "cannot load m: CUDA out of memory",
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "as it is", "type": "invalid_request_error", "code": 400}}',
        b'{"object": "error", "message": "as it is", "code": 400}',
        b'{"detail": "as it is"}',
        b"as it is",
    ],
)
def test_an_error_of_a_server_keeps_its_words_whatever_its_shape(body: bytes) -> None:
    kept = Kept()
    sink = TranslatingSink(kept, ollama_reply.error)
    sink.head(400, [JSON], len(body))
    sink.data(body)
    sink.end()
    assert kept.status == 400
    assert "as it is" in json.loads(kept.body)["error"]


def test_a_reply_that_breaks_off_breaks_off() -> None:
    sink, kept = sinks(streams=False)
    sink.head(200, [JSON], 100)
    sink.data(b"{")
    sink.abort()
    assert (kept.broken, kept.ended) == (True, False)
