"""The rules about time: who is more urgent, how long a turn lasts, how long a request can wait at most, and the pauses
after failures. Pure functions over `state`; counterparts: `planning` and `placement`, which know about room.

THE BOUND. A request that isn't refused is granted within

    overtaking + (1 + rivals) × leave + Σ rivals' loads + own load          (each load twice where it may be repeated)

    overtaking = background_handicap_s + 2 × priority_most_s + switch_share_most_s
    leave      = turn + promises + drain_timeout_s + stop
    turn       = max(patience, min_residency_s)
    patience   = max(patience_s, min(patience_per_load × the dearest load, patience_most_s))
    promises   = drain_timeout_s if a model has a limited concurrency, else 0

whatever the arrivals, lengths, cancellations, classes and priorities, for `rivals` other models that want the same
room.
Why it holds:

- *Bounded overtaking.* Models go by the earliest virtual deadline among their requests: arrival + handicap of the class
  − bonus of the priority + share of the load time. Each term but the arrival is bounded, so nothing that arrives later
  than `overtaking` after a request can come before it.
- *One switch for each rival.* A model that becomes ready has promised itself to all that wait for it at that moment. So
  once the overtaking is over, each rival has older requests for one more switch at most; and who was evicted for a
  model comes after it, whatever its urgency.
- *Bounded switches.* A resident whose room is needed leaves after its turn, counted from the arrival of whoever needs
  it or from its own readiness; then it keeps its promises, no longer than the drain time-out; then it drains, no longer
  than that either. Nobody behind takes a device that somebody in front needs.

Being woken is a load, and a load that may be repeated: where it fails, the instance is stopped and started. Being
parked is a part of the stop: an instance that is being parked when its room is wanted has first to finish that.

An idle resident that stays because its leaving alone would help nobody stays no longer than its turn, so nothing of
this changes.

With a limited concurrency, a request that isn't served in its model's turn because so many are in front of it waits
another round: all but the overtaking counts once for each. What isn't a switch isn't counted: global places that long
requests take, servers that crash, and devices whose memory other programs take add their own time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llm_router.core.eviction import UNKNOWN_LOAD_S, residency_end
from llm_router.core.instance import Instance, Lifecycle
from llm_router.core.model import ModelState
from llm_router.core.specs import PolicySpec
from llm_router.core.state import State

_SHORTEST_RETRY_S = 1.0
# 2 ** 30 times any pause is beyond every cap; without a limit the float overflows one day.
_MOST_DOUBLINGS = 30


def overtaking_s(policy: PolicySpec) -> float:
    """Whoever arrives later than this after a request can't be more urgent. Seconds."""
    handicap_s = max(policy.normal_handicap_s, policy.background_handicap_s)
    return handicap_s + 2 * policy.priority_most_s + policy.switch_share_most_s


def wait_bound_s(
    policy: PolicySpec,
    *,
    own_load_s: float,
    rival_loads_s: Sequence[float] = (),
    stop_s: float = 0.0,
    limited: bool = True,
    attempts: int = 1,
    rounds: int = 1,
) -> float:
    """The bound above, in seconds. `rival_loads_s`: the longest load of each other model that wants the same room.
    `stop_s`: the longest stop. `limited`: whether any of the models has a limited concurrency. `attempts`: 2 where a
    load may fail for want of memory and be repeated. `rounds`: turns of its own model until the request is served: the
    requests in front of it, divided by the concurrency, plus one."""
    dearest_s = max((*rival_loads_s, own_load_s))
    turn_s = max(patience_s(dearest_s, policy), policy.min_residency_s)
    leave_s = turn_s + policy.drain_timeout_s * (2 if limited else 1) + stop_s
    switches_s = (1 + len(rival_loads_s)) * leave_s + sum(rival_loads_s) + own_load_s
    return overtaking_s(policy) + rounds * attempts * switches_s


def urgency(model: ModelState, policy: PolicySpec) -> tuple[float, int]:
    """The model's virtual deadline: the smaller, the sooner it comes; then the order of arrival.

    A load wish counts as a normal request.
    """
    first, wish = model.queue.first(), model.load_wish
    due = (math.inf, 0) if first is None else (first.due, first.order)
    if wish is not None:
        due = min(due, (wish.at + policy.normal_handicap_s, wish.order))
    return due[0] - _bonus_s(model, policy) + _share_s(model, policy), due[1]


def _bonus_s(model: ModelState, policy: PolicySpec) -> float:
    bonus_s = model.spec.priority * policy.priority_step_s
    return max(-policy.priority_most_s, min(bonus_s, policy.priority_most_s))


def _share_s(model: ModelState, policy: PolicySpec) -> float:
    """Of one load, each who waits for it bears a part; counted in powers of two, so that not every arrival in a crowd
    changes the order."""
    sharing = 2.0 ** max(0, model.queue.magnitude - 1)
    return min(policy.switch_share * load_s_of(model) / sharing, policy.switch_share_most_s)


def wanted_since(model: ModelState) -> float:
    """When the oldest that waits for the model began to wait (seconds)."""
    since = [head.at for head in model.queue.heads]
    if model.load_wish is not None:
        since.append(model.load_wish.at)
    return min(since)


def patience_s(load_s: float, policy: PolicySpec) -> float:
    """How long a resident may stay busy while others wait, where a switch there and back costs loads of up to `load_s`:
    short turns between dear loads would leave little time to serve anybody."""
    return max(policy.patience_s, min(policy.patience_per_load * load_s, policy.patience_most_s))


def turn_end(resident: Instance, needed_since: float, beneficiary: ModelState | None, policy: PolicySpec) -> float:
    """When a resident whose room is needed has had its turn: nobody leaves before it could serve for the patience.
    `beneficiary`: who needs it."""
    loads_s = [model.load_s or 0.0 for model in (resident.model, beneficiary) if model is not None]
    ready_at = needed_since if resident.ready_at is None else resident.ready_at
    had_its_turn = max(needed_since, ready_at) + patience_s(max(loads_s), policy)
    return max(had_its_turn, residency_end(resident, policy))


def backoff_s(failed_loads: int, policy: PolicySpec) -> float:
    """The pause after so many failed loads in a row (1 or more), in seconds."""
    doublings = min(failed_loads - 1, _MOST_DOUBLINGS)
    return min(policy.backoff_base_s * 2.0**doublings, policy.backoff_max_s)


def expected_wait_s(model: ModelState, state: State, policy: PolicySpec, at: float) -> float:
    """A guess at how long a request for `model` would wait now, from the loads seen so far. Seconds, at least one."""
    instance = model.instance
    if instance is not None and instance.is_starting:
        return max(_SHORTEST_RETRY_S, instance.since + load_s_of(model) - at)
    if instance is not None and instance.lifecycle is Lifecycle.READY:
        return max(_SHORTEST_RETRY_S, policy.patience_s)
    ahead = (load_s_of(other) for other in state.in_need() if other is not model and other.competes)
    return max(_SHORTEST_RETRY_S, policy.patience_s + load_s_of(model) + sum(ahead))


def load_s_of(model: ModelState) -> float:
    """How long it takes to load, or to be woken where it is parked, as far as anybody knows."""
    return UNKNOWN_LOAD_S if model.ready_in_s is None else model.ready_in_s
