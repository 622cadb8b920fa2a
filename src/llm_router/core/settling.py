"""What follows: the one decision tree, gone through after every event, whatever it was.

Counterparts: `intake` notes the event before, `planning` and `policy` answer the questions on the way. It never asks
what just happened: the state and the time alone decide, so no order of events can lead around a rule.
"""

from __future__ import annotations

from heapq import heappop, heappush

from llm_router.core.acts import Acts
from llm_router.core.commands import Refusal
from llm_router.core.decisions import Action
from llm_router.core.events import TimerKind
from llm_router.core.eviction import residency_end
from llm_router.core.placement import prospects_of
from llm_router.core.planning import Need, Plan, contested, extend, plan_switches
from llm_router.core.policy import turn_end
from llm_router.core.reasons import explain
from llm_router.core.specs import PolicySpec
from llm_router.core.state import Instance, Lifecycle, ModelState, Reserved, State

# When and in which order it came, the request, and who would serve it. Orders are unique: no two of them are equal.
_Due = tuple[float, int, int, Instance]


class Settling:
    def __init__(self, state: State, policy: PolicySpec, acts: Acts) -> None:
        self._state = state
        self._policy = policy
        self._acts = acts
        self._plan = Plan()
        self._short: list[ModelState] = []
        self._planned = self._counts()

    def use(self, policy: PolicySpec) -> None:
        """These numbers hold from now on."""
        self._policy = policy

    def settle(self, at: float) -> None:
        """The one decision tree, after every event.

        1. Refuse who waits in vain: everybody during a shutdown, and models for which no room can be made.
        2. Start what takes no room.
        3. Start whoever comes next on a device and has room there.
        4. Tend each instance: grant, drain, stop. That frees no room at once, so there is nothing to start after it.
        5. Note which instances are hot.

        As long as nothing changes that a plan depends on (see `State.changes`), the last one holds, and 1 to 3 would
        come to the same: most events in a crowd are one more request, or one less of many.
        """
        is_new = self._planned != self._counts()
        if is_new:
            self._refuse_hopeless(at)  # 1
            self._start_beside()  # 2
            self._start_next(at)  # 3
        self._tend_all(self._plan, at)  # 4
        if is_new or self._planned != self._counts() or self._policy.concurrency is not None:
            self._note_hot(self._plan)  # 5
            self._note_waits(self._plan)

    def holds(self) -> bool:
        """Whether nothing has changed that a plan depends on."""
        return self._planned == self._counts()

    def _counts(self) -> tuple[int, int]:
        return self._state.changes, self._state.arrivals

    def _start_next(self, at: float) -> None:
        state = self._state
        self._forget_evictions()
        has_only_more = self._planned[0] == state.changes
        if not (has_only_more and extend(self._plan, state, self._policy, at)):
            self._plan = plan_switches(state, self._policy, at)
        while self._plan.starts:
            for model in self._plan.starts:
                self._bring_up(model, self._plan.choices[model.name].placement)
            self._forget_evictions()
            self._plan = plan_switches(state, self._policy, at)
        self._planned = self._counts()

    def _bring_up(self, model: ModelState, placement: Reserved) -> None:
        if model.sleeper is None:
            self._acts.start(model, placement)
        else:
            self._acts.wake(model.sleeper, placement)

    def _refuse_hopeless(self, at: float) -> None:
        state = self._state
        if state.shutting_down:
            for model in list(state.wanted):
                state.drop_wish(model)
            for request, model in list(state.waiting.items()):
                state.dequeue(model, request)
                self._acts.reject_at_shutdown(request)
        for model in state.in_need():
            if model.competes:
                self._judge(model, at)
        if self._short:
            self._watch_room()

    def _judge(self, model: ModelState, at: float) -> None:
        """Memory that other programs hold may come back, so who needs it waits for a while, out of everybody's way."""
        verdict = prospects_of(model, self._state).never
        if verdict is None:
            model.short_since = None
            return
        if verdict.may_pass:
            if model.short_since is None:
                model.short_since = at
                self._short.append(model)
            if at < model.short_since + self._policy.room_timeout_s:
                return
        self._state.drop_wish(model)
        for request in list(model.queue):
            self._acts.reject_waiting(model, request, Refusal.NO_ROOM, verdict.detail)
        self._state.forget_shortage(model)

    def _watch_room(self) -> None:
        """Nobody is short of memory who isn't in need any more."""
        for model in self._short:
            if not model.needs_start:
                model.short_since = None
        self._short = [model for model in self._short if model.short_since is not None]
        since = [model.short_since for model in self._short if model.short_since is not None]
        self._acts.set_room_timer(min(since) + self._policy.room_timeout_s if since else None)

    def _start_beside(self) -> None:
        for model in self._state.in_need():
            if not model.competes and (model.instance is None or model.sleeper is not None):
                self._bring_up(model, {})

    def _forget_evictions(self) -> None:
        """Whoever it was for has used the room, or doesn't want it any more."""
        evicted = self._state.evicted
        for name in [name for name, beneficiary in evicted.items() if not beneficiary.needs_start]:
            del evicted[name]

    def _tend_all(self, plan: Plan, at: float) -> None:
        """Turns first, then grants, then leaving: a place that one instance gives up may be another's."""
        for instance in self._state.live.values():
            if instance.model.uses:
                instance.model.update_rate(at)
            if instance.lifecycle is Lifecycle.READY:
                self._note_turn(instance, plan.needs.get(instance.id))
        self._grant_waiting(at)
        for instance in list(self._state.live.values()):
            if instance.is_starting:
                if instance.is_outdated or (instance.unload_wanted and not instance.model.queue):
                    self._acts.stop(instance)
            elif instance.lifecycle is Lifecycle.READY:
                self._tend(instance, plan.needs.get(instance.id), at)
            elif instance.lifecycle is Lifecycle.PARKED:
                self._tend_parked(instance, plan.needs.get(instance.id), at)

    def _note_turn(self, instance: Instance, need: Need | None) -> None:
        """Draining for nobody any more, it serves again."""
        instance.turn_ends_at = None if need is None else turn_end(instance, need.since, need.beneficiary, self._policy)
        if instance.drain_until is not None and need is None and not instance.unload_wanted:
            instance.drain_until = None
            self._state.changes += 1
            self._acts.cancel_timer(instance, TimerKind.DRAIN)
            self._state.evicted.pop(instance.model.name, None)
            self._acts.note(instance.model.name, Action.STAYED, "nobody needs its room any more")

    def _tend(self, instance: Instance, need: Need | None, at: float) -> None:
        """One ready instance. `need`: somebody needs its room; None: nobody does.

        1. Its promises are kept, and it is to be unloaded, or its room is needed and it is idle or has had its turn:
           it drains. But as long as its leaving alone would help nobody, it has its turn even if it is idle.
        2. Draining: stop when the last lease is closed, or cut the rest at the deadline.
        3. Idle for too long: park it, or stop.
        """
        if (
            instance.drain_until is None and self._must_leave(instance, at) and not self._may_stay(instance, need, at)
        ):  # 1
            instance.drain_until = at + self._policy.drain_timeout_s
            self._state.changes += 1
            if need is not None and need.beneficiary is not None:
                self._state.evicted[instance.model.name] = need.beneficiary
            self._note_leaving(instance, need, at)
        if instance.drain_until is not None:  # 2
            self._drain(instance, instance.drain_until, at)
        else:
            self._watch_turn(instance, at)
            self._watch_idleness(instance, at)  # 3

    def _tend_parked(self, instance: Instance, need: Need | None, at: float) -> None:
        """It serves nobody, so that nothing has to end before it leaves."""
        if not instance.unload_wanted and need is None:
            self._watch_idleness(instance, at)
            return
        if need is not None and need.beneficiary is not None and need.beneficiary is not instance.model:
            self._state.evicted[instance.model.name] = need.beneficiary
        self._note_leaving(instance, need, at)
        self._acts.stop(instance)

    def _grant_waiting(self, at: float) -> None:
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
            waiting = instance.model.queue.first(until_order=self._until(instance, at))
            if waiting is not None:
                heappush(due, (waiting.due, waiting.order, waiting.request, instance))

    def _until(self, instance: Instance, at: float) -> int | None:
        """When its turn is over, it serves only what it promised."""
        return None if instance.is_in_turn(at) else instance.promised_until

    def _must_leave(self, instance: Instance, at: float) -> bool:
        """Promises don't hold it for longer than open requests would: else the wait of others had no bound."""
        turn_ends_at = instance.turn_ends_at
        if turn_ends_at is None and not instance.unload_wanted:
            return False
        if turn_ends_at is not None and at >= turn_ends_at + self._policy.drain_timeout_s:
            return True
        if instance.has_promises:
            return False
        if instance.unload_wanted:
            return True
        if turn_ends_at is None or at < residency_end(instance, self._policy):
            return False
        return not (instance.is_busy and instance.is_in_turn(at))

    def _may_stay(self, instance: Instance, need: Need | None, at: float) -> bool:
        """Somebody else who has to make room for the same model is still in use."""
        if need is None or need.beneficiary is None or not instance.is_in_turn(at):
            return False
        return any(
            other.beneficiary is need.beneficiary and self._state.live[id_].leases
            for id_, other in self._plan.needs.items()
            if id_ != instance.id
        )

    def _drain(self, instance: Instance, deadline: float, at: float) -> None:
        if instance.leases and at < deadline:
            self._acts.cancel_timer(instance, TimerKind.PATIENCE)
            self._acts.set_timer(instance, TimerKind.DRAIN, deadline)
            return
        self._acts.cut_leases(instance)
        self._acts.stop(instance)

    def _watch_turn(self, instance: Instance, at: float) -> None:
        """The next moment at which time alone makes it leave: its residency, its turn, or its promises end."""
        if instance.turn_ends_at is None:
            self._acts.cancel_timer(instance, TimerKind.PATIENCE)
            return
        ends_at = instance.turn_ends_at
        promises_end = ends_at + self._policy.drain_timeout_s
        moments = (residency_end(instance, self._policy), ends_at, promises_end)
        self._acts.set_timer(instance, TimerKind.PATIENCE, min(moment for moment in moments if moment > at))

    def _watch_idleness(self, instance: Instance, at: float) -> None:
        """The ladder down: it is parked, then stopped, each after its own time without use.

        Lazy: a pending timer stays as it is when the instance is used, and looks again when it fires."""
        model, used_at = instance.model, instance.last_used_at
        park_s, stop_s = instance.park_after_s, instance.idle_timeout_s
        if instance.is_busy or model.load_wish is not None:
            return
        if stop_s is not None and at >= used_at + stop_s:
            self._acts.note(model.name, Action.LEFT, f"nobody has used it for {stop_s:g}s")
            self._acts.stop(instance)
        elif park_s is not None and at >= used_at + park_s and instance.is_serving:
            self._acts.note(model.name, Action.PARKED, f"nobody has used it for {park_s:g}s")
            self._acts.park(instance)
        elif TimerKind.IDLE not in instance.timers:
            moments = [used_at + step_s for step_s in (park_s, stop_s) if step_s is not None and at < used_at + step_s]
            if moments:
                self._acts.set_timer(instance, TimerKind.IDLE, min(moments))

    def _note_hot(self, plan: Plan) -> None:
        """Hot: whoever is granted or closed there, nobody else's fate depends on it, and nothing of its own waits.
        While all places are taken, everybody's fate depends on each close."""
        state = self._state
        if state.shutting_down or (state.waiting and not state.has_place):
            state.hot = {}
            return
        devices, seats = contested(plan)
        state.hot = {
            instance.model.name: instance
            for instance in state.live.values()
            if instance.is_undisputed
            and devices.isdisjoint(instance.reserved)
            and seats.isdisjoint(instance.seats)
            and instance.model.instance is instance
        }

    def _note_leaving(self, instance: Instance, need: Need | None, at: float) -> None:
        name = instance.model.name
        if instance.unload_wanted:
            why = "its configuration changed" if instance.is_outdated else "someone unloads it"
            self._acts.note(name, Action.LEFT, why)
        elif need is not None and need.beneficiary is instance.model:
            self._acts.note(name, Action.LEFT, "it can't be woken where it was parked, and starts elsewhere")
        elif need is None or need.beneficiary is None:
            self._acts.note(name, Action.LEFT, "those that are loaded don't fit together any more")
        elif instance.is_busy:
            waits_s = at - need.since
            reason = f"{need.beneficiary.name} has waited for {waits_s:.0f}s and needs its room"
            self._acts.note(name, Action.TURN_ENDED, reason)
        else:
            idle_s = at - instance.last_used_at
            reason = f"{need.beneficiary.name} needs its room, and it was idle for {idle_s:.0f}s: the cheapest to leave"
            self._acts.note(name, Action.EVICTED, reason)

    def _note_waits(self, plan: Plan) -> None:
        """Once for each obstacle, not for each event."""
        for model in plan.order:
            choice = plan.choices.get(model.name)
            obstacle = None if choice is None else tuple(victim.id for victim in choice.victims)
            if model.obstacle != (obstacle,) and model.needs_start:
                model.obstacle = (obstacle,)
                self._acts.note(model.name, Action.WAITS, explain(model, plan, self._state)[1])
