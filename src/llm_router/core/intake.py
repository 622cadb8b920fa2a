"""What happened: each event is noted in the state, and refused at once what is hopeless from the start.

Counterpart: `settling`, which draws the conclusions. Nothing is granted here that has to be weighed against others.
Ids that mean nothing (any more) are ignored: messages cross each other.
"""

from __future__ import annotations

from typing import assert_never

from llm_router.core.acts import Acts
from llm_router.core.changes import Changes
from llm_router.core.commands import Refusal
from llm_router.core.decisions import Action
from llm_router.core.events import (
    DeviceMeasured,
    Event,
    InstanceAdopted,
    InstanceGone,
    InstanceParked,
    InstanceReady,
    KeepRequested,
    LoadRequested,
    MemoryMeasured,
    ModelsChanged,
    RequestArrived,
    RequestClass,
    RequestClosed,
    ShutdownRequested,
    TimerFired,
    TimerKind,
    UnloadRequested,
)
from llm_router.core.instance import Instance, Lifecycle
from llm_router.core.model import Failure, ModelState
from llm_router.core.policy import backoff_s, expected_wait_s
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.core.state import State

# How much the newest load counts in the learned load time.
_NEWEST_LOAD_WEIGHT = 0.5


class Intake:
    def __init__(self, state: State, policy: PolicySpec, acts: Acts) -> None:
        self._state = state
        self._policy = policy
        self._acts = acts
        self._changes = Changes(state, acts)

    def use(self, policy: PolicySpec) -> None:
        """These numbers hold from now on."""
        self._policy = policy

    def note(self, event: Event) -> None:
        match event:
            case RequestArrived():
                self._note_arrival(event)
            case RequestClosed():
                self._note_close(event)
            case InstanceReady():
                self._note_ready(event)
            case InstanceGone():
                self._note_gone(event)
            case InstanceAdopted():
                self._note_adoption(event)
            case LoadRequested():
                self._note_load(event)
            case UnloadRequested():
                self._note_unload(event)
            case KeepRequested():
                self._note_keep(event)
            case TimerFired():
                self._note_timer(event)
            case ShutdownRequested():
                self._state.shutting_down = True
                self._state.changes += 1
            case InstanceParked() | MemoryMeasured() | DeviceMeasured() | ModelsChanged():
                self._changes.note(event)
            case _:
                assert_never(event)

    def _note_arrival(self, event: RequestArrived) -> None:
        """1. Nobody is served during a shutdown, nor by a model that isn't there or can't be started.
        2. A ready instance with a free lease serves it while its turn lasts; a background request only if nobody else
           wants the room, because it would delay the switch.
        3. Else it waits, unless it must not (background), had better not (a load has just failed) or can't (full).
        """
        model, request = self._state.models.get(event.model), event.request
        if model is None:  # 1
            detail = f"cannot serve {event.model}: no such model is configured"
            self._acts.reject(request, Refusal.NOT_READY, detail)
        elif self._state.shutting_down:
            self._acts.reject_at_shutdown(request)
        elif model.spec.unusable is not None:
            self._acts.reject(request, Refusal.LOAD_FAILED, model.spec.unusable)
        elif (instance := self._able_to_serve(model, event)) is not None:  # 2
            self._acts.grant(instance, request)
        elif event.request_class is RequestClass.TASK:  # 3
            detail = f"cannot serve a background request now: {model.name} is not free for it, and it may load nothing"
            self._acts.reject(request, Refusal.NOT_READY, detail)
        elif model.failure is not None and event.at < model.failure.retry_at:
            self._acts.reject(request, Refusal.LOAD_FAILED, model.failure.error, model.failure.retry_at - event.at)
        elif len(self._state.waiting) >= self._policy.queue_limit:
            wait_s = expected_wait_s(model, self._state, self._policy, event.at)
            detail = f"cannot queue the request: {len(self._state.waiting)} are waiting already; try again later"
            self._acts.note(model.name, Action.REFUSED, detail)
            self._acts.reject(request, Refusal.QUEUE_FULL, detail, wait_s)
        else:
            self._state.enqueue(model, request, event.at, event.request_class)

    def _able_to_serve(self, model: ModelState, event: RequestArrived) -> Instance | None:
        instance = model.instance
        if instance is None or not instance.can_grant(event.at) or not self._state.has_place:
            return None
        is_allowed = event.request_class is not RequestClass.TASK or instance.turn_ends_at is None
        return instance if is_allowed else None

    def _note_close(self, event: RequestClosed) -> None:
        """A lost connection makes a ready instance suspect: it is checked once and grants nothing until it answers."""
        waiting_for = self._state.waiting.get(event.request)
        instance = self._state.leased.get(event.request)
        if waiting_for is not None:
            self._state.dequeue(waiting_for, event.request)
        elif instance is not None:
            self._state.close_lease(instance, event.request, event.at, lost=event.lost)
            if not instance.leases:
                self._state.changes += 1
            if event.lost and instance.lifecycle is Lifecycle.READY:
                self._acts.check(instance)

    def _note_ready(self, event: InstanceReady) -> None:
        """The first time, what waits for it now is promised to be served; later, it was suspect and is cleared."""
        instance = self._state.live.get(event.instance)
        if instance is None:
            return
        instance.is_suspect = False
        if not instance.is_starting:
            return
        instance.lifecycle = Lifecycle.READY
        self._state.changes += 1
        instance.ready_at = instance.last_used_at = event.at
        model = instance.model
        model.failure = None
        self._state.forget_shortage(model)
        instance.promised_until = self._state.last_order
        took_s = event.at - instance.since
        if instance.is_waking:
            model.wake_s = _learned_s(model.wake_s, took_s)
        elif not instance.is_adopted:
            model.load_s = _learned_s(model.load_s, took_s)
        instance.is_waking = False

    def _note_gone(self, event: InstanceGone) -> None:
        """1. It was told to leave or to park, or it was adopted and never answered, or it was woken in vain: nothing to
           hold against the model. Who waits for it starts it anew.
        2. It never became ready: a failed load; but the first one for want of memory is repeated if it can have more
           room than it had.
        3. It crashed: forgiven once, so that who waits starts it again; but crashing again soon without having served
           anything is as good as a failed load.
        """
        instance = self._state.live.pop(event.instance, None)
        if instance is None:
            return
        self._state.moved(instance.model)
        model, was = instance.model, instance.lifecycle
        instance.lifecycle = Lifecycle.GONE
        self._acts.cancel_timers(instance)
        if model.instance is instance:
            model.instance = next((other for other in self._state.live.values() if other.model is model), None)
        if instance.has_served:
            model.failed_loads, model.crashed_at = 0, None
        is_vain = was is Lifecycle.STARTING and (instance.is_adopted or instance.is_waking)
        if is_vain or was not in (Lifecycle.STARTING, Lifecycle.READY):  # 1
            if event.error is not None and was is not Lifecycle.STOPPING:
                self._acts.note(model.name, Action.FAILED, event.error)
            return
        if was is Lifecycle.STARTING:  # 2
            if event.out_of_memory and self._changes.reserve_more(instance) and not model.ran_out:
                self._acts.note(model.name, Action.FAILED, "it ran out of memory; once more, with more room")
                model.ran_out = True
                return
            self._note_failure(model, event.error or f"{model.name} ended before it was ready", event.at)
            return
        self._acts.note(model.name, Action.FAILED, event.error or "it ended by itself")
        crashed_before = model.crashed_at is not None and event.at - model.crashed_at <= self._policy.backoff_max_s  # 3
        model.crashed_at = event.at
        if crashed_before:
            self._note_failure(model, event.error or f"{model.name} ends as soon as it is ready", event.at)

    def _note_failure(self, model: ModelState, error: str, at: float) -> None:
        self._acts.note(model.name, Action.FAILED, error)
        model.failed_loads += 1
        self._state.forget_shortage(model)
        pause_s = backoff_s(model.failed_loads, self._policy)
        model.failure = Failure(error, at + pause_s)
        self._state.drop_wish(model)
        for request in list(model.queue):
            self._acts.reject_waiting(model, request, Refusal.LOAD_FAILED, error, pause_s)

    def _note_adoption(self, event: InstanceAdopted) -> None:
        """One too many, or of a model that isn't configured any more: it is told to leave, and counts until it has."""
        state, name = self._state, event.model
        if event.instance in state.live:
            return
        model = state.models.get(name) or state.still_leaving(name) or state.new_model(ModelSpec(name=name))
        instance = state.add_instance(event.instance, model, self._changes.adopted(model, event), event.at)
        instance.is_adopted = True
        state.stays_unplanned(model)
        if state.models.get(name) is not model or model.instance is not instance:
            self._acts.stop(instance)

    def _note_load(self, event: LoadRequested) -> None:
        """Ends a back-off, and takes back an unload that hasn't happened yet: the last word counts."""
        model = self._state.models.get(event.model)
        if model is None or model.spec.unusable is not None:
            return
        model.failure = None
        self._state.wish_for(model, event.at)
        if model.instance is not None:
            model.instance.unload_wanted = model.instance.is_outdated
            self._state.stays_unplanned(model)

    def _note_unload(self, event: UnloadRequested) -> None:
        model = self._state.models.get(event.model)
        if model is None:
            return
        self._state.drop_wish(model)
        if model.instance is not None:
            model.instance.unload_wanted = True
            self._state.moved(model)

    def _note_keep(self, event: KeepRequested) -> None:
        """The pending timer is for another moment, perhaps a later one."""
        model = self._state.models.get(event.model)
        if model is not None and model.instance is not None:
            model.instance.keep_s = event.keep_s
            self._acts.cancel_timer(model.instance, TimerKind.IDLE)

    def _note_timer(self, event: TimerFired) -> None:
        self._state.changes += 1
        instance = self._state.live.get(event.timer.subject)
        if event.timer.kind is TimerKind.ROOM:
            self._state.room_timer = None
        elif instance is not None:
            instance.timers.pop(event.timer.kind, None)


def _learned_s(known_s: float | None, took_s: float) -> float:
    known_s = took_s if known_s is None else known_s
    return known_s + _NEWEST_LOAD_WEIGHT * (took_s - known_s)
