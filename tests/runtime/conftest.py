from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from scripted import Health, World

from llm_router.runtime import effects, hosts
from llm_router.runtime.instances import Launch


@pytest.fixture
async def health() -> AsyncIterator[Health]:
    health = Health()
    await health.up()
    yield health
    await health.down()


@pytest.fixture
async def world() -> AsyncIterator[Callable[..., World]]:
    """Makes the effects for these launches; by name, what else they are made with."""
    worlds: list[World] = []

    def make(*launches: Launch, **more: object) -> World:
        worlds.append(World({launch.request.model: launch for launch in launches}, more=more))
        return worlds[-1]

    yield make
    for one in worlds:
        await one.tasks.close()


@pytest.fixture
def short_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "CHECK_S", 0.1)
    monkeypatch.setattr(hosts, "BUSY_CHECK_S", 0.3)
    monkeypatch.setattr(effects, "_EXIT_S", 0.1)
