"""Counts loads, wakes, stops and how long their parts take, as the scheduler orders them and the runtime reports them.

Counterparts: `tally`, which counts requests; `api.metrics`, which shows it; `traces`, which is told of each by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from llm_router.core.commands import Command, StartInstance, StopInstance, WakeInstance
from llm_router.core.decisions import Action, Decision
from llm_router.core.events import Event, InstanceAdopted, InstanceGone, InstanceParked, InstanceReady
from llm_router.runtime.tally import Histogram

PHASES_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)


class Phase(Enum):
    """Of a switch. DRAIN: the model that leaves finishes its open requests. STOP: its server gives the memory back.
    ROOM: the next one waits until that memory is really free. LOAD: its server starts and loads. WAKE: it was parked,
    and takes its memory again."""

    DRAIN = "drain"
    STOP = "stop"
    ROOM = "room"
    LOAD = "load"
    WAKE = "wake"


class Loaded(Enum):
    """How the start of an instance, or waking it, ended. CANCELLED: it was told to leave before it was ready."""

    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """A part of a switch that is over: a model was loaded, woken or stopped, as its last phase says, or was to be.

    `phases`: each with its begin and end, in monotonic seconds. `outcome` None: a stop has only one. `reason`: why it
    was to leave, where somebody decided that. `error`: of what failed.
    """

    model: str
    instance: int
    phases: tuple[tuple[Phase, float, float], ...]
    outcome: Loaded | None = None
    reason: str | None = None
    error: str | None = None


_EVICTIONS = (Action.EVICTED, Action.TURN_ENDED)
_DEPARTURES = (*_EVICTIONS, Action.LEFT)


class Switches:
    """`loads`, `wakes`: by model and outcome. `parks`: by model, those that worked. `evictions`: by model, to make room
    for another. `crashes`: by model, of instances that were ready. `phases`: how long each took.

    `now`: monotonic seconds. `decisions`: of the scheduler about a model. `room_s`: how long an instance has waited for
    memory. `tell`: hears of each part of a switch when it is over; None: nobody does.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        decisions: Callable[[str], Sequence[Decision]],
        room_s: Callable[[int], float],
    ) -> None:
        self.tell: Callable[[Switched], None] | None = None
        self._now = now
        self._decisions = decisions
        self._room_s = room_s
        self.loads: Counter[tuple[str, Loaded]] = Counter()
        self.wakes: Counter[tuple[str, Loaded]] = Counter()
        self.parks: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self.crashes: Counter[str] = Counter()
        self.phases = {phase: Histogram(PHASES_S) for phase in Phase}
        self._models: dict[int, tuple[str, float]] = {}  # of the instances that there are, and since when
        self._starting: set[int] = set()
        self._waking: dict[int, float] = {}
        self._stopping: dict[int, tuple[float, Decision | None]] = {}  # since when, and why it was to leave

    def commanded(self, command: Command) -> None:
        match command:
            case StartInstance(instance=instance, model=model):
                self._models[instance] = model, self._now()
                self._starting.add(instance)
            case WakeInstance(instance=instance):
                self._waking[instance] = self._now()
            case StopInstance(instance=instance) if instance in self._models and instance not in self._stopping:
                self._stopping[instance] = self._now(), self._note_departure(instance)

    def reported(self, event: Event) -> None:
        match event:
            case InstanceAdopted(instance=instance, model=model):
                self._models[instance] = model, self._now()
            case InstanceReady(instance=instance) if instance in self._starting:
                self._starting.discard(instance)
                model, since = self._models[instance]
                room_s = self._room_s(instance)
                self.loads[model, Loaded.READY] += 1
                room = Phase.ROOM, since, since + room_s
                load = Phase.LOAD, since + room_s, self._now()
                self._observe(room, load)
                self._told(Switched(model=model, instance=instance, phases=(room, load), outcome=Loaded.READY))
            case InstanceReady(instance=instance) if instance in self._waking:
                model, wake = self._models[instance][0], (Phase.WAKE, self._waking.pop(instance), self._now())
                self.wakes[model, Loaded.READY] += 1
                self._observe(wake)
                self._told(Switched(model=model, instance=instance, phases=(wake,), outcome=Loaded.READY))
            case InstanceParked(instance=instance) if instance in self._models:
                self.parks[self._models[instance][0]] += 1
            case InstanceGone(instance=instance) if instance in self._models:
                self._note_end(event)

    def _note_departure(self, instance: int) -> Decision | None:
        """Why and since when it was to leave is in the last decision about it; none since its start: nobody decided."""
        model, since = self._models[instance]
        last = next((one for one in reversed(self._decisions(model)) if one.action in _DEPARTURES), None)
        if last is None or last.at < since:
            return None
        if last.action in _EVICTIONS:
            self.evictions[model] += 1
        self._observe((Phase.DRAIN, last.at, self._now()))
        return last

    def _note_end(self, event: InstanceGone) -> None:
        instance, now = event.instance, self._now()
        model, since = self._models.pop(instance)
        stopping = self._stopping.pop(instance, None)
        outcome = Loaded.CANCELLED if event.error is None else Loaded.FAILED
        begun: tuple[Phase, float, float] | None = None
        if instance in self._starting:
            self._starting.discard(instance)
            self.loads[model, outcome] += 1
            begun = Phase.LOAD, since, now
        elif (waking_since := self._waking.pop(instance, None)) is not None:
            self.wakes[model, outcome] += 1
            begun = Phase.WAKE, waking_since, now
        elif event.error is not None:
            self.crashes[model] += 1
        if begun is not None:
            self._told(Switched(model=model, instance=instance, phases=(begun,), outcome=outcome, error=event.error))
        if stopping is not None:
            stopping_since, why = stopping
            stop = Phase.STOP, stopping_since, now
            drain = () if why is None else ((Phase.DRAIN, why.at, stopping_since),)
            self._observe(stop)
            reason = None if why is None else why.reason
            self._told(Switched(model=model, instance=instance, phases=(*drain, stop), reason=reason))

    def _observe(self, *phases: tuple[Phase, float, float]) -> None:
        for phase, since, until in phases:
            self.phases[phase].observe(until - since)

    def _told(self, what: Switched) -> None:
        if self.tell is not None:
            self.tell(what)
