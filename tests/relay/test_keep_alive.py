"""A client's connection is kept while it is used, and for a while longer."""

from __future__ import annotations

import asyncio

import pytest
from test_replies import OK_JSON, ok
from wire import Bench, reply


@pytest.fixture
def keep_alive_s() -> float:
    return 0.3


async def test_a_quiet_connection_is_closed_after_its_time_and_not_before(bench: Bench, keep_alive_s: float) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + 3 * keep_alive_s:
        client.chat()
        assert (await client.answer()).body == OK_JSON
        await asyncio.sleep(keep_alive_s / 5)  # as people pause
    quiet_since = loop.time()
    assert await asyncio.wait_for(client.reader.read(), 5) == b""
    assert loop.time() - quiet_since >= keep_alive_s / 2


async def test_a_connection_that_waits_for_its_answer_is_not_quiet(bench: Bench, keep_alive_s: float) -> None:
    bench.upstream.script = reply(ok())
    client = await bench.client()
    for _ in range(3):
        client.chat()
        assert (await client.answer()).body == OK_JSON
    bench.dispatcher.hold = True
    client.chat()
    await bench.dispatcher.until(lambda: 4 in bench.dispatcher.waiting)
    await asyncio.sleep(2 * keep_alive_s)  # as loads take their time
    bench.dispatcher.grant(4)
    assert (await client.answer()).body == OK_JSON
    assert await asyncio.wait_for(client.reader.read(), 5) == b""
