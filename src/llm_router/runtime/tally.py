"""Counts the requests that are over, as the relay reports them.

Counterparts: `switches`, which counts those; `api.metrics`, which shows it. Plain numbers without locks or labels,
because counting is part of the hot path: everything is counted and read on the event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

from llm_router.history.base import RequestRecord
from llm_router.relay.recorder import Ended
from llm_router.relay.request import Kind

# Upper bounds, in seconds and tokens a second. From a small embedding to an answer of a reasoning model.
DURATIONS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
FIRST_TOKENS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
WAITS_S = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
RATES = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 150.0, 200.0, 400.0)
NO_WAIT_S = WAITS_S[0]  # a shorter wait is none
_KEPT = 2000


class Histogram:
    """`counts`: how many values were at most each bound, and above the one before; the last: above all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class ModelTally:
    """The requests of one model. `outcomes`: of chats, which nearly all are; `others`: of the rest, by kind and
    outcome. `waits`: until they were sent to the server, those that never were left out;
    the shortest count as none."""

    __slots__ = (
        "completion_tokens",
        "durations",
        "first_tokens",
        "others",
        "outcomes",
        "prompt_tokens",
        "rates",
        "replays",
        "waits",
    )

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = defaultdict(int)
        self.others: dict[tuple[Kind, str], int] = defaultdict(int)
        self.prompt_tokens = self.completion_tokens = self.replays = 0
        self.durations = Histogram(DURATIONS_S)
        self.first_tokens = Histogram(FIRST_TOKENS_S)
        self.waits = Histogram(WAITS_S)
        self.rates = Histogram(RATES)

    def requests(self) -> Iterable[tuple[Kind, str, int]]:
        """How many of each kind had which outcome."""
        yield from ((Kind.CHAT, outcome, count) for outcome, count in self.outcomes.items())
        yield from ((kind, outcome, count) for (kind, outcome), count in self.others.items())


class Requests:
    """Implements `relay.recorder.Recorder`. `models`: by canonical name; "" for requests that named none.

    The last ones are kept until somebody writes them down, but no more than 2000 at a time: in a storm the counters
    tell more than the rows.
    """

    def __init__(self) -> None:
        self.models: dict[str, ModelTally] = defaultdict(ModelTally)
        self._ended: list[Ended] = []

    def taken(self, monotonic_s: float, epoch_s: float) -> list[RequestRecord]:
        """Those that ended since the last call. The two clocks at this moment, in seconds."""
        ended, self._ended = self._ended, []
        return [
            RequestRecord(
                at=epoch_s - (monotonic_s - request.now),
                model=request.model,
                kind=request.kind.value,
                outcome=request.outcome,
                took_s=request.now - request.since,
                wait_s=request.sent_at - request.since if request.sent_at else None,
                first_token_s=request.first_at - request.since if request.first_at else None,
                prompt_tokens=request.prompt_n,
                completion_tokens=request.completion_n,
            )
            for request in ended
        ]

    def ended(self, request: Ended) -> None:
        tally = self.models[request.model]
        if request.kind is Kind.CHAT:
            tally.outcomes[request.outcome] += 1
        else:
            tally.others[request.kind, request.outcome] += 1
        # Written out, since every request comes by here: a call costs as much as the rest.
        durations, took_s = tally.durations, request.now - request.since
        durations.counts[bisect_left(DURATIONS_S, took_s)] += 1
        durations.total += took_s
        if request.sent_at:
            waited_s = request.sent_at - request.since
            if waited_s > NO_WAIT_S:
                tally.waits.observe(waited_s)
            else:
                tally.waits.counts[0] += 1
        if request.first_at:
            tally.first_tokens.observe(request.first_at - request.since)
        if request.rate > 0:
            tally.rates.observe(request.rate)
        tally.prompt_tokens += request.prompt_n
        tally.completion_tokens += request.completion_n
        if len(self._ended) < _KEPT:
            self._ended.append(request)

    def replayed(self, model: str) -> None:
        self.models[model].replays += 1
