"""Whose turn it is: the order of the waiting models, whose room the next one needs, and the pauses after failures.

Pure functions over `state`: they read and answer, `scheduler` acts. Counterpart: `placement`, which knows only room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_router.core.placement import cheapest_eviction
from llm_router.core.specs import PolicySpec
from llm_router.core.state import Age, Instance, Lifecycle, ModelState, State

# Before the first load of a model was seen. Only for the Retry-After of a full queue.
_UNKNOWN_LOAD_S = 30.0
_SHORTEST_RETRY_S = 1.0
# 2 ** 30 times any pause is beyond every cap; without a limit the float overflows one day.
_MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the device is heading for.

    `order`: the models that wait for room on the device, the next one first.
    `victims`: the instances whose room the next one needs, by id, each with the time since when someone has needed it.
    """

    order: tuple[ModelState, ...]
    victims: Mapping[int, float]

    @property
    def target(self) -> ModelState | None:
        return self.order[0] if self.order else None


def plan_switch(state: State, policy: PolicySpec) -> Plan:
    """Who comes next and who leaves for it.

    1. The order is by priority, then by age. Who was evicted goes behind all others until the room was used: else a
       high priority would take back at once what its turn has lost, and the evicting model would never come.
    2. The next one's victims are the cheapest set. Residents that don't even fit among themselves (adopted ones under
       a changed configuration) lose their cheapest set too.
    3. While a start is running nobody new is asked to leave: the next switch couldn't begin, and meanwhile they serve.
    """
    order = tuple(sorted((m for m in state.in_need() if m.competes), key=lambda model: _rank(model, state)))
    residents = [i for i in state.live.values() if i.model.competes and not i.is_leaving_anyway]
    victims = {victim.id: float("-inf") for victim in cheapest_eviction(residents, (), policy.budget_mib)}
    for model in order:
        needed_since = (model.wanted_since or (0.0, 0))[0]
        for victim in cheapest_eviction(residents, (model.spec.footprint_mib,), policy.budget_mib):
            if model is order[0]:
                victims.setdefault(victim.id, needed_since)
            if victim.id in victims:
                victims[victim.id] = min(victims[victim.id], needed_since)
    if state.switch_in_progress() is not None:
        draining = {i.id for i in residents if i.drain_until is not None}
        victims = {id_: since for id_, since in victims.items() if id_ in draining}
    return Plan(order=order, victims=victims)


def _rank(model: ModelState, state: State) -> tuple[bool, int, Age]:
    return model.name in state.evicted, -model.spec.priority, model.wanted_since or (0.0, 0)


def turn_end(instance: Instance, needed_since: float, policy: PolicySpec) -> float:
    """When a resident whose room is needed has had its turn: nobody leaves before it could serve for the patience."""
    ready_at = needed_since if instance.ready_at is None else instance.ready_at
    return max(needed_since, ready_at) + policy.patience_s


def backoff_s(failed_loads: int, policy: PolicySpec) -> float:
    """The pause after so many failed loads in a row (1 or more), in seconds."""
    doublings = min(failed_loads - 1, _MOST_DOUBLINGS)
    return min(policy.backoff_base_s * 2.0**doublings, policy.backoff_max_s)


def expected_wait_s(model: ModelState, state: State, policy: PolicySpec, at: float) -> float:
    """A guess at how long a request for `model` would wait now, from the loads seen so far. Seconds, at least one."""
    instance = model.instance
    if instance is not None and instance.is_starting:
        return max(_SHORTEST_RETRY_S, instance.since + _load_s(model) - at)
    if instance is not None and instance.lifecycle is Lifecycle.READY:
        return max(_SHORTEST_RETRY_S, policy.patience_s)
    ahead = (_load_s(other) for other in state.in_need() if other is not model and other.competes)
    return max(_SHORTEST_RETRY_S, policy.patience_s + _load_s(model) + sum(ahead))


def _load_s(model: ModelState) -> float:
    return _UNKNOWN_LOAD_S if model.load_s is None else model.load_s
