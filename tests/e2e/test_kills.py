"""`kill -9` at random moments, of the router or of an engine, hundreds of times: it serves each time, nothing is left
behind, and no answer comes from the wrong model."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import httpx
import pytest
from routing import Events, RouterProcess, Start, fake, leftovers, numbers

COUNT = 30
ROUNDS = int(os.environ.get("LLM_ROUTER_KILLS", "200"))


def _is_honest(events: Events, name: str) -> bool:
    """A whole right answer, the beginning of one that says it broke off, or an error."""
    if events.text == numbers(name, COUNT) and events.done and events.error is None:
        return True
    broke_off = events.broken or events.error is not None
    return broke_off and numbers(name, COUNT).startswith(events.text)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_kills_at_random_moments(start: Start) -> None:
    chance = random.Random(20261122)
    models = {
        "a": fake("--startup-s", "0.1", "--token-ms", "2"),
        "b": fake("--startup-s", "0.05", "--token-ms", "1", "--push-lines"),
        "c": fake("--token-ms", "3", "--spawn-child", "group"),
    }
    router = await start(models, drain_timeout="1s", patience="0.1s")
    victims = {"router": 0, "engine": 0}
    for _ in range(ROUNDS):
        names = [chance.choice("abc") for _ in range(chance.randint(1, 4))]
        chats = [asyncio.ensure_future(_tolerant(router, name)) for name in names]  # noqa: TID251
        await asyncio.sleep(chance.uniform(0, 0.4))
        if chance.random() < 0.5:
            victims["router"] += 1
            await router.kill()
            answers = await asyncio.gather(*chats)
            await router.start()
        else:
            engines = leftovers(router)
            if engines:
                victims["engine"] += 1
                try:
                    os.kill(chance.choice(engines), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            answers = await asyncio.gather(*chats)
        for name, events in zip(names, answers, strict=True):
            assert events is None or _is_honest(events, name), (name, events)
        name = chance.choice("abc")
        async with asyncio.timeout(20):
            events = await router.chat(name)
            while events.error is not None and events.error["code"] == "model_load_failed":
                await asyncio.sleep(0.2)  # its engine was killed while it loaded: the back-off is honest
                events = await router.chat(name)
        assert events.text == numbers(name, COUNT), events
    print(f"killed: {victims}")


async def _tolerant(router: RouterProcess, name: str) -> Events | None:
    """None: the router was dead before it said anything."""
    try:
        return await router.chat(name)
    except httpx.TransportError:
        return None
