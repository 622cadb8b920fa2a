"""What fits on a device, and where a model could go. Pure functions over `state`.

Counterparts: `placement`, which chooses one of the places, and `eviction`, which says who leaves for it. A need of None
means all of a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from llm_router.core.device import Device, Reserved, devices_for
from llm_router.core.instance import Instance
from llm_router.core.model import ModelState
from llm_router.core.specs import ANY_DEVICE, HOST
from llm_router.core.state import State

# Who is on a device, and how much of it (MiB) is his.
Tenant = tuple[ModelState, int | None]


def fits(tenants: Sequence[Tenant], budget_mib: int | None) -> bool:
    """Whether all of these may be on one device at the same time.

    1. Sharing needs knowledge: where a need or the budget is unknown, only companions may be together.
    2. What is known must fit in the budget; companions among themselves are the user's word that they do, as long as
       each would fit alone.
    """
    needs = [need for _, need in tenants if need is not None]
    if len(tenants) > 1 and (budget_mib is None or len(needs) < len(tenants)):  # 1
        for (one, one_needs), (other, other_needs) in combinations(tenants, 2):
            is_known = budget_mib is not None and one_needs is not None and other_needs is not None
            if not is_known and not are_companions(one, other):
                return False
    if budget_mib is None or sum(needs) <= budget_mib:  # 2
        return True
    return max(needs) <= budget_mib and all(are_companions(a, b) for (a, _), (b, _) in combinations(tenants, 2))


def are_companions(one: ModelState, other: ModelState) -> bool:
    """Whether the user lets them share a device. Not while one of them has just run out of memory there."""
    if one.ran_out or other.ran_out:
        return False
    return other.name in one.spec.companions or one.name in other.spec.companions


def possible_placements(model: ModelState, devices: Mapping[str, Device]) -> list[Reserved]:
    """Each way to place it, whoever else is there now. None at all: a device it needs is gone.

    1. It takes no memory: nowhere.
    2. It names its devices: on all of these.
    3. Else on any single one that is large enough, or if there is none or nobody knows what it needs, on all together.
    """
    need = model.footprint_mib
    if need == 0:  # 1
        return [{}]
    names = devices_for(model.spec, devices)
    there = tuple(name for name in names if name in devices and not devices[name].is_gone)
    if model.spec.devices is not None or len(names) == 1:  # 2
        return [] if len(there) < len(names) else [spread(model, there)]
    if need is not None:  # 3
        singles: list[Reserved] = [{name: need} for name in there if _is_large_enough(devices[name], need)]
        if singles:
            return singles
    return [spread(model, there)] if there else []


def _is_large_enough(device: Device, need_mib: int) -> bool:
    return device.nominal_mib is None or need_mib <= device.nominal_mib


def spread(model: ModelState, names: Sequence[str]) -> Reserved:
    """Its need on each of these devices: as it was measured on the same ones earlier, else in equal parts."""
    need = model.footprint_mib
    if need == 0 or not names:
        return {}
    if need is None:
        return dict.fromkeys(names)
    if model.measured_mib.keys() == set(names):
        return dict(model.measured_mib)
    return dict.fromkeys(names, -(-need // len(names)))


def fits_everywhere(
    model: ModelState,
    placement: Reserved,
    others: Sequence[Instance],
    devices: Mapping[str, Device],
    claims: Sequence[tuple[ModelState, Reserved]] = (),
) -> bool:
    """Whether the model may be placed so beside these instances and what others have been promised (`claims`)."""
    if model.spec.seats and any(not model.spec.seats.isdisjoint(other.seats) for other in others):
        return False
    for name, need in placement.items():
        tenants = [(other.model, other.reserved[name]) for other in others if name in other.reserved]
        if claims:
            tenants += [(claimer, claim[name]) for claimer, claim in claims if name in claim]
        tenants.append((model, need))
        if not fits(tenants, devices[name].budget_mib):
            return False
    return True


def by_device(measured_mib: Mapping[str, int], instance: Instance, state: State) -> dict[str, int]:
    """What was measured, in the terms of the budgets. The host's memory counts only for who lives there."""
    if ANY_DEVICE in state.devices:
        return {ANY_DEVICE: sum(used for name, used in measured_mib.items() if name != HOST)}
    return {
        name: used
        for name, used in measured_mib.items()
        if name in state.devices and (name != HOST or HOST in instance.reserved)
    }
