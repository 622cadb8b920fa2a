"""Each instance that is there: its turn, and when it drains, serves again after all, or stops.

Counterparts: `planning`, which says whose room is needed; `granting`, which serves meanwhile; `settling`, which asks
for it last.
"""

from __future__ import annotations

from llm_router.core.acts import Acts
from llm_router.core.decisions import Action
from llm_router.core.events import TimerKind
from llm_router.core.eviction import residency_end
from llm_router.core.granting import Granting
from llm_router.core.instance import Instance, Lifecycle
from llm_router.core.planning import Need, Plan
from llm_router.core.policy import turn_end
from llm_router.core.specs import PolicySpec
from llm_router.core.state import State


class Tending:
    def __init__(self, state: State, policy: PolicySpec, acts: Acts) -> None:
        self._state = state
        self._policy = policy
        self._acts = acts
        self._granting = Granting(state, acts)

    def use(self, policy: PolicySpec) -> None:
        """These numbers hold from now on."""
        self._policy = policy

    def tend_all(self, plan: Plan, at: float) -> None:
        """Turns first, then grants, then leaving: a place that one instance gives up may be another's."""
        live = list(self._state.live.values())
        for instance in live:
            if instance.model.uses:
                instance.model.update_rate(at)
            if instance.lifecycle is Lifecycle.READY:
                self._note_turn(instance, plan.needs.get(instance.id))
        self._granting.grant_waiting(at)
        for instance in live:
            if instance.lifecycle is Lifecycle.READY:
                self._tend(instance, plan, at)
            elif instance.lifecycle is Lifecycle.STARTING:
                if instance.is_outdated or (instance.unload_wanted and not instance.model.queue):
                    self._acts.stop(instance)
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

    def _tend(self, instance: Instance, plan: Plan, at: float) -> None:
        """One ready instance.

        1. Its promises are kept, and it is to be unloaded, or its room is needed and it is idle or has had its turn:
           it drains. But as long as its leaving alone would help nobody, it has its turn even if it is idle.
        2. Draining: stop when the last lease is closed, or cut the rest at the deadline.
        3. Idle for too long: park it, or stop.
        """
        is_leaving = instance.drain_until is not None
        if not is_leaving and self._must_leave(instance, at) and not self._may_stay(instance, plan, at):  # 1
            self._begin_drain(instance, plan.needs.get(instance.id), at)
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

    def _may_stay(self, instance: Instance, plan: Plan, at: float) -> bool:
        """Somebody else who has to make room for the same model is still in use."""
        need = plan.needs.get(instance.id)
        if need is None or need.beneficiary is None or not instance.is_in_turn(at):
            return False
        return any(
            other.beneficiary is need.beneficiary and self._state.live[id_].leases
            for id_, other in plan.needs.items()
            if id_ != instance.id
        )

    def _begin_drain(self, instance: Instance, need: Need | None, at: float) -> None:
        """`need`: somebody needs its room; None: nobody does."""
        instance.drain_until = at + self._policy.drain_timeout_s
        self._state.changes += 1
        if need is not None and need.beneficiary is not None:
            self._state.evicted[instance.model.name] = need.beneficiary
        self._note_leaving(instance, need, at)

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
        if (park_s is None and stop_s is None) or instance.is_busy or model.load_wish is not None:
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
