"""Everything there is to say about one model: what it waits for, what it needs, and where that room is.

Counterpart: `views`, which shows all of them at a glance. Read-only, and only for showing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_router.core.decisions import Decision, Decisions
from llm_router.core.device import Device
from llm_router.core.geometry import possible_placements
from llm_router.core.model import ModelState
from llm_router.core.placement import choose, prospects_of
from llm_router.core.planning import plan_switches
from llm_router.core.policy import urgency
from llm_router.core.reasons import ahead_of, explain
from llm_router.core.specs import PolicySpec
from llm_router.core.state import State
from llm_router.core.views import InstanceState, instance_state

_DECISIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One device, in MiB. `budget_mib`: what models may use of it now; None: unknown. `reserved_mib`: by model; None:
    all of it."""

    device: str
    budget_mib: int | None
    is_gone: bool
    reserved_mib: Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """`state`: of its instance; None: it has none. `reason`: one sentence.

    `footprint_mib`: what a start would reserve over all devices; None: unknown. `load_s`: how long its loads took.
    `needs_mib`: where it is or would go, by device; None: all of that device. `rooms`: the devices that it may use.
    `would_leave`: who leaves, or would leave, for it. `never`: why no room can be made for it.
    `ahead`: the models that come before it. `urgency`: by model in need, the most urgent first: its virtual deadline in
    monotonic seconds. `decisions`: the last ones about it and its devices, oldest first.
    """

    model: str
    state: InstanceState | None
    waiting: int
    reason: str
    footprint_mib: int | None
    load_s: float | None
    needs_mib: Mapping[str, int | None]
    rooms: tuple[Room, ...]
    would_leave: tuple[str, ...]
    never: str | None
    ahead: tuple[str, ...]
    urgency: Mapping[str, float]
    decisions: tuple[Decision, ...]


def why(state: State, policy: PolicySpec, at: float, name: str, decisions: Decisions) -> Why | None:
    """None: no such model is configured. `at`: the time of the last event."""
    model = state.models.get(name)
    if model is None:
        return None
    plan = plan_switches(state, policy, at)
    instance = model.instance
    names = sorted(model.names)
    never = prospects_of(model, state).never
    choice = plan.choices.get(name) or choose(model, state, policy, at, (), frozenset())
    placements = possible_placements(model, state.devices)
    needs = choice.placement if choice is not None else (placements or [{}])[0]
    resident = instance is not None
    return Why(
        model=name,
        state=None if instance is None else instance_state(instance),
        waiting=len(model.queue),
        reason=explain(model, plan, state)[1] if model.is_wanted else _at_rest(model),
        footprint_mib=model.footprint_mib,
        load_s=model.load_s,
        needs_mib=instance.reserved if instance is not None else needs,
        rooms=tuple(_room(state.devices[device], state) for device in names if device in state.devices),
        would_leave=() if choice is None or resident else tuple(victim.model.name for victim in choice.victims),
        never=None if never is None or resident else never.detail,
        ahead=tuple(other.name for other in ahead_of(model, plan, state)) if model.is_wanted else (),
        urgency={other.name: urgency(other, policy)[0] for other in plan.order},
        decisions=_last(decisions, {name, *names}),
    )


def _at_rest(model: ModelState) -> str:
    instance = model.instance
    if instance is not None:
        return f"{model.name} is {instance_state(instance).value} and nobody waits for it"
    if model.failure is not None:
        return f"{model.name} failed: {model.failure.error}"
    return model.spec.unusable or f"{model.name} isn't loaded, and nobody wants it"


def _room(device: Device, state: State) -> Room:
    tenants = {tenant.model.name: tenant.reserved[device.name] for tenant in state.tenants(device.name)}
    return Room(device=device.name, budget_mib=device.budget_mib, is_gone=device.is_gone, reserved_mib=tenants)


def _last(decisions: Decisions, subjects: set[str]) -> tuple[Decision, ...]:
    return tuple([decision for decision in decisions.of() if decision.model in subjects][-_DECISIONS:])
