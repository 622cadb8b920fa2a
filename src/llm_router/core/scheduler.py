"""The state machine that decides which model has the device and who is served: `handle(event) -> list[Command]`.

Counterparts: `events` go in, `commands` come out, `views` shows the state to people. It never reads a clock: time
arrives with the event, and a later look is asked for with a timer. A timer is only a reason to look again: what
happens follows from the state and the time alone, so a late, early or repeated timer does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_router.core import views
from llm_router.core.acts import Acts
from llm_router.core.commands import Command, GrantRequest
from llm_router.core.decisions import Decision
from llm_router.core.events import Event, ModelsChanged, RequestArrived, RequestClosed, TimerKind
from llm_router.core.intake import Intake
from llm_router.core.settling import Settling
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.core.state import State
from llm_router.core.why import Why, why


class Scheduler:
    """Decides; the runtime obeys. `models`: by canonical name."""

    def __init__(self, models: Mapping[str, ModelSpec], policy: PolicySpec) -> None:
        self._policy = policy
        self._state = State(models.values(), policy)
        self._acts = Acts(self._state)
        self._intake = Intake(self._state, policy, self._acts)
        self._settling = Settling(self._state, policy, self._acts)
        self._settled_at = 0.0

    def wait_of(self, request: int, at: float | None = None) -> views.Wait | None:
        """Why this request still waits; None if it doesn't. `at`: now, for the expected wait; None: when the last event
        came that something followed from."""
        return views.wait_of(self._state, self._policy, self._settled_at if at is None else at, request)

    def snapshot(self) -> views.Snapshot:
        """The whole state as values, for status pages."""
        return views.snapshot(self._state)

    def decisions(self, model: str | None = None) -> tuple[Decision, ...]:
        """The last decisions, oldest first: all, or those about one model (or device)."""
        return tuple(self._acts.decisions.of(model))

    def why(self, model: str) -> Why | None:
        """Everything there is to say about one model; None: no such model is configured."""
        return why(self._state, self._policy, self._settled_at, model, self._acts.decisions)

    def leases_of(self, instance: int) -> tuple[int, ...]:
        """The open requests of an instance that isn't gone, oldest first."""
        found = self._state.live.get(instance)
        return () if found is None else tuple(found.leases)

    def handle(self, event: Event) -> list[Command]:
        """Take in one event and say what to do about it, in order. Nothing else changes the scheduler.

        1. A request for a hot instance (see `State.hot`) with a free lease, and its end, change nothing else: answered
           without looking at anything else, in a microsecond, and without a timer.
        2. Everything else is noted and then settled, in one place; but for one more request in a queue, or one less of
           several that run where nobody waits: in a crowd most events are of this kind, and nothing follows from them.
        """
        state = self._state
        if type(event) is RequestArrived:
            instance = state.hot.get(event.model)
            if instance is not None and len(instance.leases) < instance.slots and len(state.leased) < state.places:
                state.open_lease(instance, event.request, event.at)
                return [GrantRequest(request=event.request, instance=instance.id)]
        elif type(event) is RequestClosed and not event.lost:
            instance = state.leased.get(event.request)
            if instance is not None and state.hot.get(instance.model.spec.name) is instance:
                state.close_lease(instance, event.request, event.at, lost=False)
                if instance.leases or not instance.leaves_when_idle or TimerKind.IDLE in instance.timers:
                    return []
        elif type(event) is ModelsChanged and event.policy is not None:
            self._use(event.policy)
        commands = self._acts.begin(event.at)
        can_follow = self._can_something_follow(event)
        self._intake.note(event)
        if can_follow or not self._settling.holds():
            self._settling.settle(event.at)
            self._settled_at = event.at
        return commands

    def _use(self, policy: PolicySpec) -> None:
        self._policy = policy
        for part in (self._state, self._intake, self._settling):
            part.use(policy)

    def _can_something_follow(self, event: Event) -> bool:
        """Even if nothing changes that a plan depends on: a place that becomes free may be somebody's."""
        if type(event) is RequestArrived:
            return False
        if type(event) is not RequestClosed or event.lost or self._policy.concurrency is not None:
            return True
        instance = self._state.leased.get(event.request)
        return instance is None or bool(instance.model.queue.requests)
