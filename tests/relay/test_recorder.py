"""Each request is recorded once, when it is over, with how it ended and what it cost."""

from __future__ import annotations

import asyncio

import pytest
from test_replies import DONE, FINISH, JSON_HEAD, SSE_HEAD, TOKEN, USAGE, ok
from wire import LIMIT, Bench, Ended, chunked, read_request, reply

from llm_router.errors import NoRoom
from llm_router.relay.request import Kind

COUNTED = (
    b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}'
)
STREAM = [SSE_HEAD, *chunked(TOKEN % b"one", TOKEN % b"two", FINISH, USAGE, DONE), b"0\r\n\r\n"]


async def only(bench: Bench) -> Ended:
    async with asyncio.timeout(5):
        await bench.recorder.heard.wait()
    [ended] = bench.recorder.ended_requests
    return ended


async def test_an_answer_in_one_piece_has_its_tokens_and_times(bench: Bench) -> None:
    bench.upstream.script = reply(ok(COUNTED))
    client = await bench.client()
    client.chat()
    await client.answer()
    ended = await only(bench)
    assert (ended.model, ended.kind, ended.outcome) == ("m", Kind.CHAT, "completed")
    assert (ended.prompt_n, ended.completion_n, ended.first_at, ended.rate) == (7, 5, 0.0, 0.0)
    assert 0 < ended.since <= ended.sent_at < ended.now


async def test_its_client_and_its_server_are_known(bench: Bench) -> None:
    bench.upstream.script = reply(ok(COUNTED))
    client = await bench.client()
    client.chat(headers="traceparent: 00-1-2-01\r\n")
    await client.answer()
    ended = await only(bench)
    assert ended.client.fields[b"traceparent"] == b"00-1-2-01"
    assert ended.upstream is not None
    assert ended.upstream.model == "m"


async def test_what_was_refused_before_it_was_here_took_no_time(bench: Bench) -> None:
    client = await bench.client()
    client.post("/v1/chat/completions", b"x" * (LIMIT + 1))
    await client.answer()
    ended = await only(bench)
    assert (ended.outcome, ended.upstream) == ("request_too_large", None)
    assert ended.since == ended.now


async def test_the_tokens_of_an_answer_that_is_rewritten_are_counted_too(bench: Bench) -> None:
    bench.upstream.script = reply(ok(COUNTED))
    client = await bench.client()
    client.chat(headers="x-llm-router-performance: always\r\n")
    await client.answer()
    ended = await only(bench)
    assert (ended.prompt_n, ended.completion_n) == (7, 5)


async def test_a_stream_has_its_first_token_and_its_speed(bench: Bench) -> None:
    bench.upstream.script = reply(*STREAM)
    client = await bench.client()
    client.chat(stream=True)
    await client.answer()
    ended = await only(bench)
    assert (ended.outcome, ended.prompt_n, ended.completion_n) == ("completed", 1, 2)
    assert ended.sent_at < ended.first_at < ended.now
    assert ended.rate > 0


async def test_a_client_that_leaves_a_stream_is_recorded_with_what_it_had(bench: Bench) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"".join([SSE_HEAD, *chunked(TOKEN % b"one", TOKEN % b"two")]))
        await reader.read()

    bench.upstream.script = endless
    client = await bench.client()
    client.chat(stream=True)
    await client.reader.readuntil(b"two")
    client.close()
    ended = await only(bench)
    assert (ended.outcome, ended.completion_n) == ("cancelled", 2)


async def test_what_was_refused_was_never_sent(bench: Bench) -> None:
    bench.dispatcher.hold = True
    client = await bench.client()
    client.chat()
    await bench.dispatcher.until(lambda: bool(bench.dispatcher.waiting))
    bench.dispatcher.refuse(1, NoRoom("cannot load it"))
    await client.answer()
    ended = await only(bench)
    assert (ended.outcome, ended.sent_at) == ("no_room", 0.0)


async def test_a_request_that_names_no_model_there_is_has_none(bench: Bench) -> None:
    client = await bench.client()
    client.post("/v1/chat/completions", b'{"model":"other","messages":[]}')
    await client.answer()
    ended = await only(bench)
    assert (ended.model, ended.outcome) == ("", "model_not_found")


@pytest.mark.parametrize(("status", "outcome"), [(400, "server_refused"), (503, "upstream_error")])
async def test_an_error_of_the_server_says_whose_fault_it_was(bench: Bench, status: int, outcome: str) -> None:
    bench.upstream.script = reply(ok(b'{"error":{"message":"no"}}', b"HTTP/1.1 %d x\r\n" % status))
    client = await bench.client()
    client.chat()
    await client.answer()
    assert (await only(bench)).outcome == outcome


async def test_a_second_attempt_is_a_replay_and_one_request(bench: Bench) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if bench.upstream.connections > 1:
            writer.write(ok(COUNTED, JSON_HEAD))
            await writer.drain()

    bench.upstream.script = once
    client = await bench.client()
    client.chat()
    await client.answer()
    assert (await only(bench)).outcome == "completed"
    assert bench.recorder.replays == ["m"]


async def test_a_server_that_dies_in_mid_stream_is_lost(bench: Bench) -> None:
    bench.upstream.script = reply(SSE_HEAD, *chunked(TOKEN % b"one"), then="reset")
    client = await bench.client()
    client.chat(stream=True)
    await client.answer()
    assert (await only(bench)).outcome == "upstream_lost"
