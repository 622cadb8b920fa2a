"""What a server says instead of an answer reaches the client in OpenAI's shape, with the status it had."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from wire import Bench, read_request, reply

OVERFLOW = {"error": {"code": 400, "message": "too many tokens", "type": "exceed_context_size_error", "n_ctx": 8}}


def refused(status: int, body: Any, *, kind: str = "application/json", more: str = "") -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Odd\r\ncontent-type: {kind}\r\n{more}content-length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "code"),
    [
        (400, OVERFLOW, "application/json", "too many tokens", "context_length_exceeded"),
        (400, {"object": "error", "message": "bad", "code": 400}, "application/json", "bad", "upstream_error"),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "odd"}]}, "application/json", "n: odd", "upstream_error"),
        (503, {"detail": "generation failed"}, "application/json", "generation failed", "upstream_error"),
        (404, b"Not Found", "text/plain", "404: Not Found", "upstream_error"),
        (502, b"<html><title>Bad Gateway</title>", "text/html", "502: Bad Gateway", "upstream_error"),
    ],
)
async def test_every_envelope_becomes_one(
    bench: Bench, path: str, status: int, body: Any, kind: str, message: str, code: str
) -> None:
    bench.upstream.script = reply(refused(status, body, kind=kind, more="etag: 7\r\nx-request-id: r\r\nx-seen: r\r\n"))
    client = await bench.client()
    client.post(path, b'{"model":"m","stream":true}')
    answer = await client.answer()
    error: Any = answer.json()["error"]
    assert (answer.status, error["code"]) == (status, code)
    assert message in error["message"]
    assert error.keys() >= {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-seen"] == "r"
    assert "etag" not in answer.headers
    assert bench.dispatcher.closed == [(1, False)]


async def test_a_route_that_is_passed_through_keeps_the_servers_own_words(bench: Bench) -> None:
    for status in (401, 422, 500):
        bench.upstream.script = reply(refused(status, b"as it is", kind="text/plain"), then="close")
        client = await bench.client()
        client.post("/raw", b"{}")
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["content-type"]) == (status, b"as it is", "text/plain")


@pytest.mark.parametrize("body", [{"error": "Unauthorized"}, {"detail": "Invalid API key"}, b""])
async def test_a_key_that_the_server_refuses_is_not_the_clients(bench: Bench, body: Any) -> None:
    bench.upstream.script = reply(refused(401, body, more="www-authenticate: Bearer\r\n"))
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    error: Any = answer.json()["error"]
    assert (answer.status, error["code"]) == (502, "upstream_error")
    assert "api_key" in error["message"]
    assert "www-authenticate" not in answer.headers
    assert bench.dispatcher.closed == [(1, False)]


@pytest.mark.parametrize(("status", "said"), [(400, b"too many tokens"), (401, b"api_key"), (503, b"too many tokens")])
async def test_an_error_behind_a_status_stream_has_the_same_shape(bench: Bench, status: int, said: bytes) -> None:
    bench.dispatcher.hold = True
    bench.upstream.script = reply(refused(status, OVERFLOW))
    client = await bench.client()
    client.chat(stream=True)
    await client.head()
    bench.dispatcher.grant(1)
    rest = await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 5)
    assert said in rest
    last, done = [line for line in rest.split(b"\n") if line.startswith(b"data: ")][-2:]
    assert json.loads(last[6:])["error"].keys() >= {"message", "type", "param", "code"}
    assert done == b"data: [DONE]"


async def test_an_answer_in_one_piece_behind_a_status_stream_is_an_error(bench: Bench) -> None:
    bench.dispatcher.hold = True
    bench.upstream.script = reply(refused(200, {"choices": []}))
    client = await bench.client()
    client.chat(stream=True)
    await client.head()
    bench.dispatcher.grant(1)
    rest = await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 5)
    assert b'"error":{' in rest


async def test_an_endless_error_is_cut_and_its_connection_closed(bench: Bench) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    bench.upstream.script = endless
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert answer.status == 400
    assert len(answer.body) < 1000
    await asyncio.wait_for(bench.upstream.gone.wait(), 5)


async def test_a_crash_in_plain_text_is_checked_and_asked_once_more(bench: Bench) -> None:
    bench.upstream.script = reply(refused(500, b"Internal Server Error", kind="text/plain"))
    client = await bench.client()
    client.chat(stream=True)
    answer = await client.answer()
    error: Any = answer.json()["error"]
    assert (answer.status, error["code"]) == (500, "upstream_error")
    assert "Internal Server Error" in error["message"]
    assert bench.dispatcher.closed == [(1, True), (2, True)]


LAST_WORDS = {"error": {"message": "EngineCore encountered an issue. See above.", "type": "InternalServerError"}}


async def answered_at_the_second_attempt(bench: Bench, first: bytes, *, stream: bool) -> str:
    """What the client has of a server that says `first` once, and then answers."""
    assert bench.dispatcher.upstream is not None
    bench.dispatcher.upstream = replace(bench.dispatcher.upstream, last_words=("EngineCore encountered",))
    whole = refused(200, {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]})
    chunk = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
    second = sse(chunk) if stream else whole
    replies = iter((first, second))

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(next(replies))
        await writer.drain()
        writer.close()

    bench.upstream.script = script
    client = await bench.client()
    client.chat(stream=stream)
    answer = await client.answer()
    assert answer.status == 200
    return answer.body.decode()


def sse(*values: Any) -> bytes:
    lines = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values) + b"data: [DONE]\n\n"
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + lines


@pytest.mark.parametrize("stream", [False, True])
async def test_a_servers_last_words_get_it_checked_and_asked_once_more(bench: Bench, stream: bool) -> None:
    role = {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
    for first in (refused(500, LAST_WORDS), *((sse(LAST_WORDS), sse(role, LAST_WORDS)) if stream else ())):
        before = len(bench.dispatcher.closed)
        body = await answered_at_the_second_attempt(bench, first, stream=stream)
        assert '"hi"' in body
        assert "error" not in body
        assert [lost for _, lost in bench.dispatcher.closed[before:]] == [True, False]


async def test_a_servers_last_words_are_passed_on_where_it_has_begun_or_says_them_again(bench: Bench) -> None:
    assert bench.dispatcher.upstream is not None
    bench.dispatcher.upstream = replace(bench.dispatcher.upstream, last_words=("EngineCore encountered",))
    begun = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
    for said, attempts in (((begun, LAST_WORDS), 1), ((LAST_WORDS,), 2)):
        before = len(bench.dispatcher.closed)
        bench.upstream.script = reply(sse(*said), then="close")
        client = await bench.client()
        client.chat(stream=True)
        answer = await client.answer()
        assert b"EngineCore encountered an issue" in answer.body
        assert len(bench.dispatcher.closed) - before == attempts


async def test_a_failure_in_the_servers_own_words_is_checked_and_passed_on(bench: Bench) -> None:
    bench.upstream.script = reply(refused(500, {"error": {"message": "Connection error"}}))
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert (answer.status, answer.json()["error"]["message"]) == (500, "Connection error")  # type: ignore[index]
    assert bench.dispatcher.closed == [(1, True)]


# -- what a server must be asked for, and what it calls the model


async def _sent(bench: Bench, path: str, body: dict[str, object]) -> dict[str, object]:
    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bench.upstream.requests.append(await read_request(reader))
        writer.write(refused(200, {"model": "dir", "choices": []}))
        await writer.drain()

    bench.upstream.script = keep
    client = await bench.client()
    client.post(path, json.dumps(body).encode())
    await client.answer()
    found = json.loads(bench.upstream.requests[-1].partition(b"\r\n\r\n")[2])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_reply_in_one_piece_is_asked_for_usage_only_where_the_server_wants_it(bench: Bench, path: str) -> None:
    assert bench.dispatcher.upstream is not None
    assert "stream_options" not in await _sent(bench, path, {"model": "m"})
    assert (await _sent(bench, path, {"model": "m", "stream": True}))["stream_options"] == {"include_usage": True}
    bench.dispatcher.upstream = replace(bench.dispatcher.upstream, usage_on_request=True)
    assert (await _sent(bench, path, {"model": "m"}))["stream_options"] == {"include_usage": True}
    assert "stream_options" not in await _sent(bench, "/v1/embeddings", {"model": "m"})


async def test_the_client_hears_the_name_that_it_asked_for(bench: Bench) -> None:
    assert bench.dispatcher.upstream is not None
    bench.dispatcher.upstream = replace(bench.dispatcher.upstream, served_name="dir")
    for said, heard in (("dir", "m"), ("m", "m"), ("another", "another")):
        body = {"model": said, "choices": [{"index": 0, "message": {"content": "x"}}]}
        bench.upstream.script = reply(refused(200, body), then="close")
        client = await bench.client()
        client.chat()
        assert (await client.answer()).json()["model"] == heard
