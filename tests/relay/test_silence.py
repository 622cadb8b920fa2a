"""A server that has fallen silent is found out, whatever signs of life it gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from test_lane import UPSTREAM, Relayed, begun, pass_by
from test_replies import DONE, FINISH, SSE_HEAD, TOKEN, contents, ok
from wire import Bench, chunked, read_request

from llm_router.relay.connection import Call, Connection

PING = chunked(b": ping\n\n")[0]
NEVER = "x-llm-router-performance: never\r\n"


@pytest.fixture
def patience_s() -> float:
    return 0.6


async def pinging(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(PING)
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("is_pinging", [False, True])
@pytest.mark.parametrize("pieces", [[], chunked(TOKEN % b"one")], ids=["before-a-token", "in-mid-stream"])
async def test_a_stream_that_stalls_ends_with_an_error_and_its_server_is_checked(
    bench: Bench, pieces: list[bytes], is_pinging: bool
) -> None:
    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"".join([SSE_HEAD, *pieces]))
        if is_pinging:
            await pinging(writer)
        await reader.read()

    bench.upstream.script = stalls
    client = await bench.client()
    client.chat(stream=True, headers=NEVER)
    answer = await client.answer()
    assert contents(answer.body) == ("one" if pieces else "")
    assert json.loads(answer.body.decode().split("data: ")[-2])["error"]["code"] == "upstream_timeout"
    assert answer.body.endswith(DONE)
    assert bench.upstream.connections == 1, "a hang isn't repeated"
    assert bench.dispatcher.closed == [(1, True)]
    assert bench.dispatcher.suspected, "it was looked at before it was given up"
    assert set(bench.dispatcher.suspected) == {1}


async def test_a_server_that_is_late_is_looked_at_and_still_waited_for(bench: Bench) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await bench.dispatcher.until(lambda: len(bench.dispatcher.suspected) > 1)
        writer.write(ok())
        await writer.drain()
        await reader.read()

    bench.upstream.script = late
    client = await bench.client()
    client.chat()
    assert (await client.answer()).status == 200
    assert bench.dispatcher.closed == [(1, False)]


async def test_comments_between_tokens_are_no_reason_to_give_up(bench: Bench) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SSE_HEAD)
        async for piece in paced():
            writer.write(piece)
            await writer.drain()
        await reader.read()

    async def paced() -> AsyncIterator[bytes]:
        for _ in range(5):
            for _ in range(10):
                yield PING
                await asyncio.sleep(0.02)
            yield chunked(TOKEN % b"x")[0]
        for piece in chunked(FINISH, DONE):
            yield piece
        yield b"0\r\n\r\n"

    bench.upstream.script = slow
    client = await bench.client()
    client.chat(stream=True, headers=NEVER)
    answer = await client.answer()
    assert contents(answer.body) == "xxxxx"
    assert b'"error"' not in answer.body
    assert bench.dispatcher.closed == [(1, False)]


def ended(connection: Connection) -> None:
    connection.data_received(chunked(FINISH)[0] + chunked(DONE)[0] + b"0\r\n\r\n")


def test_what_was_quiet_before_a_request_is_no_silence_of_its_server() -> None:
    connection, wire = begun(Relayed(), lanes=8)
    ended(connection)
    pass_by(connection, range(20))  # kept for the next request
    connection.begin(Call(UPSTREAM, b"", Relayed(), without_body=False))
    pass_by(connection, range(20, 26))
    assert not wire.closed
    pass_by(connection, range(26, 27))
    assert wire.closed


def test_while_the_client_reads_slowly_its_server_is_not_silent() -> None:
    connection, wire = begun(Relayed(), lanes=8)
    pass_by(connection, range(1))
    connection.pause()
    pass_by(connection, range(1, 20))
    connection.resume()
    pass_by(connection, range(20, 26))
    assert not wire.closed
    pass_by(connection, range(26, 27))
    assert wire.closed


def test_a_connection_is_idle_from_the_end_of_its_reply_on() -> None:
    connection, wire = begun(Relayed(), lanes=8)
    ended(connection)
    for _ in range(2):  # the second time, the head of the reply is known
        connection.begin(Call(UPSTREAM, b"", Relayed(), without_body=False))
        pass_by(connection, range(1), timeout_s=100.0)
        connection.data_received(ok())
    pass_by(connection, range(25, 56), timeout_s=100.0)
    assert not wire.closed
    pass_by(connection, range(56, 57), timeout_s=100.0)
    assert wire.closed
