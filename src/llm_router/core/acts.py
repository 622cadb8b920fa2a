"""The scheduler's vocabulary: each act changes the state and says so in a command, so that the two never differ.

Counterparts: `intake`, `refusing`, `granting`, `tending` and `settling`, which decide when. Nothing is decided here.
"""

from __future__ import annotations

from llm_router.core.commands import (
    CancelTimer,
    CheckInstance,
    Command,
    CutRequest,
    GrantRequest,
    ParkInstance,
    Refusal,
    RejectRequest,
    SetTimer,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from llm_router.core.decisions import Action, Decisions
from llm_router.core.device import Reserved
from llm_router.core.events import TimerKey, TimerKind
from llm_router.core.instance import Instance, Lifecycle
from llm_router.core.model import ModelState
from llm_router.core.state import State


class Acts:
    """`commands`: what was said in answer to the event at hand, in order. `decisions`: the last ones, for people."""

    def __init__(self, state: State) -> None:
        self.commands: list[Command] = []
        self.decisions = Decisions()
        self._state = state
        self._at = 0.0

    def begin(self, at: float) -> list[Command]:
        """An event comes, at this time; what is said about it goes into a new list."""
        self._at = at
        self.commands = []
        return self.commands

    def note(self, model: str, action: Action, reason: str) -> None:
        self.decisions.note(self._at, model, action, reason)

    def grant(self, instance: Instance, request: int) -> None:
        if not instance.leases:
            self._state.changes += 1
        self._state.open_lease(instance, request, self._at)
        self.commands.append(GrantRequest(request=request, instance=instance.id))

    def start(self, model: ModelState, placement: Reserved) -> None:
        self.note(model.name, Action.STARTED, self._where(placement))
        had_company = any(self._state.tenants(name) for name in placement)
        instance = self._state.new_instance(model, placement, self._at)
        instance.had_company = had_company
        start = StartInstance(
            instance=instance.id, model=model.name, devices=tuple(placement), reserved_mib=_known_mib(placement)
        )
        self.commands.append(start)

    def wake(self, instance: Instance, placement: Reserved) -> None:
        """Where it is, with the room of a start: what it held while it was parked is a part of that."""
        model = instance.model
        self.note(model.name, Action.WOKEN, self._where(placement, but=instance))
        self.cancel_timers(instance)
        instance.had_company = any(one is not instance for name in placement for one in self._state.tenants(name))
        instance.lifecycle, instance.is_waking = Lifecycle.STARTING, True
        instance.since, instance.ready_at = self._at, None
        instance.reserved, instance.measured_mib = placement, {}
        self._state.moved(model)
        wake = WakeInstance(
            instance=instance.id, model=model.name, devices=tuple(placement), reserved_mib=_known_mib(placement)
        )
        self.commands.append(wake)

    def park(self, instance: Instance) -> None:
        self.cancel_timers(instance)
        instance.lifecycle = Lifecycle.PARKING
        self._state.moved(instance.model)
        self.commands.append(ParkInstance(instance=instance.id))

    def _where(self, placement: Reserved, *, but: Instance | None = None) -> str:
        if not placement:
            return "beside everything else"
        parts = [f"{name} ({'all of it' if need is None else f'{need} MiB'})" for name, need in placement.items()]
        beside = {one.model.name for name in placement for one in self._state.tenants(name) if one is not but}
        return f"on {' and '.join(parts)}" + (f", beside {' and '.join(sorted(beside))}" if beside else "")

    def stop(self, instance: Instance) -> None:
        self.cancel_timers(instance)
        instance.lifecycle = Lifecycle.STOPPING
        self._state.moved(instance.model)
        instance.drain_until = instance.turn_ends_at = None
        self.commands.append(StopInstance(instance=instance.id))

    def reject(self, request: int, refusal: Refusal, detail: str, retry_after_s: float | None = None) -> None:
        rejection = RejectRequest(request=request, refusal=refusal, detail=detail, retry_after_s=retry_after_s)
        self.commands.append(rejection)

    def reject_waiting(
        self, model: ModelState, request: int, refusal: Refusal, detail: str, retry_after_s: float | None = None
    ) -> None:
        self._state.dequeue(model, request)
        self.note(model.name, Action.REFUSED, detail)
        self.reject(request, refusal, detail, retry_after_s)

    def reject_at_shutdown(self, request: int) -> None:
        self.reject(request, Refusal.SHUTTING_DOWN, "cannot serve the request: the router is shutting down")

    def set_timer(self, instance: Instance, kind: TimerKind, at: float) -> None:
        if instance.timers.get(kind) != at:
            instance.timers[kind] = at
            self.commands.append(SetTimer(timer=TimerKey(kind, instance.id), at=at))

    def cancel_timer(self, instance: Instance, kind: TimerKind) -> None:
        if instance.timers.pop(kind, None) is not None:
            self.commands.append(CancelTimer(timer=TimerKey(kind, instance.id)))

    def cancel_timers(self, instance: Instance) -> None:
        for kind in list(instance.timers):
            self.cancel_timer(instance, kind)

    def set_room_timer(self, at: float | None) -> None:
        timer = TimerKey(TimerKind.ROOM, 0)
        if at is None and self._state.room_timer is not None:
            self.commands.append(CancelTimer(timer=timer))
        elif at is not None and at != self._state.room_timer:
            self.commands.append(SetTimer(timer=timer, at=at))
        self._state.room_timer = at

    def check(self, instance: Instance) -> None:
        """It is suspect from now on; asked once, until it answers."""
        if not instance.is_suspect:
            instance.is_suspect = True
            self.commands.append(CheckInstance(instance=instance.id))

    def cut_leases(self, instance: Instance) -> None:
        if not instance.leases:
            return
        name = instance.model.name
        detail = (
            f"cannot finish the request: {name} had to leave, and the time for open requests is over; send it again"
        )
        self.note(name, Action.CUT, f"the drain time-out passed with {len(instance.leases)} open requests")
        for request in instance.leases:
            self.commands.append(CutRequest(request=request, refusal=Refusal.PREEMPTED, detail=detail))


def _known_mib(placement: Reserved) -> dict[str, int]:
    return {name: need for name, need in placement.items() if need is not None}
