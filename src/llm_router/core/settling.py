"""What follows: the one decision tree, gone through after every event, whatever it was.

Counterparts: `intake` notes the event before, `policy` and `placement` answer the questions on the way. It never asks
what just happened: the state and the time alone decide, so no order of events can lead around a rule.
"""

from __future__ import annotations

from llm_router.core.acts import Acts
from llm_router.core.commands import Refusal
from llm_router.core.events import TimerKind
from llm_router.core.placement import fits, why_never
from llm_router.core.policy import Plan, plan_switch, turn_end
from llm_router.core.specs import PolicySpec
from llm_router.core.state import Instance, Lifecycle, State


class Settling:
    def __init__(self, state: State, policy: PolicySpec, acts: Acts) -> None:
        self._state = state
        self._policy = policy
        self._acts = acts

    def settle(self, at: float) -> None:
        """The one decision tree, after every event.

        1. Refuse who waits in vain: everybody during a shutdown, and models for which no room can be made.
        2. Start what takes no room.
        3. Start the next model if its room is free.
        4. Tend each instance: grant, drain, stop. That frees no room at once, so there is nothing to start after it.
        5. Note which instances are hot.
        """
        self._refuse_hopeless()  # 1
        self._start_beside(at)  # 2
        plan = plan_switch(self._state, self._policy)
        if self._start_next(plan, at):  # 3
            plan = plan_switch(self._state, self._policy)
        if plan.target is None:
            self._state.evicted.clear()
        self._tend_all(plan, at)  # 4
        self._note_hot()  # 5

    def _refuse_hopeless(self) -> None:
        state = self._state
        if state.shutting_down:
            for model in state.models.values():
                model.load_wish = None
            for request, model in list(state.waiting.items()):
                state.dequeue(model, request)
                self._acts.reject_at_shutdown(request)
        for model in [model for model in state.in_need() if model.competes]:
            detail = why_never(model, state.live.values(), self._policy.budget_mib)
            if detail is not None:
                model.load_wish = None
                for request in list(model.queue):
                    self._acts.reject_waiting(model, request, Refusal.NO_ROOM, detail)

    def _start_beside(self, at: float) -> None:
        for model in self._state.in_need():
            if not model.competes and model.instance is None:
                self._acts.start(model, at)

    def _start_next(self, plan: Plan, at: float) -> bool:
        """One start at a time on the device: two loads would slow each other down and measure each other's memory."""
        target = plan.target
        if target is None or target.instance is not None or self._state.switch_in_progress() is not None:
            return False
        footprints = [instance.model.spec.footprint_mib for instance in self._state.live.values()]
        if not fits([target.spec.footprint_mib, *footprints], self._policy.budget_mib):
            return False
        self._acts.start(target, at)
        self._state.evicted.clear()
        return True

    def _tend_all(self, plan: Plan, at: float) -> None:
        for instance in list(self._state.live.values()):
            if instance.is_starting:
                if instance.unload_wanted and not instance.model.queue:
                    self._acts.stop(instance)
            elif instance.lifecycle is Lifecycle.READY:
                self._tend(instance, plan.victims.get(instance.id), at)

    def _tend(self, instance: Instance, needed_since: float | None, at: float) -> None:
        """One ready instance. `needed_since`: since when the next model has needed its room; None: nobody does.

        1. Draining for nobody any more: it serves again.
        2. Grant what waits; when its turn is over, only what it promised.
        3. Its promises are kept, and it is to be unloaded, or its room is needed and it is idle or has had its turn:
           it drains.
        4. Draining: stop when the last lease is closed, or cut the rest at the deadline.
        5. Idle for too long: stop.
        """
        instance.turn_ends_at = None if needed_since is None else turn_end(instance, needed_since, self._policy)
        if instance.drain_until is not None and needed_since is None and not instance.unload_wanted:  # 1
            instance.drain_until = None
            self._acts.cancel_timer(instance, TimerKind.DRAIN)
            self._state.evicted.discard(instance.model.name)
        if instance.is_serving:  # 2
            self._grant_waiting(instance, at)
        if instance.drain_until is None and self._must_leave(instance, at):  # 3
            instance.drain_until = at + self._policy.drain_timeout_s
            if needed_since is not None:
                self._state.evicted.add(instance.model.name)
        if instance.drain_until is not None:  # 4
            self._drain(instance, instance.drain_until, at)
        else:
            self._watch_turn(instance, at)
            self._watch_idleness(instance, at)  # 5

    def _grant_waiting(self, instance: Instance, at: float) -> None:
        model = instance.model
        model.load_wish = None
        while len(instance.leases) < instance.slots and (instance.has_promises or instance.is_in_turn(at)):
            first = model.first_waiting
            if first is None:
                return
            self._state.dequeue(model, first.request)
            self._acts.grant(instance, first.request, at)

    @staticmethod
    def _must_leave(instance: Instance, at: float) -> bool:
        if instance.has_promises:
            return False
        if instance.unload_wanted:
            return True
        return instance.turn_ends_at is not None and not (instance.is_busy and instance.is_in_turn(at))

    def _drain(self, instance: Instance, deadline: float, at: float) -> None:
        if instance.leases and at < deadline:
            self._acts.cancel_timer(instance, TimerKind.PATIENCE)
            self._acts.set_timer(instance, TimerKind.DRAIN, deadline)
            return
        self._acts.cut_leases(instance)
        self._acts.stop(instance)

    def _watch_turn(self, instance: Instance, at: float) -> None:
        if instance.turn_ends_at is None:
            self._acts.cancel_timer(instance, TimerKind.PATIENCE)
        elif at < instance.turn_ends_at:
            self._acts.set_timer(instance, TimerKind.PATIENCE, instance.turn_ends_at)

    def _watch_idleness(self, instance: Instance, at: float) -> None:
        """Lazy: a pending timer stays as it is when the instance is used, and looks again when it fires."""
        timeout_s = instance.model.spec.idle_timeout_s
        if timeout_s is None or instance.is_busy:
            return
        idle_until = instance.last_used_at + timeout_s
        if at >= idle_until:
            self._acts.stop(instance)
        elif TimerKind.IDLE not in instance.timers:
            self._acts.set_timer(instance, TimerKind.IDLE, idle_until)

    def _note_hot(self) -> None:
        """Hot: whoever is granted or closed there, nobody else's fate depends on it, and nothing of its own waits."""
        state = self._state
        is_calm = not any(model.competes for model in state.in_need())
        state.hot = {
            instance.model.name: instance
            for instance in state.live.values()
            if instance.is_undisputed and (is_calm or not instance.model.competes) and not state.shutting_down
        }
