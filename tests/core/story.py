"""Plays the world around a scheduler on a virtual clock: loads, stops, answers and timers take place when they are due.

Counterpart: `laws.Witness`, which watches every step. For examples and for properties about time.
"""

from __future__ import annotations

import heapq
import itertools

from laws import Witness

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
    TimerKey,
    UnloadRequested,
)
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.core.views import Wait

LOAD_S = 20.0
STOP_S = 2.0
PARK_S = 1.0
WAKE_S = 3.0


def model(
    name: str,
    footprint_mib: int | None = None,
    *,
    idle_timeout_s: float | None = None,
    park_after_s: float | None = None,
    concurrency: int | None = None,
    priority: int = 0,
    pinned: bool = False,
    unusable: str | None = None,
    devices: tuple[str, ...] | None = None,
    seats: frozenset[str] | set[str] = frozenset(),
    companions: frozenset[str] | set[str] = frozenset(),
    is_declared: bool = False,
    launch_key: str = "",
) -> ModelSpec:
    return ModelSpec(
        name=name,
        footprint_mib=footprint_mib,
        idle_timeout_s=idle_timeout_s,
        park_after_s=park_after_s,
        concurrency=concurrency,
        priority=priority,
        pinned=pinned,
        unusable=unusable,
        devices=devices,
        seats=frozenset(seats),
        companions=frozenset(companions),
        is_declared=is_declared,
        launch_key=launch_key,
    )


class Story:
    """`ask` and the other verbs happen now; `run_for` and `run` let time pass until what is due has happened.

    Loads take `LOAD_S` (or what `load_times` says) and work, unless the model is in `broken` (then they fail with that
    text) or in `out_of_memory_once` (then the next one fails for want of memory); stops take `STOP_S`; checks are
    answered at once, by whether the instance is in `dead`. Parking takes `PARK_S` and leaves what `residue_mib` says
    (else nobody knows); waking takes `WAKE_S`; both work unless the model is in `restless` (then the instance ends).
    `takes`: how long a granted request runs.
    """

    def __init__(self, *models: ModelSpec, policy: PolicySpec | None = None) -> None:
        policy = PolicySpec() if policy is None else policy
        self.witness = Witness({spec.name: spec for spec in models}, policy)
        self.now = 1000.0
        self.broken: dict[str, str] = {}
        self.load_times: dict[str, float] = {}
        self.out_of_memory_once: set[str] = set()
        self.dead: set[int] = set()
        self.restless: set[str] = set()
        self.residue_mib: dict[str, dict[str, int]] = {}
        self.parked: list[str] = []
        self.woken: list[str] = []
        self.wakes: list[WakeInstance] = []
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.starts: list[StartInstance] = []
        self.granted_at: dict[int, float] = {}
        self.rejections: dict[int, RejectRequest] = {}
        self.rejected_at: dict[int, float] = {}
        self.cut: list[int] = []
        self.checked: list[int] = []
        self._takes: dict[int, float] = {}
        self._due: list[tuple[float, int, Event]] = []
        self._timers: dict[TimerKey, Event] = {}
        self._answers: dict[int, Event] = {}
        self._numbers = itertools.count(1)

    # What people and programs do.

    def ask(
        self,
        model: str,
        *,
        takes: float | None = None,
        background: bool = False,
        request_class: RequestClass = RequestClass.NORMAL,
    ) -> int:
        request = next(self._numbers)
        if takes is not None:
            self._takes[request] = takes
        request_class = RequestClass.TASK if background else request_class
        self.post(RequestArrived(at=self.now, request=request, model=model, request_class=request_class))
        return request

    def close(self, *requests: int, lost: bool = False) -> None:
        for request in requests:
            self.post(RequestClosed(at=self.now, request=request, lost=lost))

    def load(self, model: str) -> None:
        self.post(LoadRequested(at=self.now, model=model))

    def unload(self, model: str) -> None:
        self.post(UnloadRequested(at=self.now, model=model))

    def keep(self, model: str, keep_s: float) -> None:
        self.post(KeepRequested(at=self.now, model=model, keep_s=keep_s))

    def crash(self, model: str, error: str = "CUDA out of memory", *, out_of_memory: bool = False) -> None:
        instance = self.instance_of(model)
        self._forget(self._answers.pop(instance, None))
        self.post(InstanceGone(at=self.now, instance=instance, error=error, out_of_memory=out_of_memory))

    def adopt(self, instance: int, model: str, *, ready_after_s: float = 0.5, devices: tuple[str, ...] = ()) -> None:
        self.post(InstanceAdopted(at=self.now, instance=instance, model=model, devices=devices))
        if self.witness.servers[instance].state == "starting":
            self._answer(InstanceReady(at=self.now + ready_after_s, instance=instance))

    def adopt_parked(self, instance: int, model: str) -> None:
        self.post(InstanceAdopted(at=self.now, instance=instance, model=model))
        self.post(InstanceParked(at=self.now, instance=instance))

    def measure(self, model: str, **used_mib: int) -> None:
        """What the model's instance holds, by device (their names with a "d" in front: `d0=7`)."""
        used = {name.removeprefix("d"): mib for name, mib in used_mib.items()}
        self.post(MemoryMeasured(at=self.now, instance=self.instance_of(model), used_mib=used))

    def measure_device(self, device: str, available_mib: int | None) -> None:
        self.post(DeviceMeasured(at=self.now, device=device, available_mib=available_mib))

    def configure(self, *models: ModelSpec, policy: PolicySpec | None = None) -> None:
        self.post(ModelsChanged(at=self.now, models={spec.name: spec for spec in models}, policy=policy))

    def shut_down(self) -> None:
        self.post(ShutdownRequested(at=self.now))

    # What can be seen.

    def instance_of(self, model: str) -> int:
        return next(id_ for id_, server in self.witness.servers.items() if server.model == model)

    def state_of(self, model: str) -> str:
        """ "starting", "waking", "ready", "suspect", "draining", "parking", "parked", "stopping", or "absent"."""
        instances = self.witness.scheduler.snapshot().instances
        return next((view.state.value for view in instances if view.model == model), "absent")

    def wait_of(self, request: int) -> Wait:
        wait = self.witness.scheduler.wait_of(request)
        assert wait is not None, f"request {request} doesn't wait"
        return wait

    def is_granted(self, *requests: int) -> bool:
        return all(request in self.granted_at for request in requests)

    def is_waiting(self, *requests: int) -> bool:
        return all(request in self.witness.waiting for request in requests)

    # Time.

    def run_for(self, duration_s: float) -> None:
        """Everything that is due within the duration happens, in order."""
        end = self.now + duration_s
        while self._due and self._due[0][0] <= end:
            self._step()
        self.now = end

    def run(self, *, steps: int = 1000) -> None:
        """Until nothing more is due."""
        for _ in range(steps):
            if not self._due:
                return
            self._step()
        raise AssertionError(f"still busy after {steps} steps")

    def _step(self) -> None:
        at, _, event = heapq.heappop(self._due)
        self.now = max(self.now, at)
        self.post(event)

    def post(self, event: Event) -> list[Command]:
        commands = self.witness.handle(event)
        for command in commands:
            self._play(command)
        return commands

    def _play(self, command: Command) -> None:
        match command:
            case GrantRequest(request=request):
                self.granted_at[request] = self.now
                if request in self._takes:
                    self._schedule(RequestClosed(at=self.now + self._takes[request], request=request))
            case RejectRequest(request=request):
                self.rejections[request] = command
                self.rejected_at[request] = self.now
            case CutRequest(request=request):
                self.cut.append(request)
                self._schedule(RequestClosed(at=self.now, request=request))
            case StartInstance(instance=instance, model=name):
                self.started.append(name)
                self.starts.append(command)
                self._answer(self._outcome(instance, name))
            case StopInstance(instance=instance):
                self.stopped.append(self.witness.servers[instance].model)
                self._answer(InstanceGone(at=self.now + STOP_S, instance=instance))
            case ParkInstance(instance=instance):
                name = self.witness.servers[instance].model
                self.parked.append(name)
                self._answer(self._rest(instance, name))
            case WakeInstance(instance=instance, model=name):
                self.woken.append(name)
                self.wakes.append(command)
                at = self.now + WAKE_S
                gone = InstanceGone(at=at, instance=instance, error="it could not be woken")
                self._answer(gone if name in self.restless else InstanceReady(at=at, instance=instance))
            case CheckInstance(instance=instance):
                self.checked.append(instance)
                gone = InstanceGone(at=self.now, instance=instance, error="connection refused")
                self._answer(gone if instance in self.dead else InstanceReady(at=self.now, instance=instance))
            case SetTimer(timer=timer, at=at):
                self._forget(self._timers.pop(timer, None))
                self._timers[timer] = TimerFired(at=at, timer=timer)
                self._schedule(self._timers[timer])
            case CancelTimer(timer=timer):
                self._forget(self._timers.pop(timer, None))

    def _outcome(self, instance: int, name: str) -> InstanceReady | InstanceGone:
        at = self.now + self.load_times.get(name, LOAD_S)
        if name in self.out_of_memory_once:
            self.out_of_memory_once.remove(name)
            return InstanceGone(at=at, instance=instance, error="CUDA out of memory", out_of_memory=True)
        error = self.broken.get(name)
        if error is not None:
            return InstanceGone(at=at, instance=instance, error=error)
        return InstanceReady(at=at, instance=instance)

    def _rest(self, instance: int, name: str) -> InstanceParked | InstanceGone:
        at = self.now + PARK_S
        if name in self.restless:
            return InstanceGone(at=at, instance=instance, error="it could not be parked")
        return InstanceParked(at=at, instance=instance, held_mib=self.residue_mib.get(name))

    def _answer(self, event: InstanceReady | InstanceParked | InstanceGone) -> None:
        """The newest answer about an instance replaces one that was still to come."""
        self._forget(self._answers.pop(event.instance, None))
        self._answers[event.instance] = event
        self._schedule(event)

    def _schedule(self, event: Event) -> None:
        heapq.heappush(self._due, (event.at, next(self._numbers), event))

    def _forget(self, event: Event | None) -> None:
        self._due = [entry for entry in self._due if entry[2] is not event]
        heapq.heapify(self._due)
