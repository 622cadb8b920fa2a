"""What follows: the one decision tree, gone through after every event, whatever it was.

Counterparts: `intake` notes the event before; `planning` says who comes next; `refusing` and `tending` are parts of the
tree. It never asks what just happened: the state and the time alone decide, so no order of events can lead around a
rule.
"""

from __future__ import annotations

from llm_router.core.acts import Acts
from llm_router.core.decisions import Action
from llm_router.core.device import Reserved
from llm_router.core.model import ModelState
from llm_router.core.planning import Plan, contested, extend, plan_switches
from llm_router.core.reasons import explain
from llm_router.core.refusing import Refusing
from llm_router.core.specs import PolicySpec
from llm_router.core.state import State
from llm_router.core.tending import Tending


class Settling:
    def __init__(self, state: State, policy: PolicySpec, acts: Acts) -> None:
        self._state = state
        self._policy = policy
        self._acts = acts
        self._refusing = Refusing(state, policy, acts)
        self._tending = Tending(state, policy, acts)
        self._plan = Plan()
        self._planned_changes, self._planned_arrivals = state.changes, state.arrivals

    def use(self, policy: PolicySpec) -> None:
        """These numbers hold from now on."""
        self._policy = policy
        self._refusing.use(policy)
        self._tending.use(policy)

    def settle(self, at: float) -> None:
        """The one decision tree, after every event.

        1. Refuse who waits in vain: everybody during a shutdown, and models for which no room can be made.
        2. Start what takes no room.
        3. Start whoever comes next on a device and has room there.
        4. Tend each instance: grant, drain, stop. That frees no room at once, so there is nothing to start after it.
        5. Note which instances are hot.

        As long as nothing changes that a plan depends on (see `State.changes`), the last one holds, and 1 to 3 would
        come to the same: most events in a crowd are one more request, or one less of many. A model that has come to
        wait behind all others is only added to it.
        """
        is_new = not self.holds()
        if is_new:
            self._refusing.refuse_hopeless(at)  # 1
            self._start_beside()  # 2
            self._start_next(at)  # 3
        self._tending.tend_all(self._plan, at)  # 4
        if is_new or not self.holds() or self._policy.concurrency is not None:
            self._note_hot(self._plan)  # 5
            self._note_waits(self._plan)

    def holds(self) -> bool:
        """Whether nothing has changed that a plan depends on."""
        state = self._state
        return self._planned_changes == state.changes and self._planned_arrivals == state.arrivals

    def _start_next(self, at: float) -> None:
        state = self._state
        self._forget_evictions()
        has_only_more = self._planned_changes == state.changes
        if not (has_only_more and extend(self._plan, state, self._policy, at)):
            self._plan = plan_switches(state, self._policy, at)
        while self._plan.starts:
            for model in self._plan.starts:
                self._bring_up(model, self._plan.choices[model.name].placement)
            self._forget_evictions()
            self._plan = plan_switches(state, self._policy, at)
        self._planned_changes, self._planned_arrivals = state.changes, state.arrivals

    def _bring_up(self, model: ModelState, placement: Reserved) -> None:
        if model.sleeper is None:
            self._acts.start(model, placement)
        else:
            self._acts.wake(model.sleeper, placement)

    def _start_beside(self) -> None:
        for model in self._state.in_need():
            if not model.competes and (model.instance is None or model.sleeper is not None):
                self._bring_up(model, {})

    def _forget_evictions(self) -> None:
        """Whoever it was for has used the room, or doesn't want it any more."""
        evicted = self._state.evicted
        for name in [name for name, beneficiary in evicted.items() if not beneficiary.needs_start]:
            del evicted[name]

    def _note_hot(self, plan: Plan) -> None:
        """Hot: whoever is granted or closed there, nobody else's fate depends on it, and nothing of its own waits.
        While all places are taken, everybody's fate depends on each close."""
        state = self._state
        if state.shutting_down or (state.waiting and not state.has_place):
            state.hot = {}
            return
        undisputed = [one for one in state.live.values() if one.is_undisputed and one.model.instance is one]
        devices, seats = contested(plan) if undisputed else (set(), set())
        state.hot = {
            instance.model.name: instance
            for instance in undisputed
            if devices.isdisjoint(instance.reserved) and seats.isdisjoint(instance.seats)
        }

    def _note_waits(self, plan: Plan) -> None:
        """Once for each obstacle, not for each event."""
        for model in plan.order:
            choice = plan.choices.get(model.name)
            obstacle = None if choice is None else tuple(victim.id for victim in choice.victims)
            if model.obstacle != (obstacle,) and model.needs_start:
                model.obstacle = (obstacle,)
                self._acts.note(model.name, Action.WAITS, explain(model, plan, self._state)[1])
