"""The requests that wait for one model, in the order in which they are served.

Counterpart: `state`, which keeps one for each model. Each class has a lane of its own, first come first served; between
lanes the earliest due goes first, and a class's handicap says how much later than its arrival a request is due.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """`order`: a running number over all models, so that a burst at one instant keeps its order. `lane`: its class.
    `due`: its arrival plus the handicap of its class (seconds)."""

    request: int
    at: float
    order: int
    lane: int
    due: float


class Lanes:
    """`handicaps_s`: by lane. `requests`: all of them by id, in no order. `heads`: the first of each lane that isn't
    empty. Both are attributes because every decision looks at them, for every model."""

    __slots__ = ("_handicaps_s", "_lanes", "heads", "requests")

    def __init__(self, handicaps_s: Sequence[float]) -> None:
        self._handicaps_s = handicaps_s
        # Ordered ones, because the first of a plain dict is dear to find after many others have left in front of it.
        self._lanes: tuple[OrderedDict[int, WaitingRequest], ...] = tuple(OrderedDict() for _ in handicaps_s)
        self.requests: dict[int, WaitingRequest] = {}
        self.heads: list[WaitingRequest] = []

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[int]:
        """The request ids, in the order in which they will be served."""
        return iter([waiting.request for waiting in sorted(self.requests.values(), key=_service_order)])

    def __getitem__(self, request: int) -> WaitingRequest:
        return self.requests[request]

    def add(self, request: int, at: float, order: int, lane: int) -> bool:
        """Whether it is the first of its lane."""
        waiting = WaitingRequest(request, at, order, lane, at + self._handicaps_s[lane])
        self.requests[request] = self._lanes[lane][request] = waiting
        is_first = len(self._lanes[lane]) == 1
        if is_first:
            self.heads.append(waiting)
        return is_first

    def remove(self, request: int) -> bool:
        """Whether it was the first of its lane."""
        waiting = self.requests.pop(request)
        del self._lanes[waiting.lane][request]
        was_first = waiting in self.heads
        if was_first:
            self.heads = [next(iter(lane.values())) for lane in self._lanes if lane]
        return was_first

    @property
    def magnitude(self) -> int:
        """How many there are, by powers of two: 0 for none, 1 for one, 2 for up to three, 3 for up to seven …"""
        return len(self.requests).bit_length()

    def first(self, *, until_order: int | None = None) -> WaitingRequest | None:
        """Who is served next; of those only that came no later than `until_order`."""
        heads = self.heads
        if len(heads) == 1 and until_order is None:
            return heads[0]
        if until_order is not None:
            heads = [head for head in heads if head.order <= until_order]
        return min(heads, key=_service_order, default=None)

    def position(self, request: int) -> int:
        """How many are served before it."""
        own = _service_order(self.requests[request])
        return sum(_service_order(other) < own for other in self.requests.values())


def _service_order(waiting: WaitingRequest) -> tuple[float, int]:
    return waiting.due, waiting.order
