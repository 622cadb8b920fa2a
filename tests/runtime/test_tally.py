"""What is counted: requests by model and outcome, loads, evictions and crashes, and how long each phase of a switch
takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from scripted import Health, launch
from test_supervisor import Runtime, runtime  # noqa: F401 -- the fixture

from llm_router.core.commands import StartInstance, StopInstance
from llm_router.core.decisions import Action, Decision
from llm_router.core.events import InstanceAdopted, InstanceGone, InstanceReady
from llm_router.relay.headers import RequestHead
from llm_router.relay.request import Kind
from llm_router.runtime.tally import Histogram, Loaded, Phase, Requests, Switches

Make = Callable[..., Runtime]


# -- requests


def ended(
    requests: Requests, model: str = "m", kind: Kind = Kind.CHAT, outcome: str = "completed", **more: float
) -> None:
    times = {"since": 100.0, "sent_at": 100.001, "first_at": 0.0, "now": 103.0}
    figures = {"prompt_n": 0, "completion_n": 0, "rate": 0.0}
    numbers = {**times, **figures, **more}
    requests.ended(model, kind, outcome, *numbers.values(), RequestHead([]), None)  # type: ignore[arg-type]


def test_a_value_on_a_bound_counts_for_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 14.0


def test_requests_are_counted_by_model_kind_and_outcome() -> None:
    requests = Requests()
    for kind, outcome in [(Kind.CHAT, "completed"), (Kind.CHAT, "completed"), (Kind.RAW, "cancelled")]:
        ended(requests, kind=kind, outcome=outcome)
    ended(requests, model="other", outcome="no_room")
    assert set(requests.models["m"].requests()) == {(Kind.CHAT, "completed", 2), (Kind.RAW, "cancelled", 1)}
    assert list(requests.models["other"].requests()) == [(Kind.CHAT, "no_room", 1)]


def test_tokens_add_up() -> None:
    requests = Requests()
    ended(requests, prompt_n=10, completion_n=4)
    ended(requests, prompt_n=1, completion_n=2)
    tally = requests.models["m"]
    assert (tally.prompt_tokens, tally.completion_tokens) == (11, 6)


def test_a_request_that_was_never_sent_has_waited_for_nothing() -> None:
    requests = Requests()
    ended(requests, sent_at=0.0)
    assert sum(requests.models["m"].waits.counts) == 0
    assert sum(requests.models["m"].durations.counts) == 1


def test_a_wait_is_told_from_none() -> None:
    requests = Requests()
    ended(requests, sent_at=100.0001)
    ended(requests, sent_at=102.0)
    waits = requests.models["m"].waits
    assert (sum(waits.counts), waits.counts[0], waits.total) == (2, 1, 2.0)


def test_only_streams_have_a_first_token_and_a_speed() -> None:
    requests = Requests()
    ended(requests)
    ended(requests, first_at=101.0, rate=45.0)
    tally = requests.models["m"]
    assert (sum(tally.first_tokens.counts), tally.first_tokens.total) == (1, 1.0)
    assert (sum(tally.rates.counts), tally.rates.total) == (1, 45.0)


def test_what_ended_is_taken_once_with_the_time_of_day() -> None:
    requests = Requests()
    ended(requests, prompt_n=3, completion_n=4, first_at=101.0)
    ended(requests, sent_at=0.0, outcome="no_room")
    first, second = requests.taken(monotonic_s=113.0, epoch_s=5000.0)
    assert (first.at, first.took_s, first.first_token_s, first.prompt_tokens) == (4990.0, 3.0, 1.0, 3)
    assert (second.outcome, second.wait_s, second.first_token_s) == ("no_room", None, None)
    assert requests.taken(113.0, 5000.0) == []


def test_a_storm_of_requests_is_counted_but_not_all_of_it_written_down() -> None:
    requests = Requests()
    for _ in range(5000):
        ended(requests)
    assert len(requests.taken(113.0, 5000.0)) == 2000
    assert sum(requests.models["m"].durations.counts) == 5000


# -- switches


class Story:
    """Orders and reports as they come, on a clock that the test sets."""

    def __init__(self) -> None:
        self.at = 100.0
        self.decided: list[Decision] = []
        self.room_s = 0.0
        self.switches = Switches(
            now=lambda: self.at, decisions=lambda _: self.decided, room_s=lambda instance: self.room_s
        )

    def start(self, instance: int = 1, model: str = "m") -> None:
        command = StartInstance(instance=instance, model=model, devices=(), reserved_mib={})
        self.switches.commanded(command)

    def ready(self, instance: int = 1) -> None:
        self.switches.reported(InstanceReady(at=self.at, instance=instance))

    def stop(self, instance: int = 1) -> None:
        self.switches.commanded(StopInstance(instance=instance))

    def gone(self, instance: int = 1, error: str | None = None) -> None:
        self.switches.reported(InstanceGone(at=self.at, instance=instance, error=error))

    def decide(self, action: Action) -> None:
        self.decided.append(Decision(at=self.at, model="m", action=action, reason=""))

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
