"""Placement with real readings: the whole runtime on scripted servers and scripted devices, where every number that the
scheduler believed at first turns out to be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import scripted
from devices import KeptHistory, ScriptedReader
from scripted import Process, launch, passed

from llm_router.backends.base import LaunchSpec, StopPlan
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.launchers.base import Identity
from llm_router.runtime import memory
from llm_router.runtime.supervisor import Supervisor

FOREIGN = 999


class Server(Process):
    """Holds memory until it is stopped, or, where the driver is `slow`, until the test takes it back."""

    def __init__(self, identity: Identity, machine: Machine) -> None:
        super().__init__(identity, pid=1000 + identity.instance)
        self._machine = machine

    async def stop(self, plan: StopPlan) -> None:
        await super().stop(plan)
        self._machine.dead.add(self.pid)
        if not self._machine.is_slow:
            self._machine.take_back()


class Launcher(scripted.Launcher):
    machine: Machine

    async def start(self, spec: LaunchSpec, identity: Identity) -> Process:
        process = Server(identity, self.machine)
        self.started.append(process)
        self._news.set()
        return process


class Machine:
    """A router for models that need `needs` MiB in truth, of which the scheduler believes `believed`."""

    def __init__(
        self, reader: ScriptedReader, needs: dict[str, int], believed: dict[str, int], *, is_declared: bool = False
    ) -> None:
        self.reader = reader
        self.needs = needs
        self.dead: set[int] = set()
        self.is_slow = False
        self.history = KeptHistory()
        self.launcher = Launcher()
        self.launcher.machine = self
        specs = {
            name: ModelSpec(name=name, footprint_mib=size, is_declared=is_declared, launch_key=f"key of {name}")
            for name, size in believed.items()
        }
        self.supervisor = Supervisor(
            models=specs,
            policy=PolicySpec(budgets={name: reader[name].total_mib for name in reader.devices}),
            launches={name: launch(name) for name in believed},
            launcher=self.launcher,
            response_timeout_s=5,
            reader=reader,
            history=self.history,
        )

    async def look(self) -> None:
        assert self.supervisor.memory is not None
        await self.supervisor.memory.look()
        await passed()

    async def load(self, model: str) -> str:
        """Load it, let it take what it needs, and look. Returns its device."""
        self.supervisor.load(model)
        process = await self.launcher.next()
        assert process.identity.model == model
        (device,) = process.identity.devices
        self.reader[device].held_mib[process.pid] = self.needs[model]
        process.output.say("ready")
        while model not in self.ready:
            await self.supervisor.changed()
        await self.look()
        return device

    @property
    def ready(self) -> set[str]:
        return {one.model for one in self.supervisor.effects.instances.values() if one.ready_at and not one.stopping}

    def take_back(self) -> None:
        """The driver notices who has ended."""
        for device in self.reader.devices.values():
            device.held_mib = {pid: mib for pid, mib in device.held_mib.items() if pid not in self.dead}


Make = Callable[..., Machine]


@pytest.fixture
async def machine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    made: list[Machine] = []

    def make(reader: ScriptedReader, needs: dict[str, int], **more: object) -> Machine:
        one = Machine(reader, needs, **{"believed": needs, **more})  # type: ignore[arg-type]
        made.append(one)
        watch = one.supervisor.memory
        assert watch is not None
        watch._family = lambda pid: frozenset({pid} - one.dead)
        watch._is_alive = lambda pid: pid not in one.dead
        return one

    monkeypatch.setattr(memory, "_POLL_S", 0.001)
    yield make
    for one in made:
        one.is_slow = False
        async with asyncio.timeout(5):
            await one.supervisor.close()
        assert one.reader.is_closed


async def test_two_that_fit_stay_together(machine: Make) -> None:
    one = machine(ScriptedReader(d0=24000), {"a": 10000, "b": 10000})
    await one.load("a")
    await one.load("b")
    assert one.ready == {"a", "b"}


async def test_what_a_foreign_process_takes_is_not_given_to_a_model(machine: Make) -> None:
    one = machine(ScriptedReader(d0=24000), {"a": 10000, "b": 10000})
    await one.load("a")
    one.reader["0"].held_mib[FOREIGN] = 8000
    await one.look()
    await one.load("b")
    assert one.ready == {"b"}, "there was room for one of them only"


async def test_a_start_waits_for_memory_that_is_given_back_late(machine: Make) -> None:
    one = machine(ScriptedReader(d0=24000), {"a": 20000, "b": 20000})
    await one.load("a")
    one.is_slow = True
    asked = asyncio.Event()
    reads = one.reader.reads
    loop = asyncio.get_running_loop()
    one.reader.on_read = lambda number: loop.call_soon_threadsafe(asked.set) and None if number > reads + 2 else None
    one.supervisor.load("b")
    async with asyncio.timeout(5):
        await asked.wait()
    assert len(one.launcher.started) == 1, "a has ended, but its memory isn't free"
    one.take_back()
    await one.launcher.next()
    assert one.launcher.started[-1].identity.model == "b"


async def test_a_model_that_grows_after_its_load_gets_no_neighbour_it_has_no_room_for(machine: Make) -> None:
    one = machine(ScriptedReader(d0=24000), {"a": 10000, "b": 10000})
    await one.load("a")
    one.reader["0"].held_mib[one.launcher.started[0].pid] = 16000
    await one.look()
    await one.load("b")
    assert one.ready == {"b"}
    assert one.history.footprint_mib("a", one.supervisor._launches["a"].key) == {"0": 16000}


async def test_on_a_device_that_vanished_nothing_is_started(machine: Make) -> None:
    one = machine(ScriptedReader(d0=24000, d1=24000), {"a": 20000, "b": 20000})
    gone = await one.load("a")
    one.reader.gone = {gone}
    await one.look()
    assert await one.load("b") != gone
    one.reader.gone = set()
    await one.look()
    one.supervisor.unload("a")
    while "a" in {record.model for record in one.supervisor.effects.instances.values()}:
        await one.supervisor.changed()
    assert await one.load("a") == gone, "it is back, and b has the other"


@pytest.mark.parametrize("is_declared", [False, True])
async def test_a_footprint_a_third_too_low_overfills_nothing(machine: Make, is_declared: bool) -> None:
    needs = {"a": 10000, "b": 10000, "c": 10000}
    one = machine(ScriptedReader(d0=24000), needs, believed=dict.fromkeys(needs, 7000), is_declared=is_declared)
    for model in needs:
        await one.load(model)
        assert sum(one.reader["0"].held_mib.values()) <= 24000
    assert len(one.ready) == 2


async def test_a_footprint_a_third_too_high_keeps_nobody_out_for_long(machine: Make) -> None:
    needs = {"a": 10000, "b": 10000}
    one = machine(ScriptedReader(d0=24000), needs, believed=dict.fromkeys(needs, 13000))
    await one.load("a")
    await one.load("b")
    assert one.ready == {"a", "b"}


async def test_a_declared_footprint_that_is_too_high_is_the_users_word(machine: Make) -> None:
    needs = {"a": 10000, "b": 10000}
    one = machine(ScriptedReader(d0=24000), needs, believed=dict.fromkeys(needs, 13000), is_declared=True)
    await one.load("a")
    await one.load("b")
    assert one.ready == {"b"}
