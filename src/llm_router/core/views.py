"""What the scheduler shows to people: why a request waits, and the whole state as values.

Counterpart: `state`. Read-only, and only for showing: whoever decided something by it would act on the past.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from llm_router.core.instance import Instance, Lifecycle
from llm_router.core.planning import plan_switches
from llm_router.core.reasons import WaitPhase, ahead_of, expected_s, explain
from llm_router.core.specs import PolicySpec
from llm_router.core.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why one request waits. Times are monotonic seconds.

    `since`: when it arrived. `started_at`: when the load of its model began, while it runs. `position`: its place among
    the requests for its model, from 0. `ahead`: switches to other models that come first. `expected_s`: a guess at
    how much longer it takes, from the loads seen so far; None: nothing is known. `reason`: one sentence.
    """

    model: str
    phase: WaitPhase
    since: float
    started_at: float | None
    position: int
    ahead: int
    expected_s: float | None
    reason: str


class InstanceState(Enum):
    """Like `Lifecycle`, with the two ways of being ready and not granting, and of starting from being parked."""

    STARTING = "starting"
    WAKING = "waking"
    READY = "ready"
    SUSPECT = "suspect"
    DRAINING = "draining"
    PARKING = "parking"
    PARKED = "parked"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """`since`: when its start or adoption began; `ready_at`: None before it was ready. `leases`: how many are open.
    `last_used_at`: when a request began or ended there. `idle_timeout_s`: it is unloaded after this long without one;
    None: never."""

    id: int
    model: str
    state: InstanceState
    leases: int
    since: float
    ready_at: float | None
    last_used_at: float
    idle_timeout_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingModel:
    """`retry_at`: until then it isn't started again for a request (monotonic seconds)."""

    error: str
    retry_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`waiting`: requests by model, those without any left out. `failing`: by model, until a load works."""

    instances: tuple[InstanceView, ...]
    waiting: Mapping[str, int]
    failing: Mapping[str, FailingModel]


def snapshot(state: State) -> Snapshot:
    return Snapshot(
        instances=tuple(_instance_view(instance) for instance in state.live.values()),
        waiting={model.name: len(model.queue) for model in state.models.values() if model.queue},
        failing={
            model.name: FailingModel(error=model.failure.error, retry_at=model.failure.retry_at)
            for model in state.models.values()
            if model.failure is not None
        },
    )


def _instance_view(instance: Instance) -> InstanceView:
    return InstanceView(
        id=instance.id,
        model=instance.model.name,
        state=instance_state(instance),
        leases=len(instance.leases),
        since=instance.since,
        ready_at=instance.ready_at,
        last_used_at=instance.last_used_at,
        idle_timeout_s=instance.idle_timeout_s,
    )


def instance_state(instance: Instance) -> InstanceState:
    if instance.lifecycle is Lifecycle.STARTING:
        return InstanceState.WAKING if instance.is_waking else InstanceState.STARTING
    if instance.lifecycle is not Lifecycle.READY:
        return InstanceState(instance.lifecycle.value)
    if instance.drain_until is not None:
        return InstanceState.DRAINING
    return InstanceState.SUSPECT if instance.is_suspect else InstanceState.READY


def wait_of(state: State, policy: PolicySpec, at: float, request: int) -> Wait | None:
    """Why this request still waits; None if it doesn't. `at`: now."""
    model = state.waiting.get(request)
    if model is None:
        return None
    plan = plan_switches(state, policy, at)
    phase, reason = explain(model, plan, state)
    starting = model.instance if model.instance is not None and model.instance.is_starting else None
    return Wait(
        model=model.name,
        phase=phase,
        since=model.queue[request].at,
        started_at=None if starting is None else starting.since,
        position=model.queue.position(request),
        ahead=len(ahead_of(model, plan, state)),
        expected_s=expected_s(model, plan, state, at),
        reason=reason,
    )
