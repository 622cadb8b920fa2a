"""A server that dies before its first token is asked once more, and no client can tell."""

from __future__ import annotations

import asyncio
import json

import pytest
from test_replies import DONE, FINISH, JSON_HEAD, OK_JSON, SSE_HEAD, TOKEN, USAGE, contents, ok
from wire import Bench, chunked, read_request

ROLE = (
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    b'"finish_reason":null}]}\n\n'
)
PROGRESS = ROLE.replace(b'{"object"', b'{"prompt_progress":{"total":10},"object"')
WHOLE = [SSE_HEAD, *chunked(ROLE, TOKEN % b"one", TOKEN % b"two", FINISH, USAGE, DONE), b"0\r\n\r\n"]
NEVER = "x-llm-router-performance: never\r\n"


def dying(bench: Bench, *pieces: bytes, times: int = 1, whole: list[bytes] = WHOLE) -> None:
    """The server breaks off after these pieces, so many times; then it answers."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces if bench.upstream.connections <= times else whole:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)  # so that the pieces arrive apart

    bench.upstream.script = script


def said_once(body: bytes) -> None:
    assert contents(body) == "onetwo"
    assert body.count(b'"role"') == body.count(b'"usage":{') == body.count(b"[DONE]") == 1
    assert b'"error"' not in body


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [SSE_HEAD[:20]],
        [SSE_HEAD],
        [SSE_HEAD, *chunked(b": ping\n\n")],
        [SSE_HEAD, *chunked(ROLE)],
        [SSE_HEAD, *chunked(b": ping\n\n" + ROLE + b": ping\n\n")],
        [SSE_HEAD, *chunked(ROLE, (TOKEN % b"one")[:60])],
        [SSE_HEAD, *chunked(ROLE), b"0\r\n\r\n"],
        [SSE_HEAD, b"0\r\n\r\n"],
        [JSON_HEAD + b"content-length: 500\r\n\r\n" + OK_JSON[:40]],
        [ok(b"Internal Server Error", b"HTTP/1.1 500 Oh\r\ncontent-type: text/plain\r\n")],
    ],
    ids=[
        "nothing", "half-a-head", "head", "comment", "role", "comments-and-role", "half-a-token", "role-and-a-neat-end",
        "a-neat-end", "half-a-json", "a-bare-500",
    ],
)  # fmt: skip
async def test_nobody_sees_a_death_before_the_first_token(bench: Bench, pieces: list[bytes]) -> None:
    dying(bench, *pieces)
    client = await bench.client()
    client.chat(stream=True, headers=NEVER)
    answer = await client.answer()
    assert (answer.status, answer.complete) == (200, True)
    said_once(answer.body)
    assert bench.dispatcher.closed == [(1, True), (2, False)]


@pytest.mark.parametrize("piece", [TOKEN % b"one", PROGRESS, FINISH + DONE])
async def test_what_has_reached_the_client_is_never_repeated(bench: Bench, piece: bytes) -> None:
    dying(bench, SSE_HEAD, *chunked(ROLE + piece))
    client = await bench.client()
    client.chat(stream=True, headers=NEVER)
    answer = await client.answer()
    assert bench.upstream.connections == 1
    assert (b'"upstream_lost"' in answer.body) is (piece != FINISH + DONE)
    assert answer.body.endswith(DONE)


async def test_a_second_death_is_told(bench: Bench) -> None:
    dying(bench, SSE_HEAD, *chunked(ROLE), times=2)
    client = await bench.client()
    client.chat(stream=True)
    answer = await client.answer()
    assert json.loads(answer.body.decode().split("data: ")[-2])["error"]["code"] == "upstream_lost"
    assert answer.body.endswith(DONE)
    assert bench.dispatcher.closed == [(1, True), (2, True)]


@pytest.mark.parametrize("mode", ["content", "event", "reasoning", "comment", "off"])
async def test_a_status_that_was_shown_ends_once(bench: Bench, mode: str) -> None:
    bench.dispatcher.hold = True
    dying(bench, SSE_HEAD, *chunked(ROLE))
    client = await bench.client()
    client.chat(stream=True, headers=f"x-llm-router-status: {mode}\r\n{NEVER}")
    await bench.dispatcher.until(lambda: 1 in bench.dispatcher.waiting)
    bench.dispatcher.hold = False
    bench.dispatcher.grant(1)
    answer = await client.answer()
    text = answer.body.decode()
    assert contents(answer.body).endswith("onetwo")
    assert text.count("Loading model") == text.count("Model ready") == (mode != "off")
    assert bench.dispatcher.closed == [(1, True), (2, False)]


async def test_a_restart_is_shown_to_whoever_waits_for_it(bench: Bench) -> None:
    dying(bench, SSE_HEAD, *chunked(ROLE))
    answers = bench.upstream.script

    async def dies_and_must_be_restarted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bench.dispatcher.hold = True
        await answers(reader, writer)

    bench.upstream.script = dies_and_must_be_restarted
    client = await bench.client()
    client.chat(stream=True, headers=NEVER)
    await client.head()
    await bench.dispatcher.until(lambda: 2 in bench.dispatcher.waiting)
    bench.dispatcher.grant(2)
    body = await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 5)
    text = body.decode()
    assert text.count("Loading model") == text.count("Model ready") == 1
    assert text.index("Loading model") < text.index("Model ready") < text.index("one")


async def test_a_whole_answer_is_asked_for_again_too(bench: Bench) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
        bench.upstream.connections = 0
        dying(bench, JSON_HEAD + b"content-length: 500\r\n", whole=[ok()])
        client = await bench.client()
        client.post(path, b'{"model":"m"}')
        assert (await client.answer()).body == OK_JSON
