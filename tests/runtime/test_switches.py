"""What is counted of switches: loads, evictions and crashes, and how long each phase takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from scripted import Health, launch
from test_supervisor import Runtime, runtime  # noqa: F401 -- the fixture

from llm_router.core.commands import StartInstance, StopInstance, WakeInstance
from llm_router.core.decisions import Action, Decision
from llm_router.core.events import InstanceAdopted, InstanceGone, InstanceReady
from llm_router.runtime.switches import Loaded, Phase, Switched, Switches

Make = Callable[..., Runtime]


class Story:
    """Orders and reports as they come, on a clock that the test sets."""

    def __init__(self) -> None:
        self.at = 100.0
        self.decided: list[Decision] = []
        self.room_s = 0.0
        self.switches = Switches(
            now=lambda: self.at, decisions=lambda _: self.decided, room_s=lambda instance: self.room_s
        )
        self.told: list[Switched] = []
        self.switches.tell = self.told.append

    def start(self, instance: int = 1, model: str = "m") -> None:
        command = StartInstance(instance=instance, model=model, devices=(), reserved_mib={})
        self.switches.commanded(command)

    def ready(self, instance: int = 1) -> None:
        self.switches.reported(InstanceReady(at=self.at, instance=instance))

    def stop(self, instance: int = 1) -> None:
        self.switches.commanded(StopInstance(instance=instance))

    def gone(self, instance: int = 1, error: str | None = None) -> None:
        self.switches.reported(InstanceGone(at=self.at, instance=instance, error=error))

    def decide(self, action: Action, reason: str = "") -> None:
        self.decided.append(Decision(at=self.at, model="m", action=action, reason=reason))

    def took_s(self, phase: Phase) -> float:
        return self.switches.phases[phase].total

    def times(self, phase: Phase) -> int:
        return sum(self.switches.phases[phase].counts)


def test_a_load_is_told_from_the_wait_for_its_room() -> None:
    one = Story()
    one.start()
    one.at, one.room_s = 107.0, 3.0
    one.ready()
    one.ready()  # after a check
    assert one.switches.loads == {("m", Loaded.READY): 1}
    assert (one.took_s(Phase.ROOM), one.took_s(Phase.LOAD)) == (3.0, 4.0)
    assert one.times(Phase.LOAD) == 1


@pytest.mark.parametrize(("error", "outcome"), [("it broke", Loaded.FAILED), (None, Loaded.CANCELLED)])
def test_a_load_that_never_ends_well_is_no_crash(error: str | None, outcome: Loaded) -> None:
    one = Story()
    one.start()
    one.gone(error=error)
    assert one.switches.loads == {("m", outcome): 1}
    assert one.switches.crashes == {}
    assert one.times(Phase.LOAD) == 0


def test_the_end_of_a_ready_server_by_its_own_will_is_a_crash() -> None:
    one = Story()
    one.start()
    one.ready()
    one.gone(error="killed")
    assert one.switches.crashes == {"m": 1}


@pytest.mark.parametrize("action", [Action.EVICTED, Action.TURN_ENDED])
def test_an_eviction_drains_and_stops(action: Action) -> None:
    one = Story()
    one.start()
    one.ready()
    one.decide(action)
    one.at = 105.0
    one.stop()
    one.stop()
    one.at = 106.5
    one.gone()
    assert one.switches.evictions == {"m": 1}
    assert (one.took_s(Phase.DRAIN), one.took_s(Phase.STOP)) == (5.0, 1.5)
    assert (one.times(Phase.DRAIN), one.times(Phase.STOP)) == (1, 1)
    assert one.switches.crashes == {}


def test_who_left_for_another_reason_was_not_evicted() -> None:
    one = Story()
    one.start()
    one.ready()
    one.decide(Action.LEFT)
    one.stop()
    assert one.switches.evictions == {}
    assert one.times(Phase.DRAIN) == 1


def test_an_old_decision_says_nothing_about_a_new_instance() -> None:
    one = Story()
    one.decide(Action.EVICTED)
    one.at = 101.0
    one.start()
    one.ready()
    one.stop()
    assert one.switches.evictions == {}
    assert one.times(Phase.DRAIN) == 0


def test_an_adopted_server_was_not_loaded() -> None:
    one = Story()
    one.switches.reported(InstanceAdopted(at=100.0, instance=3, model="m"))
    one.ready(3)
    one.gone(3, error="killed")
    assert one.switches.loads == {}
    assert one.switches.crashes == {"m": 1}


# -- what is told


def test_each_load_is_told_with_its_parts() -> None:
    one = Story()
    one.start()
    one.at, one.room_s = 107.0, 3.0
    one.ready()
    phases = (Phase.ROOM, 100.0, 103.0), (Phase.LOAD, 103.0, 107.0)
    assert one.told == [Switched(model="m", instance=1, phases=phases, outcome=Loaded.READY)]


def test_a_wake_is_told_too() -> None:
    one = Story()
    one.start()
    one.ready()
    one.switches.commanded(WakeInstance(instance=1, model="m", devices=(), reserved_mib={}))
    one.at = 101.5
    one.ready()
    assert one.told[-1].phases == ((Phase.WAKE, 100.0, 101.5),)


def test_a_load_that_fails_is_told_with_its_error() -> None:
    one = Story()
    one.start()
    one.at = 104.0
    one.gone(error="it broke")
    [told] = one.told
    assert (told.phases, told.outcome, told.error) == (((Phase.LOAD, 100.0, 104.0),), Loaded.FAILED, "it broke")


def test_a_stop_is_told_with_the_reason_for_it() -> None:
    one = Story()
    one.start()
    one.ready()
    one.decide(Action.EVICTED, "to make room for b")
    one.at = 105.0
    one.stop()
    one.at = 106.5
    one.gone()
    phases = (Phase.DRAIN, 100.0, 105.0), (Phase.STOP, 105.0, 106.5)
    assert one.told[1:] == [Switched(model="m", instance=1, phases=phases, reason="to make room for b")]


# -- the whole runtime


async def test_the_runtime_counts_what_it_does(runtime: Make, health: Health) -> None:  # noqa: F811
    one = runtime(launch(port=health.port))
    await one.load()
    one.supervisor.unload("m")
    async with asyncio.timeout(5):
        while one.supervisor.instance_of("m") is not None:
            await one.supervisor.changed()
    await one.load()
    one.launcher.started[-1].exit(-9)
    async with asyncio.timeout(5):
        while one.supervisor.instance_of("m") is not None:
            await one.supervisor.changed()
    switches = one.supervisor.switches
    assert switches.loads == {("m", Loaded.READY): 2}
    assert switches.crashes == {"m": 1}
    assert {phase: sum(found.counts) for phase, found in switches.phases.items()} == {
        Phase.DRAIN: 1,
        Phase.STOP: 1,
        Phase.ROOM: 2,
        Phase.LOAD: 2,
        Phase.WAKE: 0,
    }
