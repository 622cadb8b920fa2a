"""The laws of the core under everything that can happen, in any order: late, early, twice, or not at all.

Each step is watched by `laws.Witness`. When the play is over, the world answers whatever is still open, and then
nobody may be left waiting.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from laws import Witness

from llm_router.core.events import (
    DeviceMeasured,
    Event,
    InstanceAdopted,
    InstanceGone,
    InstanceParked,
    InstanceReady,
    KeepRequested,
    LoadRequested,
    MemoryMeasured,
    ModelsChanged,
    RequestArrived,
    RequestClass,
    RequestClosed,
    ShutdownRequested,
    TimerFired,
    TimerKey,
    TimerKind,
    UnloadRequested,
)
from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import ANY_DEVICE, ModelSpec, PolicySpec

SPECS = st.builds(
    ModelSpec,
    name=st.just(""),
    footprint_mib=st.sampled_from([None, 0, 4, 10, 16, 30]),
    idle_timeout_s=st.sampled_from([None, None, 5.0, 60.0]),
    park_after_s=st.sampled_from([None, None, 2.0, 20.0]),
    concurrency=st.sampled_from([None, 1, 2]),
    priority=st.sampled_from([0, 0, 0, 1]),
    pinned=st.sampled_from([False, False, False, True]),
    is_declared=st.booleans(),
    devices=st.sampled_from([None, None, None, ("gpu",), ("gpu2",), ("gpu", "gpu2")]),
    seats=st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"seat"})]),
    companions=st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"a", "b"})]),
    launch_key=st.sampled_from(["one", "two"]),
)
POLICIES = st.builds(
    PolicySpec,
    budgets=st.sampled_from([{"gpu": 20, "gpu2": 24}, {"gpu": None, "gpu2": None}, {ANY_DEVICE: 20}]),
    concurrency=st.sampled_from([None, None, 1, 3]),
    min_residency_s=st.sampled_from([0.0, 0.0, 20.0]),
    queue_limit=st.sampled_from([2, 5, 256]),
    patience_s=st.sampled_from([0.0, 3.0, 10.0]),
    drain_timeout_s=st.sampled_from([0.0, 5.0, 30.0]),
    backoff_base_s=st.just(2.0),
    backoff_max_s=st.sampled_from([8.0, 60.0]),
)
NAMES = ["a", "b", "c", "d"]
DEVICES = ["gpu", "gpu2"]
MODELS = st.tuples(*[SPECS] * len(NAMES)).map(
    lambda specs: {
        name: replace(spec, name=name, is_declared=spec.is_declared and spec.footprint_mib is not None)
        for name, spec in zip(NAMES, specs, strict=True)
    }
)
PASSING = st.sampled_from([0.0, 0.0, 0.5, 2.0, 7.0, 40.0])
PICK = st.integers(min_value=0, max_value=1000)


class Anything(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.requests = 0
        self.adopted = 0
        self.has_started = False

    @initialize(models=MODELS, policy=POLICIES)
    def begin(self, models: dict[str, ModelSpec], policy: PolicySpec) -> None:
        self.all_models = models
        self.models, self.policy = dict(models), policy
        self.witness = Witness(models, policy)

    def post(self, event: Event) -> None:
        self.witness.handle(event)

    def some(self, state: str, pick: int) -> int:
        found = [id_ for id_, server in self.witness.servers.items() if server.state == state]
        return found[pick % len(found)]

    def has(self, state: str) -> bool:
        return any(server.state == state for server in self.witness.servers.values())

    @rule(passing=PASSING)
    def time_passes(self, passing: float) -> None:
        self.now += passing

    @rule(name=st.sampled_from(NAMES), request_class=st.sampled_from(RequestClass))
    def a_request_arrives(self, name: str, request_class: RequestClass) -> None:
        self.requests += 1
        self.post(RequestArrived(at=self.now, request=self.requests, model=name, request_class=request_class))

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=8))
    def a_burst_arrives(self, names: list[str]) -> None:
        for name in names:
            self.a_request_arrives(name, RequestClass.NORMAL)

    @precondition(lambda self: self.witness.open)
    @rule(pick=PICK, lost=st.sampled_from([False, False, True]))
    def a_running_request_ends(self, pick: int, lost: bool) -> None:
        request = list(self.witness.open)[pick % len(self.witness.open)]
        self.post(RequestClosed(at=self.now, request=request, lost=lost))

    @precondition(lambda self: self.witness.waiting)
    @rule(pick=PICK)
    def a_waiting_client_leaves(self, pick: int) -> None:
        request = list(self.witness.waiting)[pick % len(self.witness.waiting)]
        self.post(RequestClosed(at=self.now, request=request))

    @precondition(lambda self: self.has("starting"))
    @rule(pick=PICK)
    def a_start_succeeds(self, pick: int) -> None:
        self.post(InstanceReady(at=self.now, instance=self.some("starting", pick)))

    @precondition(lambda self: self.has("starting"))
    @rule(pick=PICK, out_of_memory=st.booleans())
    def a_start_fails(self, pick: int, out_of_memory: bool) -> None:
        instance = self.some("starting", pick)
        self.post(InstanceGone(at=self.now, instance=instance, error="it broke", out_of_memory=out_of_memory))

    @rule(pick=PICK, used_mib=st.dictionaries(st.sampled_from(DEVICES), st.integers(min_value=0, max_value=22)))
    def memory_is_measured(self, pick: int, used_mib: dict[str, int]) -> None:
        if self.witness.servers:
            instance = list(self.witness.servers)[pick % len(self.witness.servers)]
            self.post(MemoryMeasured(at=self.now, instance=instance, used_mib=used_mib))

    @rule(device=st.sampled_from(DEVICES), available_mib=st.sampled_from([None, 0, 5, 12, 20, 30]))
    def a_device_is_measured(self, device: str, available_mib: int | None) -> None:
        if device in self.policy.budgets:
            self.post(DeviceMeasured(at=self.now, device=device, available_mib=available_mib))

    @rule(removed=st.sets(st.sampled_from(NAMES), max_size=2), changed=st.sets(st.sampled_from(NAMES), max_size=2))
    def the_configuration_changes(self, removed: set[str], changed: set[str]) -> None:
        for name in changed:
            spec = self.all_models[name]
            key = "two" if spec.launch_key == "one" else "one"
            self.all_models[name] = replace(spec, launch_key=key, priority=1 - spec.priority)
        models = {name: spec for name, spec in self.all_models.items() if name not in removed}
        self.post(ModelsChanged(at=self.now, models=models))

    @precondition(lambda self: self.has("stopping"))
    @rule(pick=PICK, error=st.sampled_from([None, "killed"]))
    def a_stop_completes(self, pick: int, error: str | None) -> None:
        self.post(InstanceGone(at=self.now, instance=self.some("stopping", pick), error=error))

    @precondition(lambda self: self.has("parking"))
    @rule(
        pick=PICK,
        held_mib=st.one_of(st.none(), st.dictionaries(st.sampled_from(DEVICES), st.integers(0, 3), max_size=1)),
    )
    def a_park_completes(self, pick: int, held_mib: dict[str, int] | None) -> None:
        self.post(InstanceParked(at=self.now, instance=self.some("parking", pick), held_mib=held_mib))

    @precondition(lambda self: self.has("parking") or self.has("parked"))
    @rule(pick=PICK, state=st.sampled_from(["parking", "parked"]), error=st.sampled_from([None, "killed"]))
    def one_that_parks_or_is_parked_ends(self, pick: int, state: str, error: str | None) -> None:
        if self.has(state):
            self.post(InstanceGone(at=self.now, instance=self.some(state, pick), error=error))

    @precondition(lambda self: self.witness.servers)
    @rule(pick=PICK)
    def a_stray_parked_arrives(self, pick: int) -> None:
        """Also of one that was adopted, which is how that turns out to be parked."""
        instance = list(self.witness.servers)[pick % len(self.witness.servers)]
        self.post(InstanceParked(at=self.now, instance=instance))

    @precondition(lambda self: self.has("ready"))
    @rule(pick=PICK, error=st.sampled_from([None, "segfault"]))
    def a_ready_one_crashes(self, pick: int, error: str | None) -> None:
        self.post(InstanceGone(at=self.now, instance=self.some("ready", pick), error=error))

    @precondition(lambda self: self.has("suspect"))
    @rule(pick=PICK, alive=st.booleans())
    def a_check_completes(self, pick: int, alive: bool) -> None:
        instance = self.some("suspect", pick)
        ready = InstanceReady(at=self.now, instance=instance)
        self.post(ready if alive else InstanceGone(at=self.now, instance=instance, error="connection refused"))

    @rule(name=st.sampled_from(NAMES))
    def someone_loads(self, name: str) -> None:
        self.post(LoadRequested(at=self.now, model=name))

    @rule(name=st.sampled_from(NAMES))
    def someone_unloads(self, name: str) -> None:
        self.post(UnloadRequested(at=self.now, model=name))

    @rule(name=st.sampled_from(NAMES), keep_s=st.sampled_from([0.0, 5.0, 60.0, math.inf]))
    def someone_keeps(self, name: str, keep_s: float) -> None:
        self.post(KeepRequested(at=self.now, model=name, keep_s=keep_s))

    @precondition(lambda self: self.witness.timers)
    @rule(pick=PICK)
    def a_timer_fires_when_it_is_due(self, pick: int) -> None:
        timer = list(self.witness.timers)[pick % len(self.witness.timers)]
        self.now = max(self.now, self.witness.timers[timer])
        self.post(TimerFired(at=self.now, timer=timer))

    @rule(kind=st.sampled_from(TimerKind), subject=st.integers(min_value=0, max_value=5))
    def a_stray_timer_fires(self, kind: TimerKind, subject: int) -> None:
        self.post(TimerFired(at=self.now, timer=TimerKey(kind, subject)))

    @rule(instance=st.integers(min_value=0, max_value=5))
    def a_late_ready_arrives(self, instance: int) -> None:
        if instance not in self.witness.servers:
            self.post(InstanceReady(at=self.now, instance=instance))

    @precondition(lambda self: self.requests == 0 and self.adopted < 3)
    @rule(name=st.sampled_from([*NAMES, "forgotten"]), devices=st.sampled_from([(), (), ("gpu",)]))
    def an_instance_is_adopted(self, name: str, devices: tuple[str, ...]) -> None:
        self.adopted += 1
        instance = 10 * self.adopted + len(self.witness.history)
        devices = tuple(device for device in devices if device in self.policy.budgets)
        self.post(InstanceAdopted(at=self.now, instance=instance, model=name, devices=devices))

    @precondition(lambda self: len(self.witness.history) > 25)
    @rule()
    def the_router_shuts_down(self) -> None:
        self.post(ShutdownRequested(at=self.now))

    def teardown(self) -> None:
        """Arrivals stop and the world answers: everybody is served or refused, in a bounded number of steps."""
        if not hasattr(self, "witness"):
            return
        witness = self.witness
        for _ in range(60 + 10 * len(witness.waiting)):
            if not witness.waiting:
                break
            self._world_answers()
        assert not witness.waiting, "somebody waits for ever"
        for request in list(witness.open):
            self.post(RequestClosed(at=self.now, request=request))
        assert witness.ended == set(range(1, self.requests + 1)), "every request ends, exactly once"
        replay = Scheduler(self.models, self.policy)
        assert [tuple(replay.handle(event)) for event, _ in witness.history] == [c for _, c in witness.history]

    def _world_answers(self) -> None:
        witness = self.witness
        for instance, server in list(witness.servers.items()):
            if server.state in ("starting", "suspect"):
                self.post(InstanceReady(at=self.now, instance=instance))
            elif server.state == "parking":
                self.post(InstanceParked(at=self.now, instance=instance))
            elif server.state == "stopping":
                self.post(InstanceGone(at=self.now, instance=instance))
        for timer, at in sorted(witness.timers.items(), key=lambda item: item[1])[:1]:
            self.now = max(self.now, at)
            self.post(TimerFired(at=self.now, timer=timer))
        for request in list(witness.open)[:1]:
            self.post(RequestClosed(at=self.now, request=request))


def plays(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )


def test_the_laws_hold_whatever_happens() -> None:
    run_state_machine_as_test(Anything, settings=plays(60))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_laws_hold_whatever_happens_in_many_more_plays() -> None:
    run_state_machine_as_test(Anything, settings=plays(600))
