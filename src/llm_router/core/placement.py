"""Where a model goes and who leaves for it. Pure functions over `state`.

Counterparts: `geometry` (what fits), `eviction` (what it costs), `planning`, which says for whom and when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from llm_router.core.device import Device, Reserved, devices_for
from llm_router.core.eviction import NOTHING, Cost, cheapest_eviction, cost_of
from llm_router.core.geometry import fits, fits_everywhere, possible_placements, spread
from llm_router.core.instance import Instance
from llm_router.core.model import ModelState, Prospects, Verdict
from llm_router.core.specs import PolicySpec
from llm_router.core.state import State

Claims = Sequence[tuple[ModelState, Reserved]]


class Choice(NamedTuple):
    """Where a model goes. `victims`: who must leave for it. `is_free`: it fits as things are, also beside those that
    are still stopping."""

    placement: Reserved
    victims: tuple[Instance, ...]
    is_free: bool


def choose(
    model: ModelState, state: State, policy: PolicySpec, at: float, claims: Claims, taken: frozenset[str]
) -> Choice | None:
    """The best place for the model; None: there is none as things are.

    First where nobody has to leave, then where that costs least; among equals where it can start now (not on a device
    that is `taken` by another start), then where least room is left over, so that large rooms stay whole.
    """
    placements = placements_of(model, state)
    if len(placements) == 1:
        return _place(model, placements[0], state, policy, at, claims)
    best: tuple[tuple[Cost, bool, int], Choice] | None = None
    for placement in placements:
        choice = _place(model, placement, state, policy, at, claims)
        if choice is None:
            continue
        cost = cost_of(choice.victims, policy, at) if choice.victims else NOTHING
        must_wait = not choice.is_free or not taken.isdisjoint(placement)
        key = (cost, must_wait, _left_over(placement, state))
        if best is None or key < best[0]:
            best = key, choice
    return None if best is None else best[1]


def placements_of(model: ModelState, state: State) -> Sequence[Reserved]:
    """Each way to place it; a parked instance can be woken where it is, even if it would be started elsewhere now."""
    found = prospects_of(model, state).placements
    sleeper = model.sleeper
    if sleeper is None or any(placement.keys() == sleeper.home for placement in found):
        return found
    is_there = all(name in state.devices and not state.devices[name].is_gone for name in sleeper.home)
    return [spread(model, sorted(sleeper.home)), *found] if is_there else found


def _place(
    model: ModelState, placement: Reserved, state: State, policy: PolicySpec, at: float, claims: Claims
) -> Choice | None:
    """Its own parked instance is woken where it is; for any other place it has to leave first."""
    sleeper = model.sleeper
    moves = () if sleeper is None or placement.keys() == sleeper.home else (sleeper,)
    live = [instance for instance in _touching(model, placement, state) if instance is not sleeper]
    if fits_everywhere(model, placement, live, state.devices, claims):
        return Choice(placement, moves, is_free=not moves)
    staying = [instance for instance in live if not instance.is_leaving_anyway]

    def is_enough(leaving: Sequence[Instance]) -> bool:
        others = [instance for instance in staying if instance not in leaving]
        return fits_everywhere(model, placement, others, state.devices, claims)

    if len(staying) < len(live) and is_enough(()):
        return Choice(placement, moves, is_free=False)
    candidates = [instance for instance in staying if not instance.model.spec.pinned]
    victims = cheapest_eviction(candidates, is_enough, policy, at)
    return None if victims is None else Choice(placement, (*moves, *victims), is_free=False)


def _touching(model: ModelState, placement: Reserved, state: State) -> list[Instance]:
    """The instances that have something the model would need there: a part of a device, or a seat."""
    seats = model.spec.seats
    return [
        instance
        for instance in state.live.values()
        if not instance.reserved.keys().isdisjoint(placement) or not seats.isdisjoint(instance.seats)
    ]


def _left_over(placement: Reserved, state: State) -> int:
    """What is free on its devices when it is there, in MiB; as far as anybody knows."""
    free_mib = 0
    for name, need in placement.items():
        budget_mib = state.devices[name].budget_mib
        if budget_mib is not None and need is not None:
            free_mib += budget_mib - need - sum(tenant.reserved[name] or 0 for tenant in state.tenants(name))
    return free_mib


def too_many(state: State, policy: PolicySpec, at: float) -> tuple[Instance, ...]:
    """Who leaves where residents don't fit even among themselves: one has grown, a device has shrunk, or they were
    adopted under a changed configuration. Never a pinned one."""
    if not state.may_be_crowded:
        return ()
    leaving: dict[int, Instance] = {}

    def make_fit(tenants: Sequence[Instance], fit: Callable[[Sequence[Instance]], bool]) -> None:
        staying = [one for one in tenants if not one.is_leaving_anyway and one.id not in leaving]
        if fit(staying):
            return
        candidates = [one for one in staying if not one.model.spec.pinned]
        victims = cheapest_eviction(
            candidates, lambda gone: fit([one for one in staying if one not in gone]), policy, at
        )
        leaving.update((victim.id, victim) for victim in (candidates if victims is None else victims))

    for device in state.devices.values():
        make_fit(state.tenants(device.name), partial(_fit_on, device))
    for seat in {seat for one in state.live.values() for seat in one.seats}:
        make_fit([one for one in state.live.values() if seat in one.seats], lambda holders: len(holders) <= 1)
    if not leaving:
        state.may_be_crowded = False
    return tuple(leaving.values())


def _fit_on(device: Device, tenants: Sequence[Instance]) -> bool:
    return fits([(one.model, one.reserved[device.name]) for one in tenants], device.budget_mib)


def prospects_of(model: ModelState, state: State) -> Prospects:
    """Found out once for each state of the devices and the pinned ones."""
    found = model.prospects
    if found is None or found.rooms != state.rooms:
        placements = possible_placements(model, state.devices)
        found = Prospects(rooms=state.rooms, placements=placements, never=_why_never(model, placements, state))
        model.prospects = found
    return found


def _why_never(model: ModelState, placements: Sequence[Reserved], state: State) -> Verdict | None:
    """1. A device that it needs is gone. 2. It is larger than its devices. 3. Who is pinned is in its way. 4. Other
    programs are.
    """
    if not placements:  # 1
        return _gone(model, state.devices)
    nominal = [placement for placement in placements if _fits_nominally(model, placement, state.devices)]
    if not nominal:  # 2
        return _too_large(model, placements[0], {name: state.devices[name].nominal_mib for name in placements[0]})
    pinned = [i for i in state.live.values() if i.model.spec.pinned and i.competes and not i.is_leaving_anyway]
    pinned = [instance for instance in pinned if instance.model is not model]
    if any(fits_everywhere(model, placement, pinned, state.devices) for placement in nominal):
        return None
    alone = [placement for placement in nominal if fits_everywhere(model, placement, (), state.devices)]
    if alone:  # 3
        return _pinned_out(model, [i for i in pinned if i in _touching(model, alone[0], state)])
    now = {name: state.devices[name].budget_mib for name in nominal[0]}  # 4
    detail = _too_large(model, nominal[0], now).detail
    return Verdict(detail=f"{detail.split(';')[0]}, because other programs hold the rest; end them", may_pass=True)


def _fits_nominally(model: ModelState, placement: Reserved, devices: Mapping[str, Device]) -> bool:
    return all(fits([(model, need)], devices[name].nominal_mib) for name, need in placement.items())


def _gone(model: ModelState, devices: Mapping[str, Device]) -> Verdict:
    names = devices_for(model.spec, devices)
    missing = [name for name in names if name not in devices or devices[name].is_gone]
    detail = (
        f"cannot load {model.name}: device {' and '.join(missing)} isn't there (any more); "
        "check the hardware, or choose other devices for it"
    )
    return Verdict(detail=detail, may_pass=False)


def _too_large(model: ModelState, placement: Reserved, budgets_mib: Mapping[str, int | None]) -> Verdict:
    need_mib = sum(need or 0 for need in placement.values())
    has_mib = sum(budget or 0 for budget in budgets_mib.values())
    where = "the device has" if len(placement) == 1 else f"devices {' and '.join(placement)} have"
    detail = (
        f"cannot load {model.name}: it needs {need_mib} MiB and {where} {has_mib} MiB; "
        "correct the model's memory, lower its context_length, or choose a smaller one"
    )
    return Verdict(detail=detail, may_pass=False)


def _pinned_out(model: ModelState, pinned: Sequence[Instance]) -> Verdict:
    names = " and ".join(sorted(instance.model.name for instance in pinned))
    detail = (
        f"cannot load {model.name}: {names} {'is' if len(pinned) == 1 else 'are'} pinned, "
        f"and there is no room beside; unload {names} or remove the pin from the configuration"
    )
    return Verdict(detail=detail, may_pass=False)
