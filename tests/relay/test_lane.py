"""What goes by the express lane is what would have come out of the long way, to the byte."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_replies import DONE, FINISH, SSE_HEAD, TOKEN
from wire import Bench, Client, chunked, read_request

from llm_router.errors import LlmRouterError
from llm_router.relay.connection import Call, Connection
from llm_router.relay.headers import ReplyHead
from llm_router.relay.lane import Lane, framed, is_whole, lane
from llm_router.relay.lease import Upstream
from llm_router.relay.sse import StreamRewriter
from llm_router.relay.template import Template, learn

UPSTREAM = Upstream(model="m", instance=1, host="127.0.0.1", port=1, host_header=b"127.0.0.1:1")


class Counted:
    count = 0


def template(*, changed: bool = False) -> Template:
    found = learn(TOKEN % b"x", (lambda event: event.replace(b'"object"', b'"thing"')) if changed else None)
    assert found is not None
    return found


TEXTS = st.lists(st.sampled_from([b"a", b"\\", b'"', b"\n", b"\r", b"\\n", b'\\"', b"\xc3\xa4", b"x" * 300])).map(
    b"".join
)


@given(TEXTS, st.booleans())
def test_it_takes_what_the_template_takes_and_writes_what_that_makes_of_it(text: bytes, changed: bool) -> None:
    known, counted, written = template(changed=changed), Counted(), list[bytes]()
    take = lane(known, counted, written.append)
    made = known.apply(TOKEN % text)
    assert take(framed(TOKEN % text)) == (made is not None)
    assert written == ([] if made is None else [framed(made)])
    assert counted.count == len(written)


WHOLE = framed(TOKEN % b"hello")


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        WHOLE[:-1],
        WHOLE[1:],
        WHOLE + WHOLE,
        WHOLE + b"0\r\n\r\n",
        b"0" + WHOLE,
        b"\r\n" + WHOLE[:-2],
        WHOLE[:2].upper() + WHOLE[2:] if WHOLE[:2].upper() != WHOLE[:2] else WHOLE.replace(b"\r\n", b";x\r\n", 1),
        WHOLE.replace(b"\r\n", b"\n"),
        WHOLE[:-2] + b"\n\n",
        framed(TOKEN % b"")[:-2],
        framed(TOKEN % b""),
        framed(TOKEN % b"hello" + TOKEN % b"hello"),
        framed(b": comment\n\n"),
        framed(FINISH),
        TOKEN % b"hello",
        b"x" * 100_000,
    ],
)
def test_it_takes_nothing_but_one_whole_chunk(piece: bytes) -> None:
    counted, written = Counted(), list[bytes]()
    assert not lane(template(), counted, written.append)(piece)
    assert (counted.count, written) == (0, [])


@pytest.mark.parametrize("beginning", [b"\n", b"-"])
def test_a_length_that_no_chunk_has_is_not_taken_for_one(beginning: bytes) -> None:
    # The longest chunk whose size has two digits is 261 bytes long, and the shortest with three 263.
    around = len(beginning) + len(TOKEN % b"") + 2
    piece = beginning + TOKEN % (b"x" * (262 - around)) + b"\r\n"
    assert not lane(template(), Counted(), list[bytes]().append)(piece)


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=8), st.binary(max_size=8))
def test_a_piece_is_whole_if_its_frame_and_body_are_all_of_it(body: bytes, before: bytes, after: bytes) -> None:
    assert is_whole(framed(body), body)
    assert is_whole(before + framed(body) + after, body) == (not before and not after)


class Relayed:
    """Receives a reply as `Exchange` does, and writes chunks."""

    def __init__(self) -> None:
        self.rewriter = StreamRewriter(chat=True, include_usage=True, performance=False, sent_at=0.0)
        self.written: list[bytes] = []
        self.by_lane = 0

    def reply_head(self, status: int, head: ReplyHead, length: int | None) -> None:
        assert status == 200

    def reply_data(self, data: bytes) -> bool:
        known = self.rewriter.quickly(data)
        if known is not None:
            self.rewriter.count += 1
            self.written.append(known)
            return True
        out = self.rewriter.feed(data, 1.0)
        if out:
            self.written.append(out)
        return not self.rewriter.silent

    def reply_lane(self) -> Lane | None:
        return self.rewriter.lane(self._write)

    def _write(self, chunk: bytes) -> None:
        head, _, rest = chunk.partition(b"\r\n")
        assert rest.endswith(b"\r\n")
        assert len(rest) - 2 == int(head, 16)
        self.written.append(rest[:-2])
        self.by_lane += 1

    def reply_late(self) -> None:
        raise AssertionError

    def reply_end(self) -> None:
        self.written.append(self.rewriter.finish(2.0))

    def reply_lost(self, error: LlmRouterError) -> None:
        self.written.append(error.message.encode())


class Wire(asyncio.Transport):
    """Takes all, and closes when it is told to."""

    closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Connections:
    """A pool of nothing."""

    def opened(self, connection: object) -> None: ...

    def idle(self, connection: object) -> None: ...


def begun(reply: Relayed, lanes: int) -> tuple[Connection, Wire]:
    """A connection on which a stream has begun."""
    wire = Wire()
    connection = Connection(Connections(), UPSTREAM)
    connection.connection_made(wire)
    connection.begin(Call(UPSTREAM, b"", reply, without_body=False))
    connection._lanes = lanes
    connection.data_received(SSE_HEAD)
    return connection, wire


def pass_by(connection: Connection, seconds: range, *, timeout_s: float = 5.0) -> None:
    """What the pool's sweep does in this time."""
    for second in seconds:
        connection.expire(float(second), timeout_s=timeout_s, late_s=100.0)


def relayed(pieces: list[bytes], lanes: int) -> Relayed:
    """What becomes of a reply that comes in these pieces."""
    reply = Relayed()
    connection, wire = begun(reply, lanes)
    for piece in pieces:
        if not wire.closed and connection._call is not None:
            connection.data_received(piece)
    return reply


# A chunk within a chunk, in pieces that look like whole ones.
_TRAP = [b"%x\r\n" % len(WHOLE * 2), WHOLE, WHOLE, b"\r\n"]
_COMMENTS = b": ping\n\n"
CHUNKS = st.one_of(
    st.sampled_from([b"a", b"bc", b"\\n", b'\\"x', b"x" * 250]).map(lambda text: [framed(TOKEN % text)]),
    st.sampled_from([[framed(_COMMENTS)], _TRAP, [framed(TOKEN % b"a" + TOKEN % b"b")], [framed(FINISH)], [b"zz\r\n"]]),
    st.tuples(st.sampled_from([b"a", b"bc"]), st.integers(1, 60)).map(
        lambda both: [framed(TOKEN % both[0])[: both[1]], framed(TOKEN % both[0])[both[1] :]]
    ),
)


@given(st.lists(CHUNKS, max_size=30), st.lists(st.integers(0, 40), max_size=3))
def test_a_stream_is_the_same_with_it_and_without(chunks: list[list[bytes]], joints: list[int]) -> None:
    pieces = [piece for chunk in chunks for piece in chunk] + [framed(DONE), b"0\r\n\r\n"]
    for joint in joints:  # some come together with the next
        if joint + 1 < len(pieces):
            pieces[joint : joint + 2] = [pieces[joint] + pieces[joint + 1]]
    fast, slow = relayed(pieces, lanes=8), relayed(pieces, lanes=0)
    assert b"".join(fast.written) == b"".join(slow.written)
    assert fast.rewriter.count == slow.rewriter.count
    assert slow.by_lane == 0


def test_tokens_take_it_from_the_second_on() -> None:
    pieces = [framed(TOKEN % b"a")] * 10 + [framed(FINISH), framed(DONE), b"0\r\n\r\n"]
    assert relayed(pieces, lanes=8).by_lane == 9


def test_a_stream_that_looks_different_each_time_is_given_up() -> None:
    pieces = [piece for _ in range(20) for piece in (framed(TOKEN % b"a"), framed(TOKEN % b"a"), framed(_COMMENTS))]
    assert relayed(pieces, lanes=3).by_lane == 3


@pytest.mark.parametrize("lanes", [8, 0])
@pytest.mark.parametrize(("piece", "lives"), [(framed(TOKEN % b"a"), True), (framed(_COMMENTS), False)])
def test_each_token_is_a_sign_of_life_and_a_comment_is_none(piece: bytes, lives: bool, lanes: int) -> None:
    reply = Relayed()
    connection, wire = begun(reply, lanes)
    connection.data_received(framed(TOKEN % b"a"))
    for second in range(20):
        if not wire.closed:
            connection.data_received(piece)
        pass_by(connection, range(second, second + 1))
    assert wire.closed is not lives
    assert reply.by_lane == (20 if lives and lanes else 0)
    # And silence is one, whatever came before it.
    pass_by(connection, range(20, 30))
    assert wire.closed


async def test_a_client_that_leaves_is_heeded_in_it(bench: Bench) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SSE_HEAD)
        while True:
            for piece in chunked(TOKEN % (b"x" * 1000)):
                writer.write(piece)
            await writer.drain()

    bench.upstream.script = endless
    client: Client = await bench.client()
    client.chat(stream=True)
    await client.reader.readuntil(b"xxxx")
    client.writer.transport.abort()
    await bench.dispatcher.until(lambda: bench.dispatcher.closed == [(1, False)])
    await asyncio.wait_for(bench.upstream.gone.wait(), 5)
