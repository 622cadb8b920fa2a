"""The state machine that decides which model has the device and who is served: `handle(event) -> list[Command]`.

Counterparts: `events` go in, `commands` come out, `views` shows the state to people. It never reads a clock: time
arrives with the event, and a later look is asked for with a timer. A timer is only a reason to look again: what
happens follows from the state and the time alone, so a late, early or repeated timer does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from llm_router.core import views
from llm_router.core.commands import (
    CancelTimer,
    CheckInstance,
    Command,
    CutRequest,
    GrantRequest,
    Refusal,
    RejectRequest,
    SetTimer,
    StartInstance,
    StopInstance,
)
from llm_router.core.events import (
    Event,
    InstanceAdopted,
    InstanceGone,
    InstanceReady,
    LoadRequested,
    RequestArrived,
    RequestClass,
    RequestClosed,
    ShutdownRequested,
    TimerFired,
    TimerKey,
    TimerKind,
    UnloadRequested,
)
from llm_router.core.placement import fits, why_never
from llm_router.core.policy import Plan, backoff_s, expected_wait_s, plan_switch, turn_end
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.core.state import Failure, Instance, Lifecycle, ModelState, State

# How much the newest load counts in the learned load time.
_NEWEST_LOAD_WEIGHT = 0.5


class Scheduler:
    """Decides; the runtime obeys. `models`: by canonical name."""

    def __init__(self, models: Mapping[str, ModelSpec], policy: PolicySpec) -> None:
        self._policy = policy
        self._state = State(models.values())
        self._commands: list[Command] = []

    def wait_of(self, request: int) -> views.Wait | None:
        """Why this request still waits; None if it doesn't."""
        return views.wait_of(self._state, self._policy, request)

    def snapshot(self) -> views.Snapshot:
        """The whole state as values, for status pages."""
        return views.snapshot(self._state)

    def leases_of(self, instance: int) -> tuple[int, ...]:
        """The open requests of an instance that isn't gone, oldest first."""
        found = self._state.live.get(instance)
        return () if found is None else tuple(found.leases)

    def handle(self, event: Event) -> list[Command]:
        """Take in one event and say what to do about it, in order. Nothing else changes the scheduler.

        1. A request for a hot instance (see `State.hot`) with a free lease, and its end, change nothing else: answered
           without looking at anything else, in a microsecond, and without a timer.
        2. Everything else is noted and then settled, in one place.
        """
        state = self._state
        if type(event) is RequestArrived:
            instance = state.hot.get(event.model)
            if instance is not None and len(instance.leases) < instance.slots:
                return [self._lease(instance, event.request, event.at)]
        elif type(event) is RequestClosed and not event.lost:
            instance = state.leased.get(event.request)
            if instance is not None and state.hot.get(instance.model.spec.name) is instance:
                self._end_lease(instance, event)
                if instance.leases or instance.model.spec.idle_timeout_s is None or TimerKind.IDLE in instance.timers:
                    return []
        self._commands = []
        self._note(event)
        self._settle(event.at)
        return self._commands

    def _lease(self, instance: Instance, request: int, at: float) -> GrantRequest:
        instance.leases[request] = None
        instance.last_used_at = at
        self._state.leased[request] = instance
        return GrantRequest(request=request, instance=instance.id)

    def _end_lease(self, instance: Instance, event: RequestClosed) -> None:
        del self._state.leased[event.request]
        del instance.leases[event.request]
        instance.last_used_at = event.at
        instance.has_served = instance.has_served or not event.lost

    # What happened: each of these only notes it, refuses what is hopeless from the start, and leaves the rest to
    # `_settle`. Ids that mean nothing (any more) are ignored: messages cross each other.

    def _note(self, event: Event) -> None:
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
            case TimerFired():
                self._note_timer(event)
            case ShutdownRequested():
                self._state.shutting_down = True
            case _:
                assert_never(event)

    def _note_arrival(self, event: RequestArrived) -> None:
        """1. A ready instance with a free lease serves it, unless its turn is over; a background request not even
        while someone else waits for the room: it would delay the switch. 2. Else it waits, if there is hope."""
        model = self._state.models.get(event.model)
        if model is None:
            self._reject(event.request, Refusal.NOT_READY, f"cannot serve {event.model}: no such model is configured")
        elif self._state.shutting_down:
            self._reject_at_shutdown(event.request)
        elif self._can_serve_at_once(model, event):
            assert model.instance is not None
            self._commands.append(self._lease(model.instance, event.request, event.at))
        elif event.request_class is RequestClass.BACKGROUND:
            detail = f"cannot serve a background request: {model.name} is not ready, and such requests load nothing"
            self._reject(event.request, Refusal.NOT_READY, detail)
        elif model.failure is not None and event.at < model.failure.retry_at:
            rest_s = model.failure.retry_at - event.at
            self._reject(event.request, Refusal.LOAD_FAILED, model.failure.error, rest_s)
        elif len(self._state.waiting) >= self._policy.queue_limit:
            wait_s = expected_wait_s(model, self._state, self._policy, event.at)
            detail = f"cannot queue the request: {len(self._state.waiting)} are waiting already; try again later"
            self._reject(event.request, Refusal.QUEUE_FULL, detail, wait_s)
        else:
            self._state.enqueue(model, event.request, event.at)

    @staticmethod
    def _can_serve_at_once(model: ModelState, event: RequestArrived) -> bool:
        instance = model.instance
        if instance is None or not instance.can_grant(event.at):
            return False
        return event.request_class is RequestClass.NORMAL or instance.turn_ends_at is None

    def _note_close(self, event: RequestClosed) -> None:
        """A lost connection makes a ready instance suspect: it is checked once and grants nothing until it answers."""
        waiting_for = self._state.waiting.get(event.request)
        instance = self._state.leased.get(event.request)
        if waiting_for is not None:
            self._state.dequeue(waiting_for, event.request)
        elif instance is not None:
            self._end_lease(instance, event)
            if event.lost and instance.lifecycle is Lifecycle.READY and not instance.is_suspect:
                instance.is_suspect = True
                self._commands.append(CheckInstance(instance=instance.id))

    def _note_ready(self, event: InstanceReady) -> None:
        """The first time, what waits for it now is promised to be served; later, it was suspect and is cleared."""
        instance = self._state.live.get(event.instance)
        if instance is None:
            return
        instance.is_suspect = False
        if not instance.is_starting:
            return
        instance.lifecycle = Lifecycle.READY
        instance.ready_at = instance.last_used_at = event.at
        model = instance.model
        model.failure = None
        for waiting in model.queue.values():
            waiting.promised_by = instance.id
        if not instance.is_adopted:
            took_s = event.at - instance.since
            known_s = took_s if model.load_s is None else model.load_s
            model.load_s = known_s + _NEWEST_LOAD_WEIGHT * (took_s - known_s)

    def _note_gone(self, event: InstanceGone) -> None:
        """1. It was told to leave, or it was adopted and never answered: nothing to hold against the model.
        2. It never became ready: a failed load. 3. It crashed: forgiven once, because the waiting requests may start
        it again; but crashing again soon without having served anything is as good as a failed load."""
        instance = self._state.live.pop(event.instance, None)
        if instance is None:
            return
        model, was = instance.model, instance.lifecycle
        instance.lifecycle = Lifecycle.GONE
        self._cancel_timers(instance)
        if model.instance is instance:
            model.instance = next((other for other in self._state.live.values() if other.model is model), None)
        if instance.has_served:
            model.failed_loads, model.crashed_at = 0, None
        if was is Lifecycle.STOPPING or (was is Lifecycle.STARTING and instance.is_adopted):
            return
        if was is Lifecycle.STARTING:
            self._note_failure(model, event.error or f"{model.name} ended before it was ready", event.at)
            return
        crashed_before = model.crashed_at is not None and event.at - model.crashed_at <= self._policy.backoff_max_s
        model.crashed_at = event.at
        if crashed_before:
            self._note_failure(model, event.error or f"{model.name} ends as soon as it is ready", event.at)

    def _note_failure(self, model: ModelState, error: str, at: float) -> None:
        model.failed_loads += 1
        pause_s = backoff_s(model.failed_loads, self._policy)
        model.failure = Failure(error, at + pause_s)
        model.load_wish = None
        for request in list(model.queue):
            self._reject_waiting(model, request, Refusal.LOAD_FAILED, error, pause_s)

    def _note_adoption(self, event: InstanceAdopted) -> None:
        """One too many, or of a model that isn't configured any more: it is told to leave, and counts until it has."""
        if event.instance in self._state.live:
            return
        model = self._state.models.get(event.model) or ModelState(ModelSpec(name=event.model))
        instance = self._state.add_instance(event.instance, model, event.at)
        instance.is_adopted = True
        if self._state.models.get(event.model) is not model or model.instance is not instance:
            self._stop(instance)

    def _note_load(self, event: LoadRequested) -> None:
        """Ends a back-off, and takes back an unload that hasn't happened yet: the last word counts."""
        model = self._state.models.get(event.model)
        if model is None:
            return
        model.failure = None
        if model.load_wish is None:
            model.load_wish = self._state.age(event.at)
        if model.instance is not None:
            model.instance.unload_wanted = False

    def _note_unload(self, event: UnloadRequested) -> None:
        model = self._state.models.get(event.model)
        if model is None:
            return
        model.load_wish = None
        if model.instance is not None:
            model.instance.unload_wanted = True

    def _note_timer(self, event: TimerFired) -> None:
        subject = event.timer.subject
        instance = self._state.live.get(subject) if isinstance(subject, int) else None
        if instance is not None:
            instance.timers.pop(event.timer.kind, None)

    # What follows from it.

    def _settle(self, at: float) -> None:
        """The one decision tree, after every event.

        1. Refuse who waits in vain: everybody during a shutdown, and models for which no room can be made.
        2. Start what takes no room.
        3. Start the next model if its room is free.
        4. Tend each instance: grant, drain, stop. That frees no room at once, so there is nothing to start after it.
        5. Note which instances are hot.
        """
        self._refuse_hopeless()
        self._start_beside(at)
        plan = plan_switch(self._state, self._policy)
        if self._start_next(plan, at):
            plan = plan_switch(self._state, self._policy)
        if plan.target is None:
            self._state.evicted.clear()
        self._tend_all(plan, at)
        self._note_hot()

    def _refuse_hopeless(self) -> None:
        state = self._state
        if state.shutting_down:
            for model in state.models.values():
                model.load_wish = None
            for request, model in list(state.waiting.items()):
                state.dequeue(model, request)
                self._reject_at_shutdown(request)
        for model in [model for model in state.in_need() if model.competes]:
            detail = why_never(model, state.live.values(), self._policy.budget_mib)
            if detail is not None:
                model.load_wish = None
                for request in list(model.queue):
                    self._reject_waiting(model, request, Refusal.NO_ROOM, detail)

    def _start_beside(self, at: float) -> None:
        for model in self._state.in_need():
            if not model.competes and model.instance is None:
                self._start(model, at)

    def _start_next(self, plan: Plan, at: float) -> bool:
        """One start at a time on the device: two loads would slow each other down and measure each other's memory."""
        target = plan.target
        if target is None or target.instance is not None or self._state.switch_in_progress() is not None:
            return False
        footprints = [instance.model.spec.footprint_mib for instance in self._state.live.values()]
        if not fits([target.spec.footprint_mib, *footprints], self._policy.budget_mib):
            return False
        self._start(target, at)
        self._state.evicted.clear()
        return True

    def _tend_all(self, plan: Plan, at: float) -> None:
        for instance in list(self._state.live.values()):
            if instance.is_starting:
                if instance.unload_wanted and not instance.model.queue:
                    self._stop(instance)
            elif instance.lifecycle is Lifecycle.READY:
                self._tend(instance, plan.victims.get(instance.id), at)

    def _tend(self, instance: Instance, needed_since: float | None, at: float) -> None:
        """One ready instance. `needed_since`: since when the next model has needed its room; None: nobody does.

        1. Draining for nobody any more: it serves again.
        2. Grant what waits; when its turn is over, only what it promised.
        3. Time to leave, by promise kept, unload, idleness while someone needs the room, or the end of its turn: drain.
        4. Draining: stop when the last lease is closed, or cut the rest at the deadline.
        5. Idle for too long: stop.
        """
        instance.turn_ends_at = None if needed_since is None else turn_end(instance, needed_since, self._policy)
        if instance.drain_until is not None and needed_since is None and not instance.unload_wanted:
            instance.drain_until = None
            self._cancel_timer(instance, TimerKind.DRAIN)
            self._state.evicted.discard(instance.model.name)
        if instance.is_serving:
            self._grant_waiting(instance, at)
        if instance.drain_until is None and self._must_leave(instance, at):
            instance.drain_until = at + self._policy.drain_timeout_s
            if needed_since is not None:
                self._state.evicted.add(instance.model.name)
        if instance.drain_until is not None:
            self._drain(instance, instance.drain_until, at)
        else:
            self._watch_turn(instance, at)
            self._watch_idleness(instance, at)

    def _grant_waiting(self, instance: Instance, at: float) -> None:
        model = instance.model
        model.load_wish = None
        while len(instance.leases) < instance.slots and (instance.has_promises or instance.is_in_turn(at)):
            first = model.first_waiting
            if first is None:
                return
            self._state.dequeue(model, first.request)
            self._commands.append(self._lease(instance, first.request, at))

    @staticmethod
    def _must_leave(instance: Instance, at: float) -> bool:
        if instance.has_promises:
            return False
        if instance.unload_wanted:
            return True
        return instance.turn_ends_at is not None and not (instance.is_busy and instance.is_in_turn(at))

    def _drain(self, instance: Instance, deadline: float, at: float) -> None:
        if instance.leases and at < deadline:
            self._cancel_timer(instance, TimerKind.PATIENCE)
            self._set_timer(instance, TimerKind.DRAIN, deadline)
            return
        for request in instance.leases:
            detail = f"{instance.model.name} was told to leave, and the time for open requests is over"
            self._commands.append(CutRequest(request=request, refusal=Refusal.PREEMPTED, detail=detail))
        self._stop(instance)

    def _watch_turn(self, instance: Instance, at: float) -> None:
        if instance.turn_ends_at is None:
            self._cancel_timer(instance, TimerKind.PATIENCE)
        elif at < instance.turn_ends_at:
            self._set_timer(instance, TimerKind.PATIENCE, instance.turn_ends_at)

    def _watch_idleness(self, instance: Instance, at: float) -> None:
        """Lazy: a pending timer stays as it is when the instance is used, and looks again when it fires."""
        timeout_s = instance.model.spec.idle_timeout_s
        if timeout_s is None or instance.is_busy:
            return
        idle_until = instance.last_used_at + timeout_s
        if at >= idle_until:
            self._stop(instance)
        elif TimerKind.IDLE not in instance.timers:
            self._set_timer(instance, TimerKind.IDLE, idle_until)

    def _note_hot(self) -> None:
        """Hot: whoever is granted or closed there, nobody else's fate depends on it, and nothing of its own waits."""
        state = self._state
        is_calm = not any(model.competes for model in state.in_need())
        state.hot = {
            instance.model.name: instance
            for instance in state.live.values()
            if instance.is_undisputed and (is_calm or not instance.model.competes) and not state.shutting_down
        }

    # How it is said.

    def _start(self, model: ModelState, at: float) -> None:
        instance = self._state.new_instance(model, at)
        self._commands.append(StartInstance(instance=instance.id, model=model.name))

    def _stop(self, instance: Instance) -> None:
        self._cancel_timers(instance)
        instance.lifecycle = Lifecycle.STOPPING
        instance.drain_until = instance.turn_ends_at = None
        self._commands.append(StopInstance(instance=instance.id))

    def _reject(self, request: int, refusal: Refusal, detail: str, retry_after_s: float | None = None) -> None:
        rejection = RejectRequest(request=request, refusal=refusal, detail=detail, retry_after_s=retry_after_s)
        self._commands.append(rejection)

    def _reject_waiting(
        self, model: ModelState, request: int, refusal: Refusal, detail: str, retry_after_s: float | None = None
    ) -> None:
        self._state.dequeue(model, request)
        self._reject(request, refusal, detail, retry_after_s)

    def _reject_at_shutdown(self, request: int) -> None:
        self._reject(request, Refusal.SHUTTING_DOWN, "cannot serve the request: the router is shutting down")

    def _set_timer(self, instance: Instance, kind: TimerKind, at: float) -> None:
        if instance.timers.get(kind) != at:
            instance.timers[kind] = at
            self._commands.append(SetTimer(timer=TimerKey(kind, instance.id), at=at))

    def _cancel_timer(self, instance: Instance, kind: TimerKind) -> None:
        if instance.timers.pop(kind, None) is not None:
            self._commands.append(CancelTimer(timer=TimerKey(kind, instance.id)))

    def _cancel_timers(self, instance: Instance) -> None:
        for kind in list(instance.timers):
            self._cancel_timer(instance, kind)
