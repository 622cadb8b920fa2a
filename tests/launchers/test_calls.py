"""Small questions to a server, and the event stream of a load, however its bytes are cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from llm_router.backends.base import Address, Facts, HttpCall, Inquiry
from llm_router.errors import LaunchError
from llm_router.launchers import calls

GET = HttpCall(method="GET", path="/facts", limit_s=5.0)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = (
    b'data: {"module":1}\r\n\r\n: ping - now\r\n\r\ndata:{"say":"a\xe2\x80\xa8b"}\n\nevent: x\r\n\r\ndata: last\r\n\r\n'
)
TOLD = ['{"module":1}', '{"say":"a\u2028b"}', "last"]


@asynccontextmanager
async def answering(*pieces: bytes, hold: bool = False) -> AsyncIterator[tuple[Address, list[bytes]]]:
    """A server that answers in these pieces, and the requests that it got. `hold`: then it says no more."""
    heard: list[bytes] = []
    closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        with contextlib.suppress(ConnectionError):  # who asked may leave before the end
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if hold:
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1], base_path="/base"), heard
        async with asyncio.timeout(5):
            await closed.wait()


def chunked(*parts: bytes) -> list[bytes]:
    return [f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts if part]


def whole(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def listened(pieces: Sequence[bytes]) -> list[str]:
    told: list[str] = []
    async with asyncio.timeout(5), answering(*pieces) as (address, _):
        assert (await calls.listen(address, GET, told.append)).status == 200
    return told


async def test_events_may_be_cut_anywhere() -> None:
    for cut in range(len(EVENTS)):
        assert await listened([HEAD, *chunked(EVENTS[:cut], EVENTS[cut:]), b"0\r\n\r\n"]) == TOLD, cut


async def test_events_may_come_a_byte_at_a_time() -> None:
    single = [EVENTS[at : at + 1] for at in range(len(EVENTS))]
    assert await listened([HEAD, *chunked(*single), b"0\r\n\r\n"]) == TOLD


async def test_a_last_line_needs_no_end() -> None:
    assert await listened([HEAD, *chunked(b"data: x"), b"0\r\n\r\n"]) == ["x"]


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    with pytest.raises(LaunchError, match=r"cannot ask 127\.0\.0\.1:\d+ for /facts: "):
        await listened([HEAD, *chunked(EVENTS)])


async def test_whoever_listens_may_end_it() -> None:
    def refuse(_: str) -> None:
        raise KeyError("enough")

    async with asyncio.timeout(5), answering(HEAD, *chunked(EVENTS), hold=True) as (address, _):
        with pytest.raises(KeyError):
            await calls.listen(address, GET, refuse)


async def test_a_line_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BODY_BYTES", 10)
    with pytest.raises(LaunchError, match="one of its lines has no end"):
        await listened([HEAD, *chunked(b"data: " + b"x" * 20), b"0\r\n\r\n"])


async def test_another_status_has_a_body_and_no_events() -> None:
    told: list[str] = []
    async with answering(whole(400, b"data: no")) as (address, _):
        answer = await calls.listen(address, GET, told.append)
    assert (answer.status, answer.body, told) == (400, b"data: no", [])


async def test_a_call_is_sent_as_it_is() -> None:
    call = HttpCall(method="POST", path="/load", body=b"{}", headers=(("Authorization", "Bearer k"),))
    async with answering(whole(200, b"yes")) as (address, heard):
        assert await calls.ask(address, call) == calls.Answer(status=200, body=b"yes")
    lines = heard[0].lower().split(b"\r\n")
    assert lines[0] == b"post /base/load http/1.1"
    assert {b"authorization: bearer k", b"content-length: 2"} < set(lines)


async def test_a_connection_that_is_closed_at_once_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(client: httpx.AsyncClient, request: httpx.Request, *, stream: bool) -> httpx.Response:
        raise AttributeError("'NoneType' object has no attribute 'getpeername'")  # as anyio does

    monkeypatch.setattr(httpx.AsyncClient, "send", send)
    with pytest.raises(LaunchError, match="closed as soon as it was open"):
        await calls.ask(Address(host="127.0.0.1", port=1), GET)


async def test_no_proxy_stands_between_us_and_our_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with answering(whole(200, b"yes")) as (address, _):
        assert (await calls.ask(address, GET)).body == b"yes"


async def test_a_body_is_read_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BODY_BYTES", 10)
    async with answering(whole(200, b"x" * 100_000)) as (address, _):
        assert (await calls.ask(address, GET)).body == b"x" * 10


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",), (b"SSH-2.0\r\n",)])
async def test_what_is_no_whole_answer_is_an_error(pieces: tuple[bytes, ...]) -> None:
    async with answering(*pieces) as (address, _):
        with pytest.raises(LaunchError, match="cannot ask"):
            await calls.ask(address, GET)


async def test_an_answer_that_does_not_come_is_an_error() -> None:
    call = HttpCall(method="GET", path="/facts", limit_s=0.05)
    async with answering(hold=True) as (address, _):
        with pytest.raises(LaunchError, match=r"no answer within 0\.05 s"):
            await calls.ask(address, call)


async def test_only_a_200_has_facts() -> None:
    inquiry = Inquiry(call=GET, read=lambda body: Facts(build=body.decode()))
    async with answering(whole(200, b"b1")) as (address, _):
        assert await calls.inquire(address, inquiry) == Facts(build="b1")
    async with answering(whole(404, b"b1")) as (address, _):
        assert await calls.inquire(address, inquiry) is None


def test_the_first_that_knows_something_wins() -> None:
    answers = [Facts(slots=0), Facts(slots=4, models=("a",)), Facts(models=("b",), build="1", context_length=8)]
    assert calls.merged(answers) == Facts(slots=0, models=("a",), build="1", context_length=8)
