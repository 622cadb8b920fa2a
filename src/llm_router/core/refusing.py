"""Who waits in vain is told so: everybody during a shutdown, and models for which no room can be made.

Counterparts: `placement`, which knows why there can be no room; `settling`, which asks this first.
"""

from __future__ import annotations

from llm_router.core.acts import Acts
from llm_router.core.commands import Refusal
from llm_router.core.model import ModelState
from llm_router.core.placement import prospects_of
from llm_router.core.specs import PolicySpec
from llm_router.core.state import State


class Refusing:
    """`_short`: the models of which `short_since` is set."""

    def __init__(self, state: State, policy: PolicySpec, acts: Acts) -> None:
        self._state = state
        self._policy = policy
        self._acts = acts
        self._short: list[ModelState] = []

    def use(self, policy: PolicySpec) -> None:
        """These numbers hold from now on."""
        self._policy = policy

    def refuse_hopeless(self, at: float) -> None:
        """Everybody during a shutdown; else those in need for whom there can be no room, or wasn't for too long."""
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
        """Who isn't in need any more isn't short of memory either. The timer is for who is refused next."""
        for model in self._short:
            if not model.needs_start:
                model.short_since = None
        self._short = [model for model in self._short if model.short_since is not None]
        since = [model.short_since for model in self._short if model.short_since is not None]
        self._acts.set_room_timer(min(since) + self._policy.room_timeout_s if since else None)
