"""Who is served next by those that are ready. Counterparts: `lanes`, which knows the order within one model;
`tending`, which says until when an instance serves and when it leaves.
"""

from __future__ import annotations

from heapq import heappop, heappush

from llm_router.core.acts import Acts
from llm_router.core.instance import Instance
from llm_router.core.state import State

# When and in which order it came, the request, and who would serve it. Orders are unique: no two of them are equal.
_Due = tuple[float, int, int, Instance]


class Granting:
    def __init__(self, state: State, acts: Acts) -> None:
        self._state = state
        self._acts = acts

    def grant_waiting(self, at: float) -> None:
        """To whoever has been due for longest, over all instances: they may share a limited number of places."""
        if not self._state.wanted:
            return
        due: list[_Due] = []
        for instance in self._state.live.values():
            if instance.is_serving and instance.model.is_wanted:
                if not instance.is_outdated:
                    self._state.drop_wish(instance.model)
                self._push_due(due, instance, at)
        while due and self._state.has_place:
            *_, request, instance = heappop(due)
            self._state.dequeue(instance.model, request)
            self._acts.grant(instance, request)
            self._push_due(due, instance, at)

    def _push_due(self, due: list[_Due], instance: Instance, at: float) -> None:
        """Whoever is served next there."""
        if instance.model.queue.requests and len(instance.leases) < instance.slots:
            waiting = instance.model.queue.first(until_order=_until(instance, at))
            if waiting is not None:
                heappush(due, (waiting.due, waiting.order, waiting.request, instance))


def _until(instance: Instance, at: float) -> int | None:
    """When its turn is over, it serves only what it promised."""
    return None if instance.is_in_turn(at) else instance.promised_until
