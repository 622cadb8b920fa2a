"""What is read from the devices becomes what the scheduler is told: reservations, budgets, and when there is room."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from devices import KeptHistory, ScriptedReader

from llm_router.core.events import DeviceMeasured, Event, MemoryMeasured
from llm_router.errors import LaunchError
from llm_router.runtime import memory
from llm_router.runtime.memory import MemoryWatch
from llm_router.runtime.tasks import Tasks

FOREIGN = 999


class Bench:
    """One watch over a card of 24000 MiB, another of 48000, and a host. The first process of instance N is N * 10, and
    N * 10 + 1 is its child."""

    def __init__(self, reader: ScriptedReader, *, reserve_mib: dict[str, int] | None = None) -> None:
        self.reader = reader
        self.history = KeptHistory()
        self.events: list[Event] = []
        self.tasks = Tasks()
        self.dead: set[int] = set()
        self.watch = MemoryWatch(
            reader,
            self.history,
            devices=reader.devices,
            reserve_mib=reserve_mib or {},
            load_of=lambda instance: (f"model-{instance}", f"key-{instance}"),
            post=self.events.append,
            spawn=self.tasks.spawn,
            family=lambda pid: frozenset() if pid in self.dead else frozenset({pid, pid + 1}),
            is_alive=lambda pid: pid not in self.dead,
        )

    async def begin(self, instance: int = 1, devices: tuple[str, ...] = ("0",), **reserved: int) -> None:
        await self.watch.room(instance, f"model-{instance}", devices, {key[1:]: mib for key, mib in reserved.items()})
        self.watch.began(instance, instance * 10, devices)

    async def news(self) -> list[Event]:
        """Look, and return what is told because of it."""
        self.events.clear()
        await self.watch.look()
        return list(self.events)

    async def instance_news(self) -> list[tuple[int, dict[str, int]]]:
        return [(one.instance, dict(one.used_mib)) for one in await self.news() if isinstance(one, MemoryMeasured)]

    async def device_news(self) -> dict[str, int | None]:
        return {one.device: one.available_mib for one in await self.news() if isinstance(one, DeviceMeasured)}

    def dies(self, instance: int = 1) -> None:
        """Its processes are gone; the driver may not know yet."""
        self.dead |= {instance * 10, instance * 10 + 1}
        self.watch.ended(instance)


@pytest.fixture
async def cards(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(memory, "_POLL_S", 0.001)
    bench = Bench(ScriptedReader(d0=24000, d1=48000, cpu=64000))
    yield bench
    await bench.tasks.close()
    await bench.watch.close()
    assert bench.reader.is_closed


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(memory, "_POLL_S", 0.001)
    bench = Bench(ScriptedReader(cpu=32000), reserve_mib={"cpu": 2000})
    yield bench
    await bench.tasks.close()
    await bench.watch.close()


async def test_a_look_that_fails_again_and_again_is_told_once(
    cards: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "_IDLE_S", 0.001)
    often = asyncio.Event()

    def fail(number: int) -> None:
        if 1 < number < 10:
            raise OSError("no such device any more")
        if number > 10:
            often.set()

    cards.reader.on_read = fail
    await cards.watch.start()
    await asyncio.wait_for(often.wait(), 5)
    assert [record.message for record in caplog.records] == ["cannot look at the memory"]


# -- devices


async def test_the_first_look_says_what_there_is(cards: Bench) -> None:
    assert await cards.device_news() == {"0": 24000, "1": 48000, "cpu": 64000}


async def test_a_foreign_process_takes_memory_from_our_models_and_gives_it_back(cards: Bench) -> None:
    await cards.begin()
    cards.reader["0"].held_mib = {10: 9000}
    await cards.watch.look()
    cards.reader["0"].held_mib[FOREIGN] = 10000
    assert await cards.device_news() == {"0": 14000}, "ours counts as ours: only the stranger's is lost"
    del cards.reader["0"].held_mib[FOREIGN]
    assert await cards.device_news() == {"0": 24000}


async def test_what_our_own_models_take_and_give_changes_nothing(cards: Bench) -> None:
    await cards.watch.look()
    await cards.begin()
    for held in (1000, 9000, 20000):
        cards.reader["0"].held_mib = {10: held // 2, 11: held // 2}
        assert await cards.device_news() == {}
    cards.dies()
    assert await cards.device_news() == {}, "the driver hasn't taken it back yet, and nobody else has it"
    cards.reader["0"].held_mib = {}
    assert await cards.device_news() == {}


async def test_small_changes_are_not_worth_a_decision(cards: Bench) -> None:
    await cards.watch.look()
    cards.reader["0"].hidden_mib = 480
    assert await cards.device_news() == {}
    cards.reader["0"].hidden_mib = 481
    assert await cards.device_news() == {"0": 24000 - 481}


async def test_a_device_that_vanishes_is_told_once_and_so_is_its_return(cards: Bench) -> None:
    await cards.watch.look()
    cards.reader.gone = {"1"}
    assert await cards.device_news() == {"1": None}
    assert await cards.device_news() == {}
    assert [view.device for view in cards.watch.devices() if not view.is_there] == ["1"]
    cards.reader.gone = set()
    assert await cards.device_news() == {"1": 48000}


async def test_what_is_to_stay_free_is_not_for_models(host: Bench) -> None:
    host.reader["cpu"].hidden_mib = 5000
    assert await host.device_news() == {"cpu": 32000 - 5000 - 2000}


async def test_where_the_driver_names_no_processes_a_ready_model_holds_what_was_reserved(cards: Bench) -> None:
    await cards.watch.look()
    cards.reader["0"].tells_pids = False
    await cards.begin(_0=9000)
    cards.reader["0"].held_mib = {1234: 9000, FOREIGN: 3000}
    cards.watch.ready(1)
    assert await cards.device_news() == {"0": 24000 - 3000}
    assert cards.watch.peak_mib(1) == {}, "nothing is learned from what can't be seen"


# -- instances


async def test_a_model_is_measured_once_it_is_ready(cards: Bench) -> None:
    await cards.begin(_0=12000)
    cards.reader["0"].held_mib = {10: 6000, 11: 3000}
    assert await cards.instance_news() == [], "it is still growing"
    cards.watch.ready(1)
    assert await cards.instance_news() == [(1, {"0": 9000})]
    assert cards.history.peaks == [("model-1", "key-1", {"0": 9000})]


async def test_a_look_that_began_before_it_was_ready_does_not_count(cards: Bench) -> None:
    await cards.begin()
    cards.reader["0"].held_mib = {10: 4000}
    loop = asyncio.get_running_loop()
    cards.reader.on_read = lambda _: loop.call_soon_threadsafe(cards.watch.ready, 1) and None
    assert await cards.instance_news() == []
    cards.reader.on_read = lambda _: None
    cards.reader["0"].held_mib = {10: 9000}
    assert await cards.instance_news() == [(1, {"0": 9000})]


async def test_a_model_that_grows_after_its_load_is_measured_again(cards: Bench) -> None:
    await cards.begin()
    cards.reader["0"].held_mib = {10: 9000}
    cards.watch.ready(1)
    await cards.watch.look()
    cards.reader["0"].held_mib = {10: 9100}
    assert await cards.instance_news() == [], "a hundredth more is nothing"
    cards.reader["0"].held_mib = {10: 11000}
    assert await cards.instance_news() == [(1, {"0": 11000})]
    cards.reader["0"].held_mib = {10: 5000}
    assert await cards.instance_news() == [], "it may come to that again"
    cards.watch.ended(1)
    assert cards.history.peaks[-1] == ("model-1", "key-1", {"0": 11000})


async def test_a_model_that_outgrows_its_reservation_is_told_before_it_is_ready(cards: Bench) -> None:
    await cards.begin(_0=10000)
    cards.reader["0"].held_mib = {10: 9900}
    assert await cards.instance_news() == []
    cards.reader["0"].held_mib = {10: 13000}
    assert await cards.instance_news() == [(1, {"0": 13000})]
    assert cards.history.peaks == [], "what it needs isn't known yet"


async def test_a_load_that_fails_teaches_nothing(cards: Bench) -> None:
    await cards.begin()
    cards.reader["0"].held_mib = {10: 9000}
    await cards.watch.look()
    assert cards.watch.peak_mib(1) == {"0": 9000}, "whoever records the failure wants to know"
    cards.watch.ended(1)
    assert cards.history.peaks == []
    assert cards.watch.peak_mib(1) == {}


async def test_on_a_gpu_the_hosts_memory_is_not_the_models(cards: Bench) -> None:
    await cards.begin(1, ("0", "1"))
    await cards.begin(2, ("cpu",))
    cards.reader["0"].held_mib = {10: 9000}
    cards.reader["1"].held_mib = {11: 8000}
    cards.reader["cpu"].held_mib = {10: 3000, 20: 4000, 21: 100}
    for instance in (1, 2):
        cards.watch.ready(instance)
    assert await cards.instance_news() == [(1, {"0": 9000, "1": 8000}), (2, {"cpu": 4100})]


async def test_without_a_gpu_it_is_the_hosts(host: Bench) -> None:
    await host.begin(1, ("device",))
    host.reader["cpu"].held_mib = {10: 3000}
    host.watch.ready(1)
    assert await host.instance_news() == [(1, {"cpu": 3000})]


async def test_growth_of_any_memory_is_progress(cards: Bench) -> None:
    assert cards.watch.grew(1) == -math.inf
    await cards.begin()
    began = cards.watch.grew(1)
    cards.reader["cpu"].held_mib = {10: 5}
    await cards.watch.look()
    assert cards.watch.grew(1) == began, "a few pages come and go"
    cards.reader["cpu"].held_mib = {10: 500}
    await cards.watch.look()
    grew = cards.watch.grew(1)
    assert grew > began
    cards.reader["cpu"].held_mib = {10: 100}
    cards.reader["0"].held_mib = {10: 300}
    await cards.watch.look()
    assert cards.watch.grew(1) == grew
    cards.reader["0"].held_mib = {10: 420}
    await cards.watch.look()
    assert cards.watch.grew(1) > grew


# -- room


async def test_a_start_waits_until_the_memory_is_really_free(cards: Bench) -> None:
    cards.reader["0"].held_mib = {10: 20000}
    cards.reader.on_read = lambda number: cards.reader["0"].held_mib.clear() if number == 4 else None
    await cards.watch.room(2, "m", ("0",), {"0": 9000})
    assert cards.reader.reads == 4


async def test_a_start_that_gets_no_room_names_who_holds_it(cards: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_ROOM_S", 0.01)
    await cards.begin(1)
    cards.reader["0"].held_mib = {10: 9000, FOREIGN: 11000}
    await cards.watch.look()
    with pytest.raises(LaunchError) as raised:
        await cards.watch.room(2, "big", ("1", "0"), {"0": 9000, "1": 9000})
    assert raised.value.message.startswith("cannot load big: it needs 9000 MiB of device 0, and 4000 MiB are free")
    assert f"(pid {FOREIGN} holds 11000 MiB)" in raised.value.message


async def test_companions_may_have_reserved_more_than_there_is(cards: Bench) -> None:
    await cards.begin(1, _0=20000)
    cards.reader["0"].held_mib = {10: 18000}
    await cards.watch.room(2, "m", ("0",), {"0": 20000})
    cards.watch.ready(1)
    await cards.watch.look()
    await cards.watch.room(3, "m", ("0",), {"0": 20000})


async def test_who_has_a_device_alone_waits_only_for_the_dead(cards: Bench) -> None:
    await cards.begin(1)
    cards.reader["0"].held_mib = {10: 9000, FOREIGN: 100}
    await cards.watch.look()
    cards.dies(1)
    cards.reader.on_read = lambda number: cards.reader["0"].held_mib.pop(10, None) if number == 6 else None
    await cards.watch.room(2, "m", ("0",), {})
    assert cards.reader.reads == 6


async def test_a_server_that_lives_on_without_its_model_keeps_nobody_waiting(cards: Bench) -> None:
    await cards.begin(1)
    cards.reader["0"].held_mib = {10: 400}
    await cards.watch.look()
    cards.watch.ended(1)
    await cards.watch.room(2, "m", ("0",), {})
    cards.watch.began(2, 10, ("0",))
    cards.reader["0"].held_mib = {10: 8000}
    cards.watch.ready(2)
    assert await cards.instance_news() == [(2, {"0": 8000})]


async def test_what_such_a_server_holds_is_free_for_the_model_that_gets_it(cards: Bench) -> None:
    await cards.begin(1)
    cards.reader["0"].held_mib = {10: 400, FOREIGN: 600}
    await cards.watch.look()
    cards.watch.ended(1)
    await cards.watch.room(2, "m", ("0",), {"0": 23400})


async def test_what_one_that_has_ended_holds_is_not(cards: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_ROOM_S", 0.01)
    await cards.begin(1)
    cards.reader["0"].held_mib = {10: 400}
    await cards.watch.look()
    cards.dies(1)
    with pytest.raises(LaunchError, match="it needs 23700 MiB of device 0, and 23600 MiB are free"):
        await cards.watch.room(2, "m", ("0",), {"0": 23700})


async def test_a_device_that_is_gone_has_no_room(cards: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_ROOM_S", 0.01)
    await cards.watch.look()
    cards.reader.gone = {"1"}
    with pytest.raises(LaunchError, match="device 1 can't be read any more"):
        await cards.watch.room(1, "m", ("1",), {"1": 10})
    await cards.watch.room(1, "m", ("unheard of",), {"unheard of": 10})


# -- going on


async def test_it_looks_again_at_once_when_something_begins(cards: Bench) -> None:
    told = asyncio.Event()
    await cards.watch.start()
    loop = asyncio.get_running_loop()
    cards.reader.on_read = lambda _: loop.call_soon_threadsafe(told.set) and None
    cards.watch.began(1, 10, ("0",))
    async with asyncio.timeout(2):
        await told.wait()


async def test_one_look_that_fails_is_not_the_last(cards: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await cards.watch.start()
    loop = asyncio.get_running_loop()
    again = asyncio.Event()

    def fail_once(number: int) -> None:
        if number == 2:
            raise RuntimeError("a bug in a driver")
        loop.call_soon_threadsafe(again.set)

    cards.reader.on_read = fail_once
    cards.watch.began(1, 10, ("0",))
    async with asyncio.timeout(2):
        await again.wait()
    assert "a bug in a driver" in caplog.text


# -- parked ones


async def parked(cards: Bench) -> None:
    """Instance 1 held 9000 MiB of the first card, and 700 since it is parked."""
    await cards.begin(_0=9000)
    cards.reader["0"].held_mib = {10: 9000}
    await cards.watch.look()
    cards.watch.ready(1)
    await cards.watch.look()
    cards.reader["0"].held_mib = {10: 700}
    assert await cards.watch.parked(1) == {"0": 700}


@pytest.mark.parametrize(("weights_mib", "free_mib", "fits"), [
    (None, 9000, True),
    (None, 8999, False),
    (4000, 4000, True),
    (4000, 3999, False),
    (20000, 9000, True),
])  # fmt: skip
async def test_parked_weights_have_room_in_the_hosts_memory_or_stay_where_they_are(
    cards: Bench, weights_mib: int | None, free_mib: int, fits: bool
) -> None:
    """As much as its files say, but no more than it holds of the cards."""
    await cards.begin(_0=9000)
    cards.reader["0"].held_mib = {10: 9000}
    await cards.watch.look()
    cards.reader["cpu"].hidden_mib = 64000 - free_mib
    if fits:
        await cards.watch.host_room(1, "model-1", weights_mib)
    else:
        with pytest.raises(LaunchError, match=f"cannot park model-1: .* {free_mib} MiB are free"):
            await cards.watch.host_room(1, "model-1", weights_mib)


async def test_what_a_parked_one_still_holds_is_told_when_it_changes_either_way(cards: Bench) -> None:
    await parked(cards)
    assert await cards.instance_news() == []
    cards.reader["0"].held_mib = {10: 300}
    assert await cards.instance_news() == [(1, {"0": 300})]
    cards.reader["0"].held_mib = {10: 500}
    assert await cards.instance_news() == [(1, {"0": 500})]


async def test_what_a_parked_one_holds_is_not_learned_for_the_next_start(cards: Bench) -> None:
    await parked(cards)
    assert cards.history.peaks[-1] == ("model-1", "key-1", {"0": 9000})
    cards.dies()
    assert cards.history.peaks[-1] == ("model-1", "key-1", {"0": 9000})


async def test_to_be_woken_it_needs_only_what_it_does_not_hold(cards: Bench) -> None:
    await parked(cards)
    cards.reader["0"].held_mib = {10: 700, FOREIGN: 24000 - 9000}
    await cards.watch.room(1, "model-1", ("0",), {"0": 9000})


async def test_once_woken_it_is_measured_as_after_a_load(cards: Bench) -> None:
    await parked(cards)
    cards.watch.waking(1, {"0": 9000})
    cards.reader["0"].held_mib = {10: 9100}
    await cards.watch.look()
    cards.watch.ready(1)
    assert await cards.instance_news() == [(1, {"0": 9100})]
