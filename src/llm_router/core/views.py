"""What the scheduler shows to people: why a request waits, and the whole state as values.

Counterpart: `state`. Read-only, and only for showing: whoever decided something by it would act on the past.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from llm_router.core.policy import Plan, plan_switch
from llm_router.core.specs import PolicySpec
from llm_router.core.state import Instance, Lifecycle, ModelState, State


class WaitPhase(Enum):
    """QUEUED: another model's switch or turn comes first. DRAINING: what must leave finishes its open requests.
    STOPPING: it is being stopped. STARTING: the model loads. BUSY: the model is ready, all its places are taken."""

    QUEUED = "queued"
    DRAINING = "draining"
    STOPPING = "stopping"
    STARTING = "starting"
    BUSY = "busy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why one request waits. Times are monotonic seconds.

    `since`: when it arrived. `started_at`: when the load of its model began, while it runs. `position`: its place among
    the requests for its model, from 0. `ahead`: switches to other models that come first. `reason`: one sentence.
    """

    model: str
    phase: WaitPhase
    since: float
    started_at: float | None
    position: int
    ahead: int
    reason: str


class InstanceState(Enum):
    """Like `Lifecycle`, with the two ways of being ready and not granting."""

    STARTING = "starting"
    READY = "ready"
    SUSPECT = "suspect"
    DRAINING = "draining"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """`since`: when its start or adoption began; `ready_at`: None before it was ready. `leases`: how many are open."""

    id: int
    model: str
    state: InstanceState
    leases: int
    since: float
    ready_at: float | None


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
        state=_instance_state(instance),
        leases=len(instance.leases),
        since=instance.since,
        ready_at=instance.ready_at,
    )


def _instance_state(instance: Instance) -> InstanceState:
    if instance.lifecycle is Lifecycle.STARTING:
        return InstanceState.STARTING
    if instance.lifecycle is Lifecycle.STOPPING:
        return InstanceState.STOPPING
    if instance.drain_until is not None:
        return InstanceState.DRAINING
    return InstanceState.SUSPECT if instance.is_suspect else InstanceState.READY


def wait_of(state: State, policy: PolicySpec, request: int) -> Wait | None:
    """Why this request still waits; None if it doesn't."""
    model = state.waiting.get(request)
    if model is None:
        return None
    plan = plan_switch(state, policy)
    phase, reason = _explain(model, plan, state)
    starting = model.instance if model.instance is not None and model.instance.is_starting else None
    return Wait(
        model=model.name,
        phase=phase,
        since=model.queue[request].age[0],
        started_at=None if starting is None else starting.since,
        position=list(model.queue).index(request),
        ahead=_switches_ahead(model, plan, state),
        reason=reason,
    )


def _switches_ahead(model: ModelState, plan: Plan, state: State) -> int:
    """The load that runs now, and the models in front. Who drains isn't in the order yet: it comes behind them all."""
    instance = model.instance
    stays = instance is not None and instance.lifecycle is not Lifecycle.STOPPING and instance.drain_until is None
    if stays or not model.competes:
        return 0
    in_front = plan.order.index(model) if model in plan.order else len(plan.order)
    return in_front + (state.switch_in_progress() is not None)


def _explain(model: ModelState, plan: Plan, state: State) -> tuple[WaitPhase, str]:
    """Its own instance explains it as long as it is there to stay; then the models in front; then those in its way."""
    name, instance = model.name, model.instance
    if instance is not None and instance.is_starting:
        return WaitPhase.STARTING, f"{name} is loading"
    if instance is not None and instance.lifecycle is Lifecycle.READY:
        return _explain_resident(model, instance, plan)
    if plan.target is not model and plan.target is not None and model.competes:
        return WaitPhase.QUEUED, f"{name} comes after {_names(plan.order[: plan.order.index(model)])}"
    return _explain_obstacles(model, plan, state)


def _explain_resident(model: ModelState, instance: Instance, plan: Plan) -> tuple[WaitPhase, str]:
    name = model.name
    if instance.drain_until is not None and instance.unload_wanted:
        return WaitPhase.DRAINING, f"{name} is being unloaded; it loads again afterwards"
    if instance.drain_until is not None:
        return WaitPhase.QUEUED, f"{name} makes room for {_names(plan.order[:1])}; it loads again afterwards"
    if instance.is_suspect:
        return WaitPhase.BUSY, f"{name} lost a connection and is being checked"
    if len(instance.leases) >= instance.slots:
        return WaitPhase.BUSY, f"all places of {name} are taken ({instance.slots})"
    return WaitPhase.QUEUED, f"the turn of {name} is over; {_names(plan.order[:1])} comes next"


def _explain_obstacles(model: ModelState, plan: Plan, state: State) -> tuple[WaitPhase, str]:
    """Nobody is in front of it: what on the device is still in its way?"""
    if not model.competes:
        return WaitPhase.STOPPING, f"{model.name} is being stopped; it loads again afterwards"
    live = [instance for instance in state.live.values() if instance.model.competes]
    stopping = [i.model for i in live if i.lifecycle is Lifecycle.STOPPING]
    draining = [i.model for i in live if i.drain_until is not None or (i.unload_wanted and i.model not in stopping)]
    in_turn = [i.model for i in live if i.id in plan.victims and i.drain_until is None]
    starting = state.switch_in_progress()
    if starting is not None:
        return WaitPhase.QUEUED, f"{model.name} comes after {starting.model.name}, which is loading"
    if draining:
        return WaitPhase.DRAINING, f"{_names(draining)} must leave first and finishes its open requests"
    if in_turn:
        return WaitPhase.QUEUED, f"{_names(in_turn)} must leave first and is in use"
    return WaitPhase.STOPPING, f"{_names(stopping)} is being stopped to make room"


def _names(models: list[ModelState] | tuple[ModelState, ...]) -> str:
    return " and ".join(model.name for model in models) or "another model"
