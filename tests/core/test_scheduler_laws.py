"""The laws of the core under everything that can happen, in any order: late, early, twice, or not at all.

Each step is watched by `laws.Witness`. When the play is over, the world answers whatever is still open, and then
nobody may be left waiting.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from laws import Witness

from llm_router.core.events import (
    Event,
    InstanceAdopted,
    InstanceGone,
    InstanceReady,
    LoadRequested,
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
from llm_router.core.specs import ModelSpec, PolicySpec

SPECS = st.builds(
    ModelSpec,
    name=st.just(""),
    footprint_mib=st.sampled_from([None, 0, 4, 10, 16, 30]),
    idle_timeout_s=st.sampled_from([None, None, 5.0, 60.0]),
    concurrency=st.sampled_from([None, 1, 2]),
    priority=st.sampled_from([0, 0, 0, 1]),
    pinned=st.sampled_from([False, False, False, True]),
)
POLICIES = st.builds(
    PolicySpec,
    budgets=st.sampled_from([{"gpu": None}, {"gpu": 20}, {"gpu": 24}]),
    queue_limit=st.sampled_from([2, 5, 256]),
    patience_s=st.sampled_from([0.0, 3.0, 10.0]),
    drain_timeout_s=st.sampled_from([0.0, 5.0, 30.0]),
    backoff_base_s=st.just(2.0),
    backoff_max_s=st.sampled_from([8.0, 60.0]),
)
NAMES = ["a", "b", "c", "d"]
MODELS = st.tuples(*[SPECS] * len(NAMES)).map(
    lambda specs: {
        name: ModelSpec(
            name=name,
            footprint_mib=spec.footprint_mib,
            idle_timeout_s=spec.idle_timeout_s,
            concurrency=spec.concurrency,
            priority=spec.priority,
            pinned=spec.pinned,
        )
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
        self.models, self.policy = models, policy
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

    @rule(name=st.sampled_from(NAMES), background=st.sampled_from([False, False, False, True]))
    def a_request_arrives(self, name: str, background: bool) -> None:
        self.requests += 1
        request_class = RequestClass.TASK if background else RequestClass.NORMAL
        self.post(RequestArrived(at=self.now, request=self.requests, model=name, request_class=request_class))

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=8))
    def a_burst_arrives(self, names: list[str]) -> None:
        for name in names:
            self.a_request_arrives(name, background=False)

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
    @rule(pick=PICK)
    def a_start_fails(self, pick: int) -> None:
        self.post(InstanceGone(at=self.now, instance=self.some("starting", pick), error="CUDA out of memory"))

    @precondition(lambda self: self.has("stopping"))
    @rule(pick=PICK, error=st.sampled_from([None, "killed"]))
    def a_stop_completes(self, pick: int, error: str | None) -> None:
        self.post(InstanceGone(at=self.now, instance=self.some("stopping", pick), error=error))

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
    @rule(name=st.sampled_from([*NAMES, "forgotten"]))
    def an_instance_is_adopted(self, name: str) -> None:
        self.adopted += 1
        instance = 10 * self.adopted + len(self.witness.history)
        self.post(InstanceAdopted(at=self.now, instance=instance, model=name))

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
            elif server.state == "stopping":
                self.post(InstanceGone(at=self.now, instance=instance))
        for timer, at in sorted(witness.timers.items(), key=lambda item: item[1])[:1]:
            self.now = max(self.now, at)
            self.post(TimerFired(at=self.now, timer=timer))
        for request in list(witness.open)[:1]:
            self.post(RequestClosed(at=self.now, request=request))


TestAnything = Anything.TestCase
TestAnything.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
