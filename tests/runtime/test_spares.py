"""Servers without a model: one of each kind, for a while, and nothing of them is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from scripted import Process, passed

from llm_router.backends.base import StopPlan
from llm_router.errors import LaunchError
from llm_router.launchers.base import Identity
from llm_router.launchers.ports import Ports
from llm_router.runtime import spares
from llm_router.runtime.spares import Spare, Spares
from llm_router.runtime.tasks import Tasks


class Shelf:
    def __init__(self) -> None:
        self.ports = Ports()
        self.tasks = Tasks()
        self.spares = Spares(self.ports, self.tasks)

    def keep(self, key: str = "tabby", *, device: str = "0") -> tuple[Spare, Process]:
        port = self.ports.take()
        process = Process(Identity(instance=1, model="m", launch_key="k", port=port))
        spare = Spare(key=key, process=process, port=port, devices=(device,), stop=StopPlan(grace_s=3.0))
        self.spares.keep(spare)
        return spare, process

    def is_free(self, port: int) -> bool:
        try:
            self.ports.claim(port)
        except LaunchError:
            return False
        return True


@pytest.fixture
async def shelf() -> AsyncIterator[Shelf]:
    shelf = Shelf()
    yield shelf
    await shelf.spares.end_all()
    await shelf.tasks.close()


async def test_what_is_taken_is_nobody_elses(shelf: Shelf) -> None:
    spare, process = shelf.keep()
    assert shelf.spares.find("tabby") is spare
    assert shelf.spares.take(spare)
    assert not shelf.spares.take(spare)
    assert not shelf.spares
    process.exit(1)
    await passed()
    assert process.stops == [], "its end is its taker's affair"
    assert not shelf.is_free(spare.port)


async def test_a_second_one_of_the_same_kind_replaces_the_first(shelf: Shelf) -> None:
    first, process = shelf.keep()
    second, _ = shelf.keep()
    await passed()
    assert [plan.grace_s for plan in process.stops] == [3.0]
    assert shelf.is_free(first.port)
    assert shelf.spares.find("tabby") is second


async def test_one_that_exits_is_forgotten(shelf: Shelf) -> None:
    spare, process = shelf.keep()
    process.exit(1)
    await passed()
    assert shelf.spares.find("tabby") is None
    assert shelf.is_free(spare.port)


async def test_one_that_has_just_exited_is_not_taken(shelf: Shelf) -> None:
    spare, process = shelf.keep()
    process.exit(1)
    assert not shelf.spares.take(spare)


async def test_one_that_waits_too_long_is_ended(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "IDLE_S", 0.01)
    _, process = shelf.keep()
    async with asyncio.timeout(5):
        await asyncio.wait([process.exited])


async def test_only_those_in_the_way_are_ended(shelf: Shelf) -> None:
    shelf.keep("on-0", device="0")
    shelf.keep("on-1", device="1")
    third, _ = shelf.keep("on-2", device="2")
    await shelf.spares.make_way(port=third.port, devices=["1"])
    assert [shelf.spares.find(key) is None for key in ("on-0", "on-1", "on-2")] == [False, True, True]


async def test_who_needs_the_place_waits_for_one_that_is_ending_already(shelf: Shelf) -> None:
    _, process = shelf.keep()
    process.lingers = asyncio.Event()
    shelf.keep()
    await passed()
    waiting = asyncio.ensure_future(shelf.spares.make_way(port=None, devices=["0"]))  # noqa: TID251
    await passed()
    assert not waiting.done()
    process.lingers.set()
    async with asyncio.timeout(5):
        await waiting


async def test_one_that_cannot_be_stopped_does_not_stop_everything_else(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    _, process = shelf.keep("a")
    process.unstoppable = PermissionError("not ours")
    _, other = shelf.keep("b")
    await shelf.spares.end_all()
    assert other.exited.done()
    assert "cannot stop a server without a model" in caplog.text
