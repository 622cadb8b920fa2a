"""What each device is heading for: the order of the waiting models, where each of them goes, and who leaves for it.

Pure functions over `state`: they read and answer, `settling` acts. Counterparts: `policy`, which says who is urgent,
and `placement`, which knows only room.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from llm_router.core.device import Reserved
from llm_router.core.instance import Instance
from llm_router.core.model import ModelState
from llm_router.core.placement import Choice, choose, too_many
from llm_router.core.policy import urgency, wanted_since
from llm_router.core.specs import PolicySpec
from llm_router.core.state import State


@dataclass(slots=True)
class Need:
    """Since when someone has needed an instance's room (seconds), and who needs it now; None: its device is too full
    for who is there already."""

    since: float
    beneficiary: ModelState | None


@dataclass(slots=True)
class Plan:
    """`order`: the models that wait for room, the most urgent first. `choices`: where each of them goes that has its
    devices to itself. `starts`: those that can start, or be woken, at once. `needs`: the instances whose room is
    needed, by id. `taken`: what is left for nobody else."""

    order: tuple[ModelState, ...] = ()
    choices: dict[str, Choice] = field(default_factory=dict)
    starts: list[ModelState] = field(default_factory=list)
    needs: dict[int, Need] = field(default_factory=dict)
    taken: _Taken | None = None


def plan_switches(state: State, policy: PolicySpec, at: float) -> Plan:
    """Who comes next on each device, and who leaves for it.

    1. Residents that don't even fit among themselves lose their cheapest set.
    2. The most urgent model has the first choice of a place, and its devices are taken then: nobody behind it may start
       there or evict anybody there, so that it can't be delayed by who comes later. Other devices go to the next ones.
    3. A device where a start is running is taken: two loads would slow each other down and measure each other's memory.
       So nobody new is asked to leave there: the next switch couldn't begin, and meanwhile they serve.
    4. Who has waited in vain for a place since long ago shortens the turns there, even if another is to have it.
    """
    plan = Plan()
    for instance in too_many(state, policy, at):  # 1
        plan.needs[instance.id] = Need(float("-inf"), None)
    extend(plan, state, policy, at)
    return plan


def extend(plan: Plan, state: State, policy: PolicySpec, at: float) -> bool:
    """Go on with a plan that lacks nothing but the last of the order; False: somebody comes in front of the others."""
    order, planned = _order(state, policy), len(plan.order)
    if order[:planned] != plan.order:
        return False
    plan.order = order
    if len(order) == planned:
        return True
    taken = plan.taken = plan.taken or _Taken(state)
    draining = [one for one in state.live.values() if one.drain_until is not None and not one.is_leaving_anyway]
    for model in order[planned:]:
        names = model.names
        choice = None if taken.has_all(names) else _choose(model, state, policy, at, taken)
        if choice is not None and taken.is_free_for(choice.placement.keys(), model):  # 2
            for victim in choice.victims:
                plan.needs.setdefault(victim.id, Need(wanted_since(model), model))
            plan.choices[model.name] = choice
            if choice.is_free and (model.instance is None or model.sleeper is not None):
                plan.starts.append(model)
        else:
            _go_on_draining(plan, names, model, draining, taken)  # 3
        _shorten_turns(plan, names, model, state)  # 4
        taken.take(choice.placement if choice is not None else {}, model)
    return True


def _order(state: State, policy: PolicySpec) -> tuple[ModelState, ...]:
    """By urgency; but who was evicted for a model comes after it until that one has used the room: else a more urgent
    one would take back at once what its turn has lost, and the evicting model would never come."""
    waiting = [model for model in state.in_need() if model.competes and model.short_since is None]
    if len(waiting) < 2:
        return tuple(waiting)
    return tuple(sorted(waiting, key=lambda model: (model.name in state.evicted, urgency(model, policy))))


class _Taken:
    """What nobody else may have: devices and seats where a start is running, or that somebody more urgent needs.
    `claims`: what is promised to those."""

    def __init__(self, state: State) -> None:
        self.loading: set[str] = set()
        self.seats: set[str] = set()
        for instance in state.live.values():
            if instance.is_starting:
                self.loading.update(instance.reserved)
                self.seats.update(instance.seats)
        self.devices = self.loading.copy()
        self.claims: list[tuple[ModelState, Reserved]] = []

    def has_all(self, names: AbstractSet[str]) -> bool:
        """Whatever place it would choose, it has to wait."""
        return bool(names) and names <= self.devices

    def is_free_for(self, names: AbstractSet[str], model: ModelState) -> bool:
        return self.devices.isdisjoint(names) and self.seats.isdisjoint(model.spec.seats)

    def take(self, placement: Reserved, model: ModelState) -> None:
        self.devices.update(placement)
        self.seats.update(model.spec.seats)
        if placement:
            self.claims.append((model, placement))


def _choose(model: ModelState, state: State, policy: PolicySpec, at: float, taken: _Taken) -> Choice | None:
    """With room left for whom it is promised to; where that is impossible it has to wait behind them anyway."""
    devices = frozenset(taken.devices)
    choice = choose(model, state, policy, at, taken.claims, devices)
    return choice if choice is not None or not taken.claims else choose(model, state, policy, at, (), devices)


def _stands_in_the_way(instance: Instance, names: AbstractSet[str], model: ModelState) -> bool:
    return not names.isdisjoint(instance.reserved) or not instance.seats.isdisjoint(model.spec.seats)


def _go_on_draining(
    plan: Plan, names: AbstractSet[str], model: ModelState, draining: Sequence[Instance], taken: _Taken
) -> None:
    for instance in draining:
        if instance.id not in plan.needs and _stands_in_the_way(instance, names & taken.loading, model):
            plan.needs[instance.id] = Need(wanted_since(model), model)


def _shorten_turns(plan: Plan, names: AbstractSet[str], model: ModelState, state: State) -> None:
    if not plan.needs:
        return
    since = wanted_since(model)
    for id_, need in plan.needs.items():
        if since < need.since and _stands_in_the_way(state.live[id_], names, model):
            need.since = since


def contested_by(model: ModelState) -> tuple[frozenset[str], frozenset[str]]:
    """The devices and the seats that the model could come to have."""
    return model.names, model.spec.seats


def contested(plan: Plan) -> tuple[set[str], set[str]]:
    """The same of all that wait for room."""
    devices: set[str] = set()
    seats: set[str] = set()
    for model in plan.order:
        its_devices, its_seats = contested_by(model)
        devices |= its_devices
        seats |= its_seats
    return devices, seats
