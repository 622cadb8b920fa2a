"""Plays a trace on a virtual clock: what a scheduler commands takes place when it is due, and is reported to it.

Counterparts: `trace` says who asks for what, `rivals` and the real core decide. Nothing is decided here and nothing
waits: the same trace, rule and faults always give the same outcome.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from llm_router.core.commands import (
    CancelTimer,
    CheckInstance,
    Command,
    CutRequest,
    GrantRequest,
    ParkInstance,
    RejectRequest,
    SetTimer,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from llm_router.core.events import (
    Event,
    InstanceGone,
    InstanceReady,
    RequestArrived,
    RequestClosed,
    TimerFired,
    TimerKey,
)
from llm_router.simulation.faults import Faults
from llm_router.simulation.loading import Loading
from llm_router.simulation.outcome import Fate, Outcome, Stay
from llm_router.simulation.trace import Call, Trace

# How often progress is told, in events; telling it costs more than an event does.
_TELL_EVERY = 20_000


class Rule(Protocol):
    """Whatever decides: the real `core.Scheduler`, or a rival."""

    def handle(self, event: Event, /) -> Sequence[Command]: ...


class _Leaves(NamedTuple):
    request: int


# When, a number of its own, so that what is due at the same time keeps its order, and what.
_Due = tuple[float, int, Event | _Leaves]


class Simulation:
    """One rule on one trace, once."""

    def __init__(self, trace: Trace, rule: Rule, faults: Faults | None = None) -> None:
        self._trace = trace
        self._rule = rule
        self._faults = faults or Faults()
        count = len(trace.calls)
        self._outcome = Outcome(
            arrived_at=array("d", [-1.0]) * count,
            granted_at=array("d", [-1.0]) * count,
            ended_at=array("d", [-1.0]) * count,
            fates=bytearray(count),
        )
        self._service_s = array("d", (self._service_of(call) for call in trace.calls))
        self._next_of_client = _next_of_client(trace.calls)
        self._due: list[_Due] = []
        self._number = 0
        self._now = 0.0
        # The number of the entry that still counts; an entry with another number was replaced or taken back.
        self._end_entry = array("q", [0]) * count
        self._timer_entry: dict[TimerKey, int] = {}
        self._answer_entry: dict[int, int] = {}
        self._stays: dict[int, Stay] = {}
        self._loads: dict[str, int] = {}
        self._loading = Loading()
        self._failing: set[int] = set()

    def _service_of(self, call: Call) -> float:
        return self._trace.models[call.model].service_s(call.prompt_tokens, call.output_tokens)

    def run(self, tell: Callable[[float], object] | None = None) -> Outcome:
        """Until nothing more is due. `tell`: called now and then with the share of the requests that have ended."""
        firsts = self._firsts()
        due, handle, outcome = self._due, self._rule.handle, self._outcome
        while due or firsts:
            is_first = firsts and not (due and due[0] < firsts[-1])
            at, number, entry = firsts.pop() if is_first else heapq.heappop(due)
            self._now = at
            event = self._happening(entry, number)
            if event is None:
                continue
            outcome.events += 1
            outcome.end = at
            for command in handle(event):
                if isinstance(command, GrantRequest):
                    self._grant(command.request)
                else:
                    self._obey(command)
            if tell is not None and outcome.events % _TELL_EVERY == 0:
                tell(1 - sum(outcome.fates.count(fate) for fate in (0, 1, 2)) / max(1, len(outcome.fates)))
        return outcome

    def _push(self, at: float, event: Event | _Leaves) -> int:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, event))
        return self._number

    def _happening(self, entry: Event | _Leaves, number: int) -> Event | None:
        """What really happens now, noted; None: nothing, it was replaced or taken back."""
        if isinstance(entry, RequestClosed):
            if self._end_entry[entry.request] != number:
                return None
            self._close(entry.request)
            return entry
        if isinstance(entry, RequestArrived):
            self._arrive(entry.request)
            return entry
        return self._happening_rarely(entry, number)

    def _happening_rarely(self, entry: Event | _Leaves, number: int) -> Event | None:
        match entry:
            case _Leaves(request=request):
                return self._leave(request)
            case TimerFired(timer=timer):
                if self._timer_entry.get(timer) != number:
                    return None
                del self._timer_entry[timer]
                return entry
            case InstanceReady(instance=instance) | InstanceGone(instance=instance):
                if self._answer_entry.get(instance) != number:
                    return None
                self._note_answer(entry)
                return entry
            case _:
                raise AssertionError(f"the engine never plans a {type(entry).__name__}")

    def _note_answer(self, answer: InstanceReady | InstanceGone) -> None:
        stay = self._stays[answer.instance]
        if isinstance(answer, InstanceGone):
            stay.gone_at = self._now
        elif stay.ready_at is None:
            stay.ready_at = self._now
        self._end_load(answer.instance)

    # What clients do.

    def _firsts(self) -> list[_Due]:
        """The requests that depend on no other one, the next one last. They are kept apart from what is due: to take
        one of a few is much cheaper than one of a million."""
        calls, firsts = self._trace.calls, list[_Due]()
        for request in _first_of_clients(calls):
            self._number += 1
            firsts.append((calls[request].at, self._number, self._arrival(request, calls[request].at)))
        firsts.sort(reverse=True)
        return firsts

    def _arrival(self, request: int, at: float) -> RequestArrived:
        call = self._trace.calls[request]
        return RequestArrived(at, request, call.model, call.request_class)

    def _arrive(self, request: int) -> None:
        self._outcome.arrived_at[request] = self._now
        self._outcome.fates[request] = Fate.WAITING
        leaves_after_s = self._faults.leaves_after_s(request)
        if leaves_after_s is not None:
            self._push(self._now + leaves_after_s, _Leaves(request))

    def _leave(self, request: int) -> RequestClosed | None:
        if self._outcome.fates[request] not in {Fate.WAITING, Fate.RUNNING}:
            return None
        self._outcome.fates[request] = Fate.LEFT
        self._end_entry[request] = 0
        self._close(request)
        return RequestClosed(self._now, request)

    def _close(self, request: int) -> None:
        outcome = self._outcome
        if outcome.fates[request] == Fate.RUNNING:
            outcome.fates[request] = Fate.SERVED
        outcome.ended_at[request] = self._now
        following = self._next_of_client[request]
        if following >= 0:
            call = self._trace.calls[following]
            at = max(call.at, self._now + call.think_s)
            self._push(at, self._arrival(following, at))

    # What the rule commands.

    def _grant(self, request: int) -> None:
        now, outcome = self._now, self._outcome
        outcome.granted_at[request] = now
        outcome.fates[request] = Fate.RUNNING
        at = now + self._service_s[request]
        self._end_entry[request] = self._push(at, RequestClosed(at, request))

    def _obey(self, command: Command) -> None:
        match command:
            case RejectRequest(request=request):
                self._outcome.fates[request] = Fate.REFUSED
                self._close(request)
            case CutRequest(request=request):
                if self._outcome.fates[request] == Fate.RUNNING:
                    self._outcome.fates[request] = Fate.CUT
                    self._end_entry[request] = self._push(self._now, RequestClosed(self._now, request))
            case StartInstance():
                self._start(command)
            case StopInstance(instance=instance):
                self._stop(instance)
            case CheckInstance(instance=instance):
                self._answer_entry[instance] = self._push(self._now, InstanceReady(at=self._now, instance=instance))
            case SetTimer(timer=timer, at=at):
                due_at = max(at, self._now)
                self._timer_entry[timer] = self._push(due_at, TimerFired(at=due_at, timer=timer))
            case CancelTimer(timer=timer):
                self._timer_entry.pop(timer, None)
            case ParkInstance() | WakeInstance():
                raise AssertionError("no model of a trace is parked")
            case GrantRequest():
                raise AssertionError("grants are obeyed where they are most frequent: in `run`")

    def _start(self, command: StartInstance) -> None:
        name, instance = command.model, command.instance
        stay = Stay(name, command.devices or tuple(self._trace.devices), self._now)
        self._stays[instance] = stay
        self._outcome.stays.append(stay)
        self._loads[name] = self._loads.get(name, 0) + 1
        if self._faults.fails_load(name, self._loads[name]):
            self._failing.add(instance)
        self._loading.begin(instance, command.devices, self._trace.models[name].load_s, self._now)
        self._plan_loads()

    def _stop(self, instance: int) -> None:
        stay = self._stays[instance]
        if stay.stopping_at is None:
            stay.stopping_at = self._now
            at = self._now + self._trace.models[stay.model].stop_s
            self._answer_entry[instance] = self._push(at, InstanceGone(at=at, instance=instance))
            self._end_load(instance)

    def _end_load(self, instance: int) -> None:
        if self._loading.end(instance):
            self._plan_loads()

    def _plan_loads(self) -> None:
        for instance, at in self._loading.changed(self._now):
            answer: Event = InstanceReady(at=at, instance=instance)
            if instance in self._failing:
                answer = InstanceGone(at=at, instance=instance, error="this load fails, by chance")
            self._answer_entry[instance] = self._push(at, answer)


def _next_of_client(calls: Sequence[Call]) -> array[int]:
    """By request: the next one of the same client, or -1."""
    following, last = array("q", [-1]) * len(calls), dict[str, int]()
    for index, call in enumerate(calls):
        if call.client is not None:
            if call.client in last:
                following[last[call.client]] = index
            last[call.client] = index
    return following


def _first_of_clients(calls: Sequence[Call]) -> list[int]:
    seen = set[str]()
    first = []
    for index, call in enumerate(calls):
        if call.client is None or call.client not in seen:
            first.append(index)
        if call.client is not None:
            seen.add(call.client)
    return first
