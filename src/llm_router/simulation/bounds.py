"""What no rule can beat, even one that knows the whole trace beforehand. Proven, not reached: a rule may be far above
these and still be as good as can be.

They hold for rules that serve every request whole, with one instance of each model at most, from empty devices.
Counterpart: `measure`, which says what a rule did reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from llm_router.simulation.trace import Call, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBound:
    """`loads`: no fewer. `makespan_s`: no earlier end of the last request, in seconds. `ttft_s`: in ascending order, no
    earlier first tokens: the time the prompts take with every model always ready."""

    loads: int
    makespan_s: float
    ttft_s: Sequence[float]


def lower_bound(trace: Trace) -> LowerBound:
    geometry = _Geometry(trace)
    return LowerBound(
        loads=_fewest_loads(trace, geometry),
        makespan_s=max([_longest_chain_s(trace, geometry), *_work_s(trace, geometry)], default=0.0),
        ttft_s=sorted(trace.models[call.model].first_token_s(call.prompt_tokens) for call in trace.calls),
    )


class _Geometry:
    """Memory with the walls between the devices taken down: what doesn't fit here fits nowhere.

    A device of unknown size counts 1, and so does every model then: each takes at least one such device alone.
    """

    def __init__(self, trace: Trace) -> None:
        budgets = list(trace.devices.values())
        known = [budget for budget in budgets if budget is not None]
        is_known = len(known) == len(budgets)
        self.total = sum(known) if is_known else len(budgets)
        self.size: dict[str, int] = {}
        for name in {call.model for call in trace.calls}:
            profile = trace.models[name]
            if profile.footprint_mib == 0 or not is_known:
                self.size[name] = 0 if profile.footprint_mib == 0 else 1
            elif profile.footprint_mib is None:
                self.size[name] = sum(trace.devices[device] or 0 for device in profile.devices or trace.devices)
            else:
                self.size[name] = profile.footprint_mib

    def exclude_each_other(self, one: str, other: str) -> bool:
        return one != other and self.size[one] + self.size[other] > self.total


def _fewest_loads(trace: Trace, geometry: _Geometry) -> int:
    """Each model once; and for each client, whose requests come one after the other, what the best possible choice of
    whom to evict costs, if as many models as ever could had room together (Bélády's rule on equal sizes)."""
    competing = sorted(size for size in geometry.size.values() if size > 0)
    room, together = geometry.total, 0
    while together < len(competing) and competing[together] <= room:
        room -= competing[together]
        together += 1
    chains = ([call.model for call in calls if geometry.size[call.model]] for calls in _clients(trace))
    of_a_client = max((_belady(chain, max(1, together)) for chain in chains), default=0)
    beside = len(geometry.size) - len(competing)
    return max(len(competing), of_a_client) + beside


def _belady(models: Sequence[str], room: int) -> int:
    """The fewest loads that serve these one after the other where `room` models may be loaded together."""
    following = [len(models)] * len(models)
    last = dict[str, int]()
    for index in range(len(models) - 1, -1, -1):
        following[index] = last.get(models[index], len(models))
        last[models[index]] = index
    loaded, loads = dict[str, int](), 0
    for index, model in enumerate(models):
        if model not in loaded:
            loads += 1
            if len(loaded) == room:
                del loaded[max(loaded, key=loaded.__getitem__)]
        loaded[model] = following[index]
    return loads


def _longest_chain_s(trace: Trace, geometry: _Geometry) -> float:
    """The client that ends last if everything is always ready for it, except that its own models are loaded in time
    and two that exclude each other make way for each other."""
    latest = 0.0
    for calls in _clients(trace):
        first = trace.models[calls[0].model]
        end = max(calls[0].at, first.load_s) + first.service_s(calls[0].prompt_tokens, calls[0].output_tokens)
        for before, call in pairwise(calls):
            profile, gap_s = trace.models[call.model], call.think_s
            if geometry.exclude_each_other(before.model, call.model):
                gap_s = max(gap_s, trace.models[before.model].stop_s + profile.load_s)
            start = max(call.at, end + gap_s, profile.load_s)
            end = start + profile.service_s(call.prompt_tokens, call.output_tokens)
        latest = max(latest, end)
    return latest


def _work_s(trace: Trace, geometry: _Geometry) -> Iterator[float]:
    """Each model needs its memory for one load and for its requests, at best `concurrency` of them together. All of it
    must find room; and models larger than half of all memory must follow each other."""
    busy_s = dict.fromkeys(geometry.size, 0.0)
    for call in trace.calls:
        profile = trace.models[call.model]
        busy_s[call.model] += profile.service_s(call.prompt_tokens, call.output_tokens) / profile.concurrency
    need_s = {name: trace.models[name].load_s + busy for name, busy in busy_s.items()}
    if geometry.total:
        yield sum(geometry.size[name] * need for name, need in need_s.items()) / geometry.total
    large = [name for name, size in geometry.size.items() if 2 * size > geometry.total]
    if large:
        pauses_s = (len(large) - 1) * min(trace.models[name].stop_s for name in large)
        yield sum(need_s[name] for name in large) + pauses_s


def _clients(trace: Trace) -> Iterator[list[Call]]:
    """The calls of each client, in order; a call without one is its own."""
    chains: dict[str, list[Call]] = {}
    for call in trace.calls:
        if call.client is None:
            yield [call]
        else:
            chains.setdefault(call.client, []).append(call)
    yield from chains.values()
