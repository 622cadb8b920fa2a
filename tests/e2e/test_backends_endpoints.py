"""Endpoints that nobody here starts: when they fail they are left alone, when they are back they are used, and equal
ones stand in for each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from engines import COUNT, server
from routing import Start, numbers, until

FAR = ("--style", "openai", "--name", "far", "--count", str(COUNT))


class Endpoint:
    """An endpoint in the test's own hands. `mode`: "up" answers its listing, and breaks off whatever is posted; "last"
    is up until something is posted, and down from then on; "down" answers 503; "silent" reads and says nothing.
    `asked`: the paths, in order."""

    def __init__(self) -> None:
        self.mode = "up"
        self.asked: list[str] = []
        self.has_post = asyncio.Event()
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def close(self) -> None:
        """Whoever still waits for a word."""
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            await self._answer(reader, writer)
        except asyncio.IncompleteReadError:
            pass  # somebody only looked whether it listens
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        self.asked.append(path)
        if self.mode == "silent":
            self.has_post.set()
            await reader.read()
        elif method == "GET" and self.mode in ("up", "last"):
            body = b'{"object":"list","data":[{"id":"far","object":"model"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body))
            writer.write(b"Connection: close\r\n\r\n" + body)
        elif self.mode == "down":
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif self.mode == "last":
            self.mode = "down"


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    one = Endpoint()
    listening = await asyncio.start_server(one.answer, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        listening.close()
        await one.close()


def far(*urls: str) -> dict[str, Any]:
    return {"backend": "openai", "url": list(urls) if len(urls) > 1 else urls[0], "model_name": "far"}


async def test_an_endpoint_that_is_down_is_not_asked_again_for_every_request(start: Start) -> None:
    async with endpoint() as down:
        down.mode = "down"
        router = await start({"a": far(down.url)})
        answers = await asyncio.gather(*(router.chat("a") for _ in range(20)))
        answers += [await router.chat("a") for _ in range(20)]
        assert {events.error["code"] for events in answers if events.error is not None} == {"model_load_failed"}
        assert all(events.error is not None and "cannot reach a at" in events.error["message"] for events in answers)
        assert 1 <= len(down.asked) <= 3, down.asked


async def test_who_is_refused_because_an_endpoint_is_down_hears_when_to_come_back(start: Start) -> None:
    async with endpoint() as down:
        down.mode = "down"
        router = await start({"a": far(down.url)})
        async with router.client() as client:
            body = {"model": "a", "messages": [{"role": "user", "content": "hello"}]}
            refused = await client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 503
        assert 1 <= int(refused.headers["retry-after"]) <= 2


async def test_an_endpoint_that_comes_back_is_used_when_its_pause_is_over(start: Start) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(server("fake_backend.py", *FAR))
        router = await start({"a": far(url)})
        assert (await router.chat("a")).error is None
        await stack.aclose()
        assert (await router.chat("a")).error is not None
        port = url.rpartition(":")[2]
        await stack.enter_async_context(server("fake_backend.py", *FAR, port=int(port)))

        async def answers() -> bool:
            return (await router.chat("a")).text == numbers("far", COUNT)

        await until(answers, 8)


async def test_a_load_by_hand_ends_the_pause_at_once_however_long_it_has_become(start: Start) -> None:
    async with endpoint() as mended:
        mended.mode = "down"
        router = await start({"a": far(mended.url)})
        async with router.client() as client:
            for _ in range(5):  # each one doubles it: 32 s by now
                failed = await client.post("/admin/load", json={"model": "a"})
                assert "cannot reach a at" in failed.text
            mended.mode = "up"
            assert (await router.status())["a"]["retry_after_s"] > 16
            async with asyncio.timeout(2):
                loaded = await client.post("/admin/load", json={"model": "a"})
        assert '"ready":true' in loaded.text.replace(" ", ""), loaded.text
        assert (await router.status())["a"]["state"] == "ready"


async def test_an_endpoint_that_breaks_off_every_request_is_asked_twice_for_each(start: Start) -> None:
    """It answers when it is asked how it is, so it stays; but nobody tries a third time."""
    async with endpoint() as broken:
        router = await start({"a": far(broken.url)})
        for _ in range(3):
            events = await router.chat("a")
            assert events.error is not None
            assert events.error["code"] == "upstream_lost"
        assert sum("chat" in path for path in broken.asked) <= 2 * 3
        await router.stop()  # else it may connect just when the endpoint goes, and Python 3.11 loses that connection


async def test_an_equal_endpoint_answers_what_the_first_broke_off_before_its_first_token(start: Start) -> None:
    async with endpoint() as first, server("fake_backend.py", *FAR) as second:
        first.mode = "last"
        router = await start({"a": far(first.url, second)})
        events = await router.chat("a")
        assert first.mode == "down", "it was never asked"
        assert events.error is None, events.error
        assert events.text == numbers("far", COUNT)


async def test_an_answer_half_given_is_ended_with_an_error_and_the_next_comes_from_the_other(start: Start) -> None:
    async with AsyncExitStack() as one, AsyncExitStack() as two:
        ends = {
            await stack.enter_async_context(server("fake_backend.py", *FAR, "--token-ms", "20")): stack
            for stack in (one, two)
        }
        router = await start({"a": far(*ends)})
        body = {"model": "a", "stream": True, "max_tokens": 1000, "ignore_eos": True, "messages": []}
        async with router.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            while '"content":" I' not in (await anext(lines)).replace(": ", ":"):
                pass
            running = [url for url in ends if (await client.get(f"{url}/stats")).json()["running"]]
            assert len(running) == 1
            await ends[running[0]].aclose()
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "upstream_lost"
        assert (await router.chat("a")).text == numbers("far", COUNT)


async def test_the_first_endpoint_is_used_again_when_the_other_has_gone(start: Start) -> None:
    async with AsyncExitStack() as one, AsyncExitStack() as two:
        first = await one.enter_async_context(server("fake_backend.py", *FAR))
        second = await two.enter_async_context(server("fake_backend.py", *FAR))
        router = await start({"a": far(first, second)})
        assert (await router.chat("a")).error is None
        await one.aclose()
        assert (await router.chat("a")).text == numbers("far", COUNT)
        await one.enter_async_context(server("fake_backend.py", *FAR, port=int(first.rpartition(":")[2])))
        await two.aclose()
        assert (await router.chat("a")).text == numbers("far", COUNT)


@pytest.mark.slow
async def test_an_equal_endpoint_answers_for_one_that_has_fallen_silent(start: Start) -> None:
    """After a minute: a busy one may well be silent for as long."""
    async with endpoint() as first, server("fake_backend.py", *FAR) as second:
        router = await start({"a": far(first.url, second)})
        async with router.client() as client:
            await client.post("/admin/load", json={"model": "a"})
        first.mode = "silent"
        async with asyncio.timeout(90):
            assert (await router.chat("a")).text == numbers("far", COUNT)
        assert first.has_post.is_set()
