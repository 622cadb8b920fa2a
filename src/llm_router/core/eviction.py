"""Who leaves when something has to: the set that costs least. Pure functions over `state`.

Counterpart: `placement`, which says what has to fit where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llm_router.core.instance import Instance
from llm_router.core.specs import PolicySpec

# Before the first load of a model was seen, seconds.
UNKNOWN_LOAD_S = 30.0


class Cost(NamedTuple):
    """What it costs that some instances leave; compared from left to right.

    `starting`: how many haven't even become ready. `busy`: how many are in use, or not yet as long there as they may.
    `draining`: how many are busy but leaving already. `regret_s`: seconds to bring them back, times the requests that
    they were granted lately. `leaving`: how many. `used_at`: when the last of them was used.
    """

    starting: int = 0
    busy: int = 0
    draining: int = 0
    regret_s: float = 0.0
    leaving: int = 0
    used_at: float = float("-inf")


NOTHING = Cost()


def residency_end(instance: Instance, policy: PolicySpec) -> float:
    """Before this nobody makes it leave."""
    return (instance.since if instance.ready_at is None else instance.ready_at) + policy.min_residency_s


def cost_of(leaving: Sequence[Instance], policy: PolicySpec, at: float) -> Cost:
    starting = busy = draining = 0
    regret_s, used_at = 0.0, float("-inf")
    for instance in leaving:
        model = instance.model
        if instance.is_starting:
            starting += 1
        elif instance.is_busy and instance.drain_until is not None:
            draining += 1
        elif instance.is_busy or at < residency_end(instance, policy):
            busy += 1
        regret_s += (UNKNOWN_LOAD_S if model.load_s is None else model.load_s) * model.requests_lately(at)
        used_at = max(used_at, instance.last_used_at)
    return Cost(starting, busy, draining, regret_s, len(leaving), used_at)


def cheapest_eviction(
    candidates: Sequence[Instance],
    is_enough: Callable[[Sequence[Instance]], bool],
    policy: PolicySpec,
    at: float,
) -> tuple[Instance, ...] | None:
    """Who of the candidates leaves so that `is_enough` says so, which is not yet the case; None when not even all of
    them are.

    Idle ones before busy ones, else what is least missed; never more than needed. Dearest last they are added until it
    is enough, then whoever turns out not to be needed stays after all; a single one that is enough may still be
    cheaper. (The best of all subsets would be a knapsack, and differs from this only among many small residents.)
    """
    if len(candidates) == 1:
        return tuple(candidates) if is_enough(candidates) else None
    ranked = sorted(candidates, key=lambda one: (cost_of((one,), policy, at), one.id))
    leaving: list[Instance] = []
    for candidate in ranked:
        leaving.append(candidate)
        if is_enough(leaving):
            break
    else:
        return None
    for candidate in reversed(leaving[:-1]):
        fewer = [other for other in leaving if other is not candidate]
        if is_enough(fewer):
            leaving = fewer
    if len(leaving) == 1:
        return tuple(leaving)
    single = next((one for one in ranked if is_enough((one,))), None)
    if single is not None and cost_of((single,), policy, at) < cost_of(leaving, policy, at):
        return (single,)
    return tuple(leaving)
