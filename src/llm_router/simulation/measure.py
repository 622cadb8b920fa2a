"""What an outcome says in figures. Counterpart: `bounds`, which says what no rule could have reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llm_router.simulation.outcome import Fate, Outcome
from llm_router.simulation.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All durations in seconds. `ttft_*`: from asking to the first token, of the requests that were granted.
    `worst_wait_s`: the longest from asking to the grant. `makespan_s`: the end of the last request. `loads`: instances
    started. `unfinished`: requests that wait for ever, or were never sent because of one that does.
    """

    requests: int
    loads: int
    failed_loads: int
    makespan_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    ttft_max_s: float
    worst_wait_s: float
    served: int
    refused: int
    cut: int
    cancelled: int
    unfinished: int
    events: int


def figures(trace: Trace, outcome: Outcome) -> Figures:
    ttft_s = sorted(times_to_first_token_s(trace, outcome))
    fates = outcome.fates
    return Figures(
        requests=len(fates),
        loads=len(outcome.stays),
        failed_loads=sum(stay.ready_at is None and stay.stopping_at is None for stay in outcome.stays),
        makespan_s=max(outcome.ended_at, default=0.0),
        ttft_p50_s=quantile(ttft_s, 0.50),
        ttft_p95_s=quantile(ttft_s, 0.95),
        ttft_p99_s=quantile(ttft_s, 0.99),
        ttft_max_s=quantile(ttft_s, 1.0),
        worst_wait_s=max(waits_s(outcome), default=0.0),
        served=fates.count(Fate.SERVED),
        refused=fates.count(Fate.REFUSED),
        cut=fates.count(Fate.CUT),
        cancelled=fates.count(Fate.LEFT),
        unfinished=sum(fates.count(fate) for fate in (Fate.AHEAD, Fate.WAITING, Fate.RUNNING)),
        events=outcome.events,
    )


def waits_s(outcome: Outcome) -> list[float]:
    """From asking to the grant, by request that was granted; in seconds, in the order of the trace."""
    pairs = zip(outcome.arrived_at, outcome.granted_at, strict=True)
    return [granted - arrived for arrived, granted in pairs if granted >= 0]


def times_to_first_token_s(trace: Trace, outcome: Outcome) -> list[float]:
    """As `waits_s`, with the time that the prompt takes."""
    rows = zip(trace.calls, outcome.arrived_at, outcome.granted_at, strict=True)
    return [
        granted - arrived + trace.models[call.model].first_token_s(call.prompt_tokens)
        for call, arrived, granted in rows
        if granted >= 0
    ]


def quantile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all are not above (nearest rank); 0 where there are none."""
    if not ascending:
        return 0.0
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
