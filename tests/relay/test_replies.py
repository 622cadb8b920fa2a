"""Whatever an inference server answers, the client gets either the whole answer or a reply nobody takes for one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from wire import LIMIT, Bench, chunked, read_request, reply

from llm_router.errors import LoadFailed

OK_JSON = (
    b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},'
    b'"timings":{"predicted_n":2,"predicted_ms":10.0}}'
)
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = (
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}'
)
TOKEN += b"\n\n"
FINISH = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def ok(body: bytes = OK_JSON, head: bytes = JSON_HEAD) -> bytes:
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def contents(body: bytes) -> str:
    text = ""
    for line in body.decode().split("\n"):
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            for choice in event.get("choices", []):
                text += choice["delta"].get("content") or ""
    return text


async def test_a_json_reply_arrives_whole_and_the_lease_is_closed(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert (answer.status, answer.complete) == (200, True)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"  # type: ignore[index]
    await bench.dispatcher.until(lambda: bench.dispatcher.closed == [(1, False)])


async def test_many_requests_share_one_client_connection_and_one_upstream_connection(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    for _ in range(5):
        client.chat()
        assert (await client.answer()).status == 200
    assert bench.upstream.connections == 1


@pytest.mark.parametrize("at", [1, 12, len(JSON_HEAD), len(ok()) - 1])
async def test_a_head_split_over_packets_changes_nothing(bench: Bench, at: int) -> None:
    bench.upstream.script = reply(ok()[:at], ok()[at:])
    client = await bench.client()
    client.chat()
    assert (await client.answer()).body == OK_JSON


async def test_early_hints_before_the_reply_are_not_the_reply(bench: Bench) -> None:
    bench.upstream.script = reply(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + ok())
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, OK_JSON)
    assert "link" not in answer.headers


async def test_a_body_that_ends_with_the_connection_is_whole(bench: Bench) -> None:
    bench.upstream.script = reply(JSON_HEAD + b"\r\n" + OK_JSON, then="close")
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert (answer.body, answer.complete) == (OK_JSON, True)


async def test_chunks_with_trailers_are_reframed(bench: Bench) -> None:
    head = JSON_HEAD + b"transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
    bench.upstream.script = reply(head, *chunked(OK_JSON[:7], OK_JSON[7:]), b"0\r\nx-sum: 1\r\n\r\n")
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert (answer.body, answer.complete) == (OK_JSON, True)


async def test_a_204_has_no_body_and_no_end_to_wait_for(bench: Bench) -> None:
    bench.upstream.script = reply(b"HTTP/1.1 204 No Content\r\n\r\n")
    client = await bench.client()
    client.chat()
    status, headers = await client.head()
    assert status == 204
    assert "transfer-encoding" not in headers
    client.chat()
    assert (await client.head())[0] == 204, "the connection is ready for the next request"


async def test_an_error_status_passes_with_its_body_and_retry_after(bench: Bench) -> None:
    body = b'{"error":{"message":"slow down","type":"rate_limit","code":429}}'
    head = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 3\r\n"
    bench.upstream.script = reply(ok(body, head))
    client = await bench.client()
    client.chat(stream=True)
    answer = await client.answer()
    assert (answer.status, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["error"]["message"] == "slow down"  # type: ignore[index]


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"HTTP/1.1 101 Upgrade\r\n\r\n",
    ],
)
async def test_what_is_not_http_becomes_a_502(bench: Bench, garbage: bytes) -> None:
    bench.upstream.script = reply(garbage, then="close")
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert answer.status == 502
    assert answer.json()["error"]["code"] in ("upstream_garbage", "upstream_lost")  # type: ignore[index]


async def test_a_head_without_an_end_is_given_up(bench: Bench) -> None:
    bench.upstream.script = reply(b"HTTP/1.1 200 OK\r\n", *(b"x-%d: %b\r\n" % (i, b"y" * 2**20) for i in range(9)))
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_garbage")  # type: ignore[index]


async def test_bytes_after_the_end_of_a_reply_never_reach_a_client(bench: Bench) -> None:
    bench.upstream.script = reply(ok() + b"HTTP/1.1 200 OK\r\nx-evil: 1\r\ncontent-length: 4\r\n\r\nevil")
    client = await bench.client()
    for _ in range(3):
        client.chat()
        answer = await client.answer()
        assert answer.body == OK_JSON
        assert "x-evil" not in answer.headers
    assert bench.upstream.connections == 3, "a connection with left-over bytes is not used again"


async def test_a_reply_shorter_than_it_said_is_not_passed_off_as_complete(bench: Bench) -> None:
    bench.upstream.script = reply(JSON_HEAD + b"content-length: 500\r\n\r\n" + OK_JSON, then="close")
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert answer.status == 502
    assert [lost for _, lost in bench.dispatcher.closed] == [True, True], "tried twice, lost twice"


async def test_a_bad_chunk_size_in_a_stream_ends_it_with_an_error(bench: Bench) -> None:
    bench.upstream.script = reply(SSE_HEAD, *chunked(TOKEN % b"one"), b"zz\r\nxx\r\n", then="close")
    client = await bench.client()
    client.chat(stream=True)
    answer = await client.answer()
    assert contents(answer.body).startswith("one")
    assert b'"error"' in answer.body
    assert answer.body.endswith(DONE)


async def test_a_stream_passes_token_by_token_and_ends_once(bench: Bench) -> None:
    pieces = chunked(TOKEN % b"one", TOKEN % b"two", FINISH, USAGE, DONE)
    bench.upstream.script = reply(SSE_HEAD, *pieces, b"0\r\n\r\n")
    client = await bench.client()
    client.chat(stream=True, headers="x-llm-router-performance: never\r\n")
    answer = await client.answer()
    assert contents(answer.body) == "onetwo"
    assert answer.body.count(b"[DONE]") == 1
    assert answer.body.count(b'"usage":{') == 1
    assert TOKEN % b"one" in answer.body, "an event that needs no change is passed on as it came"


async def test_a_server_that_dies_in_a_stream_is_never_a_clean_end(bench: Bench) -> None:
    bench.upstream.script = reply(SSE_HEAD, *chunked(TOKEN % b"one"), then="reset")
    client = await bench.client()
    client.chat(stream=True)
    answer = await client.answer()
    assert contents(answer.body).startswith("one")
    error = json.loads(answer.body.decode().split("data: ")[-2])
    assert error["error"]["code"] == "upstream_lost"
    assert "choices" not in error
    assert answer.complete
    assert bench.dispatcher.closed == [(1, True)]


async def test_a_server_that_dies_in_an_unknown_body_breaks_the_client_too(bench: Bench) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    bench.upstream.script = reply(head, *chunked(b"x" * 100), then="reset")
    client = await bench.client()
    client.post("/v1/embeddings", b'{"model":"m","input":"x"}')
    answer = await client.answer()
    assert (answer.status, answer.complete) == (200, False)


async def test_a_server_that_dies_before_its_first_byte_is_asked_once_more_unseen(bench: Bench) -> None:
    async def dies_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if bench.upstream.connections > 1:
            writer.write(ok())
            await writer.drain()
            await reader.read()

    bench.upstream.script = dies_first
    client = await bench.client()
    client.chat()
    assert (await client.answer()).body == OK_JSON
    assert bench.dispatcher.closed[0] == (1, True)
    await bench.dispatcher.until(lambda: len(bench.dispatcher.closed) == 2)


async def test_a_stale_pooled_connection_costs_nothing(bench: Bench) -> None:
    async def one_reply_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ok())
        await writer.drain()

    bench.upstream.script = one_reply_each
    client = await bench.client()
    for _ in range(40):
        client.chat()
        assert (await client.answer()).status == 200
    assert all(not lost for _, lost in bench.dispatcher.closed)


async def test_a_silent_server_is_given_up(bench: Bench) -> None:
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()

    bench.upstream.script = hangs
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert answer.status == 504
    assert bench.upstream.connections == 1, "it isn't asked again"
    assert answer.json()["error"]["code"] == "upstream_timeout"  # type: ignore[index]


# -- the client


async def test_a_client_that_leaves_before_the_first_byte_frees_the_server(bench: Bench) -> None:
    asked = asyncio.Event()

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()

    bench.upstream.script = hangs
    client = await bench.client()
    client.chat()
    await asyncio.wait_for(asked.wait(), 5)
    client.close()
    await asyncio.wait_for(bench.upstream.gone.wait(), 1)
    await bench.dispatcher.until(lambda: bench.dispatcher.closed == [(1, False)])


async def test_a_client_that_leaves_a_stream_frees_the_server(bench: Bench) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SSE_HEAD)
        while True:
            writer.write(chunked(TOKEN % b"x")[0])
            await writer.drain()
            await asyncio.sleep(0.005)

    bench.upstream.script = endless
    client = await bench.client()
    client.chat(stream=True)
    await client.head()
    client.writer.transport.abort()
    await asyncio.wait_for(bench.upstream.gone.wait(), 1)
    await bench.dispatcher.until(lambda: bench.dispatcher.closed == [(1, False)])


async def test_a_client_that_leaves_while_it_waits_leaves_the_queue(bench: Bench) -> None:
    bench.dispatcher.hold = True
    client = await bench.client()
    client.chat()
    await bench.dispatcher.until(lambda: bench.dispatcher.opened == 1)
    client.close()
    await bench.dispatcher.until(lambda: bench.dispatcher.closed == [(1, False)])


async def test_a_slow_reader_slows_the_server_instead_of_filling_memory(bench: Bench) -> None:
    sent = 0
    stalled = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(SSE_HEAD)
        event = chunked(TOKEN % (b"x" * 60_000))[0]
        for _ in range(2000):  # 120 MB, should anybody take them
            writer.write(event)
            try:
                await asyncio.wait_for(writer.drain(), 1)
            except TimeoutError:
                stalled.set()
                return
            sent += len(event)

    bench.upstream.script = flood
    client = await bench.client()
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    client.chat(stream=True)
    await asyncio.wait_for(stalled.wait(), 20)
    assert sent < 30_000_000


# -- waiting


async def test_a_waiting_stream_sees_the_load_and_then_the_answer(bench: Bench) -> None:
    bench.dispatcher.hold = True
    bench.upstream.script = reply(SSE_HEAD, *chunked(TOKEN % b"one", FINISH, USAGE, DONE), b"0\r\n\r\n")
    client = await bench.client()
    client.chat(stream=True)
    status, headers = await client.head()
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    bench.dispatcher.grant(1)
    text = ""
    body = b""
    while b"[DONE]" not in body:
        size = int((await client.reader.readuntil(b"\r\n")).strip(), 16)
        body += (await client.reader.readexactly(size + 2))[:-2]
    text = contents(body)
    assert "⏳ Loading model... 15s / 180s" in text
    assert "✓ Model ready!" in text
    assert text.index("Loading") < text.index("ready") < text.index("one")
    assert "[Performance: " in text


async def test_a_request_for_a_ready_model_sees_no_status(bench: Bench) -> None:
    bench.upstream.script = reply(SSE_HEAD, *chunked(TOKEN % b"one", FINISH, DONE), b"0\r\n\r\n")
    client = await bench.client()
    client.chat(stream=True)
    assert "⏳" not in (await client.answer()).body.decode()


async def test_a_waiting_json_request_gets_a_real_status_when_the_load_fails(bench: Bench) -> None:
    bench.dispatcher.hold = True
    client = await bench.client()
    client.chat()
    await bench.dispatcher.until(lambda: bench.dispatcher.opened == 1)
    bench.dispatcher.refuse(1, LoadFailed("CUDA out of memory", retry_after_s=3.2))
    answer = await client.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "4")
    assert answer.json()["error"]["message"] == "CUDA out of memory"  # type: ignore[index]


async def test_a_waiting_stream_gets_an_error_event_when_the_load_fails(bench: Bench) -> None:
    bench.dispatcher.hold = True
    client = await bench.client()
    client.chat(stream=True)
    await client.head()
    bench.dispatcher.refuse(1, LoadFailed("CUDA out of memory"))
    rest = await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 5)
    assert b'"message":"CUDA out of memory"' in rest
    assert b"data: [DONE]" in rest


async def test_an_error_status_behind_a_status_stream_becomes_an_error_event(bench: Bench) -> None:
    bench.dispatcher.hold = True
    body = b'{"error":{"message":"context too long","code":400}}'
    bench.upstream.script = reply(ok(body, b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"))
    client = await bench.client()
    client.chat(stream=True)
    await client.head()
    bench.dispatcher.grant(1)
    rest = await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 5)
    assert b"context too long" in rest
    assert b"data: [DONE]" in rest


# -- bad input

DEEP = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_request"),
        (b"not json", 400, "invalid_request"),
        (b"[1,2]", 400, "invalid_request"),
        (b'"model"', 400, "invalid_request"),
        (b'{"messages":[]}', 400, "invalid_request"),
        (b'{"model":""}', 400, "invalid_request"),
        (b'{"model":null}', 400, "invalid_request"),
        (b'{"model":7}', 400, "invalid_request"),
        (b'{"model":["m"]}', 400, "invalid_request"),
        (b'{"model":"nope"}', 404, "model_not_found"),
        (b'{"model":"vectors"}', 400, "invalid_request"),
        (b'{"model":"m","stream":"yes"}', 400, "invalid_request"),
        (b'{"model":"m","model":"n"}', 400, "invalid_request"),
        (b'{"model":"\xff\xfe"}', 400, "invalid_request"),
        (DEEP, 400, "invalid_request"),
        (b'{"model":"m","pad":"' + b"x" * LIMIT + b'"}', 413, "request_too_large"),
    ],
    ids=[
        "empty",
        "not-json",
        "array",
        "string",
        "no-model",
        "empty-model",
        "null-model",
        "number-model",
        "list-model",
        "unknown-model",
        "model-that-only-embeds",
        "stream-string",
        "duplicate",
        "bad-utf8",
        "deep",
        "too-large",
    ],
)
async def test_bad_input_gets_a_clear_error_and_the_router_goes_on(
    bench: Bench, body: bytes, status: int, code: str
) -> None:
    client = await bench.client()
    client.post("/v1/chat/completions", body)
    answer = await client.answer()
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (status, code)  # type: ignore[index]
    assert error["message"].startswith(("cannot", "you must"))  # type: ignore[index]
    bench.upstream.script = reply(ok())
    again = await bench.client()
    again.chat()
    assert (await again.answer()).status == 200


async def test_a_foreign_content_type_is_refused(bench: Bench) -> None:
    client = await bench.client()
    client.post("/v1/chat/completions", b"model=m", headers="content-type: application/x-www-form-urlencoded\r\n")
    answer = await client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (415, "unsupported_media_type")  # type: ignore[index]


async def test_a_connection_survives_an_oversized_body(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    client.post("/v1/chat/completions", b"x" * (3 * LIMIT))
    assert (await client.answer()).status == 413
    client.chat()
    assert (await client.answer()).status == 200


# -- connections


async def test_pipelined_requests_are_answered_in_order(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    for _ in range(4):
        client.chat()
    for _ in range(4):
        assert (await client.answer()).body == OK_JSON


async def test_http_1_0_is_served_and_closed(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    client.post("/v1/chat/completions", b'{"model":"m"}', version="1.0")
    assert (await client.answer()).body == OK_JSON
    assert await client.reader.read() == b""


async def test_a_client_that_asks_to_close_is_closed(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    client.chat(headers="connection: close\r\n")
    answer = await client.answer()
    assert (answer.body, answer.headers["connection"]) == (OK_JSON, "close")
    assert await client.reader.read() == b""


def _expecting(length: int) -> bytes:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
    return head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % length


async def test_a_body_that_waits_to_be_called_is_called(bench: Bench) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    body = b'{"model":"m"}'
    client.writer.write(_expecting(len(body)))
    assert (await client.head())[0] == 100
    client.writer.write(body)
    assert (await client.answer()).body == OK_JSON


async def test_a_body_that_would_be_too_large_is_refused_before_it_is_sent(bench: Bench, sink: str) -> None:
    client = await bench.client()
    client.writer.write(_expecting(LIMIT + 1))
    if sink == "asgi":  # the server asks for the body before the application sees anything
        assert (await client.head())[0] == 100
        client.writer.write(b"x" * (LIMIT + 1))
    answer = await client.answer()
    assert answer.status == 413
    if sink == "protocol":
        # Whether the client sends the body after all is anybody's guess, so nothing can follow on this connection.
        assert answer.headers["connection"] == "close"
        assert await client.reader.read() == b""


async def test_two_hundred_streams_at_once_all_arrive_whole(bench: Bench) -> None:
    tokens = [TOKEN % str(i).encode() for i in range(20)]
    bench.upstream.script = reply(SSE_HEAD, *chunked(*tokens, FINISH, USAGE, DONE), b"0\r\n\r\n")

    async def one() -> str:
        client = await bench.client()
        client.chat(stream=True, headers="x-llm-router-performance: never\r\n")
        return contents((await client.answer()).body)

    texts = await asyncio.gather(*(one() for _ in range(200)))
    assert set(texts) == {"".join(str(i) for i in range(20))}


async def test_a_mistake_of_ours_costs_one_request_and_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    for _ in range(3):  # also on a connection whose head is known
        client.chat()
        assert (await client.answer()).status == 200
        bench.dispatcher.breaks = True
        client.chat()
        answer = await client.answer()
        assert (answer.status, answer.json()["error"]["code"]) == (500, "internal_error")  # type: ignore[index]
        bench.dispatcher.breaks = False
    assert sum(record.exc_info is not None for record in caplog.records) == 3


async def test_what_cant_be_sent_is_answered_instead_of_hanging(bench: Bench) -> None:
    assert bench.dispatcher.upstream is not None
    bench.dispatcher.upstream = replace(bench.dispatcher.upstream, credential="schlüssel")
    client = await bench.client()
    client.chat()
    answer = await client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (500, "invalid_configuration")  # type: ignore[index]
    await bench.dispatcher.until(lambda: bench.dispatcher.closed == [(1, False)])


async def test_credentials_and_private_headers_stay_here(bench: Bench) -> None:
    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bench.upstream.requests.append(await read_request(reader))
        writer.write(ok())
        await writer.drain()

    bench.upstream.script = keep
    client = await bench.client()
    client.chat(headers="authorization: Bearer secret\r\nx-conversation-id: 7\r\nx-custom: kept\r\n")
    await client.answer()
    seen = bench.upstream.requests[0].lower()
    assert b"secret" not in seen
    assert b"x-conversation-id" not in seen
    assert b"x-custom: kept" in seen
    assert seen.startswith(b"post /v1/chat/completions http/1.1\r\n")
