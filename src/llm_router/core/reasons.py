"""Why a model isn't ready yet, in a sentence, and who comes before it. Pure functions over `state` and a plan.

Counterparts: `views`, which shows it, and `decisions`, which keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from llm_router.core.instance import Instance, Lifecycle
from llm_router.core.model import ModelState
from llm_router.core.planning import Plan, contested_by
from llm_router.core.state import State


class WaitPhase(Enum):
    """QUEUED: another model's switch or turn comes first. DRAINING: what must leave finishes its open requests.
    STOPPING: it is being stopped, or parked. STARTING: the model loads. WAKING: it was parked and comes back. BUSY: the
    model is ready, all its places are taken."""

    QUEUED = "queued"
    DRAINING = "draining"
    STOPPING = "stopping"
    STARTING = "starting"
    WAKING = "waking"
    BUSY = "busy"


def _stays(model: ModelState) -> bool:
    instance = model.instance
    return instance is not None and not instance.is_away and instance.drain_until is None


def ahead_of(model: ModelState, plan: Plan, state: State) -> list[ModelState]:
    """The loads that run now where it could go, and the models in front that want the same. Who drains isn't in the
    order yet: it comes behind them all."""
    if _stays(model) or not model.competes:
        return []
    devices, seats = contested_by(model)
    loading = [
        instance.model
        for instance in state.live.values()
        if instance.is_starting and not (devices.isdisjoint(instance.reserved) and seats.isdisjoint(instance.seats))
    ]
    return loading + _in_front(model, plan, state)


def _in_front(model: ModelState, plan: Plan, state: State) -> list[ModelState]:
    devices, seats = contested_by(model)
    before = plan.order[: plan.order.index(model)] if model in plan.order else plan.order
    return [
        other
        for other in before
        if other is not model and not (devices.isdisjoint(other.names) and seats.isdisjoint(other.spec.seats))
    ]


def expected_s(model: ModelState, plan: Plan, state: State, at: float) -> float | None:
    """How long until it is ready, from `at` on: the rest of the loads that run, and all of those to come; None: a load
    is among them that was never seen. Turns aren't counted: they may end at any moment."""
    if _stays(model) and model.instance is not None and not model.instance.is_starting:
        return None
    ready_at = at
    for one in (*ahead_of(model, plan, state), model):
        load_s = one.ready_in_s
        if load_s is None:
            return None
        if one.instance is not None and one.instance.is_starting:
            ready_at = max(ready_at, one.instance.since + load_s)
        else:
            ready_at += load_s
    return ready_at - at


def explain(model: ModelState, plan: Plan, state: State) -> tuple[WaitPhase, str]:
    """Its own instance explains it as long as it is there to stay; then foreign memory; then the models in front; then
    those in its way."""
    name, instance = model.name, model.instance
    if instance is not None and instance.is_waking:
        return WaitPhase.WAKING, f"{name} was parked and is being woken"
    if instance is not None and instance.is_starting:
        return WaitPhase.STARTING, f"{name} is loading"
    if instance is not None and instance.lifecycle is Lifecycle.PARKING:
        return WaitPhase.STOPPING, f"{name} is being parked; it is woken afterwards"
    if instance is not None and instance.lifecycle is Lifecycle.READY:
        return _explain_resident(model, instance, plan, state)
    if model.short_since is not None:
        return WaitPhase.QUEUED, f"{name} needs memory that other programs hold"
    if model.competes and model.name not in plan.choices and (in_front := _in_front(model, plan, state)):
        return WaitPhase.QUEUED, f"{name} comes after {_names(in_front)}"
    return _explain_obstacles(model, plan, state)


def _explain_resident(model: ModelState, instance: Instance, plan: Plan, state: State) -> tuple[WaitPhase, str]:
    name = model.name
    need = plan.needs.get(instance.id)
    for_whom = "others" if need is None or need.beneficiary is None else need.beneficiary.name
    if instance.unload_wanted:
        why = "its configuration changed" if instance.is_outdated else "it is being unloaded"
        return WaitPhase.DRAINING, f"{name} leaves because {why}; it loads again afterwards"
    if instance.drain_until is not None:
        return WaitPhase.QUEUED, f"{name} makes room for {for_whom}; it loads again afterwards"
    if instance.is_suspect:
        return WaitPhase.BUSY, f"{name} lost a connection and is being checked"
    if len(instance.leases) >= instance.slots:
        return WaitPhase.BUSY, f"all places of {name} are taken ({instance.slots})"
    if not state.has_place:
        return WaitPhase.BUSY, f"all places of the router are taken ({state.places})"
    return WaitPhase.QUEUED, f"the turn of {name} is over; {for_whom} comes next"


def _explain_obstacles(model: ModelState, plan: Plan, state: State) -> tuple[WaitPhase, str]:
    """Nobody is in front of it: what is still in its way where it goes?"""
    if not model.competes:
        return WaitPhase.STOPPING, f"{model.name} is being stopped; it loads again afterwards"
    devices, seats = contested_by(model)
    choice = plan.choices.get(model.name)
    if choice is not None:
        devices = frozenset(choice.placement)
    live = [
        instance
        for instance in state.live.values()
        if instance.model is model or not (devices.isdisjoint(instance.reserved) and seats.isdisjoint(instance.seats))
    ]
    if starting := [i.model for i in live if i.is_starting]:
        return WaitPhase.QUEUED, f"{model.name} comes after {_names(starting)}, which is loading"
    stopping = [i.model for i in live if i.lifecycle is Lifecycle.STOPPING]
    unloaded = [i.model for i in live if i.unload_wanted and i.model not in stopping]
    if draining := [i.model for i in live if i.drain_until is not None or i.model in unloaded]:
        return WaitPhase.DRAINING, f"{_names(draining)} must leave first and finishes its open requests"
    if in_turn := [i.model for i in live if i.id in plan.needs]:
        return WaitPhase.QUEUED, f"{_names(in_turn)} must leave first and is in use"
    if parking := [i.model for i in live if i.lifecycle is Lifecycle.PARKING]:
        return WaitPhase.STOPPING, f"{_names(parking)} is being parked first"
    return WaitPhase.STOPPING, f"{_names(stopping)} is being stopped to make room"


def _names(models: Sequence[ModelState]) -> str:
    return " and ".join(dict.fromkeys(model.name for model in models)) or "another model"
