"""A head that is known by its bytes means what llhttp read the first time, and nothing else passes for it."""

from __future__ import annotations

import asyncio

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_replies import DONE, FINISH, JSON_HEAD, OK_JSON, SSE_HEAD, TOKEN, ok
from wire import Bench, Client, chunked, read_request, reply

from llm_router.relay.heads import KnownHead, learn

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"
BODY = b'{"model":"m"}'
USUAL = HEAD % len(BODY) + BODY


class _Read:
    """What llhttp makes of a piece: the whole messages in it, and whether more is awaited."""

    def __init__(self, data: bytes) -> None:
        self.messages: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, str, bool]] = []
        self.is_open = False
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.is_open = True

    def on_message_begin(self) -> None:
        self.is_open, self.url, self.body = True, b"", b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, b"" if name.lower() == b"content-length" else value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_open = False
        version, alive = self.parser.get_http_version(), self.parser.should_keep_alive()
        self.messages.append((self.parser.get_method(), self.url, self.headers, self.body, version, alive))


def known() -> KnownHead:
    found = learn(USUAL)
    assert found is not None
    return found


def test_the_same_head_with_any_body_is_known() -> None:
    for body in (b"", BODY, b"x" * 5000, b"\r\n\r\n"):
        assert known().body(HEAD % len(body) + body) == body


@pytest.mark.parametrize(
    "data",
    [
        USUAL + b"x",
        USUAL + USUAL,
        USUAL[:-1],
        USUAL[:60],
        b"\r\n" + USUAL,
        USUAL.replace(b"13", b"+13"),
        USUAL.replace(b"13", b" 13"),
        USUAL.replace(b"13", b"1_3"),
        USUAL.replace(b"13", b"0xd"),
        USUAL.replace(b"13", b"-13"),
        USUAL.replace(b"13", b""),
        USUAL.replace(b"13", "١٣".encode()),
        USUAL.replace(b"13", b"9" * 40),
        USUAL.replace(b"13", b"13, 13"),
        USUAL.replace(b"13\r\n", b"13\n"),
        USUAL.replace(b"Content-Length", b"content-length"),
        USUAL.replace(b"Accept: */*", b"Accept:  */*"),
        USUAL.replace(b"Accept: */*", b"Transfer-Encoding: chunked"),
        USUAL.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_what_differs_in_more_than_the_length_is_not(data: bytes) -> None:
    assert known().body(data) is None


@given(st.integers(0, len(USUAL) - 1), st.binary(max_size=4), st.integers(0, 3))
def test_whatever_is_known_llhttp_reads_alike(at: int, inserted: bytes, removed: int) -> None:
    changed = USUAL[:at] + inserted + USUAL[at + removed :]
    body = known().body(changed)
    if body is None:
        return
    read, usual = _Read(changed), _Read(USUAL)
    assert not read.is_open
    ((method, url, headers, read_body, *framing),) = read.messages
    assert read_body == body
    assert (method, url, headers, *framing) == (*usual.messages[0][:3], *usual.messages[0][4:])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        USUAL[:-1],
        USUAL + b"x",
        USUAL.replace(b"Accept: */*", b"Content-Length: 13"),
        USUAL.replace(b"Accept: */*", b"content-length : 13"),
        USUAL.replace(b"Content-Length: 13\r\n", b""),
        USUAL.replace(b"13", b"13 "),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_only_a_plain_length_is_learned(data: bytes) -> None:
    assert learn(data) is None


# -- on connections that have learned


@pytest.fixture
def limit() -> int:
    return 10_000  # so that a body beyond it comes in one piece


async def usual_requests(bench: Bench, client: Client) -> None:
    """Twice is enough to be known; the third one is."""
    for _ in range(3):
        client.writer.write(USUAL)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, OK_JSON)


def request(body: bytes = BODY, **replaced: str) -> bytes:
    data = HEAD % len(body) + body
    for old, new in replaced.items():
        data = data.replace({"name": b"Accept", "value": b"*/*", "version": b"HTTP/1.1"}[old], new.encode())
    return data


@pytest.mark.parametrize(
    "data",
    [
        request(b""),
        request(b"not json"),
        request(b'{"model":"nope"}'),
        request(b'{"model":"m","pad":"' + b"x" * 5000 + b'"}'),
        request(b'{"model":"m","pad":"' + b"x" * 20_000 + b'"}'),
        request(name="Content-Type", value="text/plain"),
        request(name="Transfer-Encoding", value="chunked"),
        request(name="Content-Length", value="13"),
        request(name="Content-Length", value="14"),
        request(name="Connection", value="close"),
        request(version="HTTP/1.0"),
        request(version="HTTP/3.0"),
        request(name="Bad Name"),
        request(value="a\x00b"),
        request().replace(b"/v1/chat/completions", b"/v1/nothing"),
        request().replace(b"13", b"0013"),
        request().replace(b"13", b"+13"),
        request().replace(b"13", b"1x"),
        b"GET / HTTP/1.1\r\nhost: router\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_an_odd_request_is_answered_as_on_a_fresh_connection(bench: Bench, data: bytes) -> None:
    bench.upstream.script = reply(ok())
    fresh, used = await bench.client(), await bench.client()
    await usual_requests(bench, used)
    answers = []
    for client in (fresh, used):
        client.writer.write(data)
        answer = await client.answer()
        headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
        answers.append((answer.status, answer.body, headers))
    assert answers[0] == answers[1]
    if "connection" not in answers[0][2]:
        for client in (fresh, used):
            client.writer.write(USUAL)
            assert (await client.answer()).body == OK_JSON


@pytest.mark.parametrize("at", [1, 30, len(USUAL) - len(BODY), len(USUAL) - 1])
async def test_a_known_request_may_come_in_pieces(bench: Bench, at: int) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    await usual_requests(bench, client)
    for _ in range(2):
        client.writer.write(USUAL[:at])
        await asyncio.sleep(0.01)  # so that the pieces arrive apart
        client.writer.write(USUAL[at:])
        assert (await client.answer()).body == OK_JSON
    await usual_requests(bench, client)


async def test_known_requests_may_be_pipelined(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    for count in (1, 2, 1, 3):
        await usual_requests(bench, client)
        client.writer.write(USUAL * count)
        for _ in range(count):
            assert (await client.answer()).body == OK_JSON


async def test_a_known_request_that_comes_before_the_last_is_answered_waits(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    await usual_requests(bench, client)
    bench.dispatcher.hold = True
    opened = bench.dispatcher.opened
    client.writer.write(USUAL)
    await bench.dispatcher.until(lambda: bench.dispatcher.opened == opened + 1)
    client.writer.write(USUAL)
    await asyncio.sleep(0.01)  # so that it arrives
    assert bench.dispatcher.opened == opened + 1
    bench.dispatcher.hold = False
    bench.dispatcher.grant(opened + 1)
    for _ in range(2):
        assert (await client.answer()).body == OK_JSON


@pytest.mark.parametrize(
    "odd",
    [
        [ok() + b"HTTP/1.1 200 OK\r\nx-evil: 1\r\ncontent-length: 4\r\n\r\nevil"],
        [ok()[:40], ok()[40:]],
        [ok(b'{"choices":[]}')],
        [ok(head=b"HTTP/1.1 429 Slow\r\ncontent-type: application/json\r\n")],
        [ok(head=JSON_HEAD + b"x-new: 1\r\n")],
        [ok(head=JSON_HEAD + b"connection: close\r\n")],
        [b"HTTP/1.1 103 Hints\r\nlink: </x>\r\n\r\n" + ok()],
        [b"HTTP/1.1 103 Hints\r\ncontent-length: %d\r\n\r\n" % len(ok()) + ok()],
        [JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n", *chunked(OK_JSON), b"0\r\n\r\n"],
        [SSE_HEAD, *chunked(TOKEN % b"x", FINISH, DONE), b"0\r\n\r\n"],
        [ok().replace(b"%d\r\n" % len(OK_JSON), b"x\r\n")],
        [b"HTTP/1.1 204 No Content\r\n\r\n"],
    ],
)
async def test_an_odd_reply_is_passed_on_as_on_a_fresh_connection(bench: Bench, odd: list[bytes]) -> None:
    async def usual_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = await read_request(reader)
            for piece in odd if b"odd" in asked else [ok()]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.002)  # so that the pieces arrive apart

    bench.upstream.script = usual_first
    answers = []
    for times in (0, 3):
        bench.upstream.connections = 0
        client = await bench.client()
        for _ in range(times):
            client.chat()
            assert (await client.answer()).body == OK_JSON
        for _ in range(3):
            client.chat(user="odd")
            answer = await client.answer()
            answers.append((answer.status, answer.body.partition(b'"timings"')[0], answer.headers.keys()))
        client.chat()
        assert (await client.answer()).body == OK_JSON
    assert all(answer == answers[0] for answer in answers)
