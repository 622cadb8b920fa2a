"""Plays one trace under several rules, all in the same world, and holds our own against its promise.

Counterpart: `report`, which shows it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from llm_router.core.policy import wait_bound_s
from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.simulation.engine import Rule, Simulation
from llm_router.simulation.faults import Faults
from llm_router.simulation.measure import Figures, figures
from llm_router.simulation.outcome import Outcome
from llm_router.simulation.rivals import Fifo, Lru, ReadyFirst
from llm_router.simulation.trace import Trace

OURS = "llm-router"

RULES: Mapping[str, Callable[[Mapping[str, ModelSpec], PolicySpec], Rule]] = {
    OURS: Scheduler,
    "ready-first": ReadyFirst,
    "lru": Lru,
    "fifo": Fifo,
    "fifo-alone": partial(Fifo, one_at_a_time=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    rule: str
    outcome: Outcome
    figures: Figures


def play(
    trace: Trace,
    policy: PolicySpec,
    *,
    rules: Sequence[str] = tuple(RULES),
    faults: Faults | None = None,
    tell: Callable[[str, float], object] | None = None,
) -> list[Run]:
    """One run for each rule. The policy's budgets are those of the trace's devices. `tell`: called now and then with
    the rule at work and the share of its requests that have ended."""
    runs = []
    for rule in rules:
        simulation = Simulation(trace, RULES[rule](trace.specs(), policy_for(trace, policy)), faults)
        outcome = simulation.run(None if tell is None else partial(tell, rule))
        runs.append(Run(rule=rule, outcome=outcome, figures=figures(trace, outcome)))
    return runs


def policy_for(trace: Trace, policy: PolicySpec) -> PolicySpec:
    return replace(policy, budgets=dict(trace.devices))


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """The longest wait under our own rule beside the bound that the core states for that very request, in seconds.
    `broken`: how many requests waited longer than their bound."""

    worst_wait_s: float
    bound_s: float
    broken: int


def promise(trace: Trace, outcome: Outcome, policy: PolicySpec) -> Promise:
    """Each granted request against `core.policy.wait_bound_s`: every other model that needs room is a rival, and the
    rounds are counted from who was waiting for the same model when it asked."""
    named = {call.model for call in trace.calls}
    load_s = {name: trace.models[name].load_s for name in named if trace.models[name].footprint_mib != 0}
    stop_s = max((profile.stop_s for profile in trace.models.values()), default=0.0)
    worst, broken, bounds = (0.0, 0.0), 0, dict[tuple[str, int], float]()
    for name, wait_s, ahead in _waits_and_ahead(trace, outcome):
        key = name, 1 + ahead // trace.models[name].concurrency
        if key not in bounds:
            rivals_s = [other for rival, other in load_s.items() if rival != name]
            own_s = trace.models[name].load_s
            bounds[key] = wait_bound_s(policy, own_load_s=own_s, rival_loads_s=rivals_s, stop_s=stop_s, rounds=key[1])
        worst = max(worst, (wait_s, bounds[key]))
        broken += wait_s > bounds[key]
    return Promise(worst_wait_s=worst[0], bound_s=worst[1], broken=broken)


def _waits_and_ahead(trace: Trace, outcome: Outcome) -> Iterator[tuple[str, float, int]]:
    """Of each granted request: its model, how long it waited, and how many waited for that model when it asked."""
    by_arrival = sorted((at, index) for index, at in enumerate(outcome.arrived_at) if outcome.granted_at[index] >= 0)
    waiting: dict[str, list[float]] = {}  # by model, a heap of the grants to come
    for arrived_at, index in by_arrival:
        ahead = waiting.setdefault(trace.calls[index].model, [])
        while ahead and ahead[0] <= arrived_at:
            heapq.heappop(ahead)
        granted_at = outcome.granted_at[index]
        yield trace.calls[index].model, granted_at - arrived_at, len(ahead)
        if granted_at > arrived_at:
            heapq.heappush(ahead, granted_at)
