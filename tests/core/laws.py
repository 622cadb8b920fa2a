"""The laws of the core, as a witness who sees only events and commands and keeps books of its own.

Counterpart: `story` and `test_laws`, which let it watch. It deliberately shares no code with the scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

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
from llm_router.core.events import (
    DeviceMeasured,
    Event,
    InstanceAdopted,
    InstanceGone,
    InstanceParked,
    InstanceReady,
    LoadRequested,
    MemoryMeasured,
    ModelsChanged,
    RequestArrived,
    RequestClass,
    RequestClosed,
    ShutdownRequested,
    TimerFired,
    TimerKey,
    TimerKind,
    UnloadRequested,
)
from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import ANY_DEVICE, HOST, ModelSpec, PolicySpec

_ROUNDING_S = 1e-6


@dataclass
class Server:
    model: str
    state: str = "starting"  # starting, ready, suspect, parking, parked, stopping
    adopted: bool = False
    waking: bool = False  # while it is starting: from being parked
    home: frozenset[str] = frozenset()
    reserved: dict[str, int | None] = field(default_factory=dict)  # by device; None: the whole of it
    seats: frozenset[str] = frozenset()
    launch_key: str = ""
    is_outdated: bool = False
    since: float = float("-inf")
    leases: set[int] = field(default_factory=set)
    promised: set[int] = field(default_factory=set)
    last_grant_at: float = float("-inf")
    unload_wanted: bool = False


class Witness:
    """Hands events to a scheduler and checks the laws after each one."""

    def __init__(self, models: Mapping[str, ModelSpec], policy: PolicySpec) -> None:
        self.scheduler = Scheduler(models, policy)
        self.models = dict(models)
        self.last_specs = dict(models)  # of removed ones too, while they leave
        self.policy = policy
        self.budgets = dict(policy.budgets)
        self.ran_out: set[str] = set()
        self.waiting: dict[int, str] = {}
        self.open: dict[int, int] = {}
        self.ended: set[int] = set()
        self.servers: dict[int, Server] = {}
        self.timers: dict[TimerKey, float] = {}
        self.paused_until: dict[str, float] = {}
        self.shutting_down = False
        self.classes: set[RequestClass] = set()
        self.history: list[tuple[Event, tuple[Command, ...]]] = []

    def handle(self, event: Event) -> list[Command]:
        failing = self.scheduler.snapshot().failing
        self._before(event)
        commands = self.scheduler.handle(event)
        self.history.append((event, tuple(commands)))
        for command in commands:
            self._obey(command, event.at)
            if isinstance(command, StartInstance) and command.model in failing:
                asked = isinstance(event, LoadRequested) and event.model == command.model
                assert asked or event.at >= failing[command.model].retry_at, "a start during the back-off"
        self._cuts_come_with_a_stop(commands)
        self._after(event)
        return commands

    # The world's side of the books.

    def _before(self, event: Event) -> None:
        match event:
            case RequestArrived():
                assert event.request not in self.waiting | self.open and event.request not in self.ended
                self.waiting[event.request] = event.model
                self.classes.add(event.request_class)
            case RequestClosed():
                self._close(event)
            case InstanceReady() | InstanceParked() | InstanceGone() | InstanceAdopted():
                self._before_instance(event)
            case MemoryMeasured():
                self._measure(event)
            case DeviceMeasured():
                self._measure_device(event)
            case ModelsChanged():
                self._change_models(event)
            case LoadRequested() | UnloadRequested():
                self._note_wish(event)
            case TimerFired():
                self.timers.pop(event.timer, None)
            case ShutdownRequested():
                self.shutting_down = True

    def _before_instance(self, event: InstanceReady | InstanceParked | InstanceGone | InstanceAdopted) -> None:
        match event:
            case InstanceReady():
                self._note_ready(event)
            case InstanceParked():
                self._note_parked(event)
            case InstanceGone():
                self._note_gone(event)
            case InstanceAdopted():
                self._adopt(event)

    def _note_ready(self, event: InstanceReady) -> None:
        server = self.servers.get(event.instance)
        if server is None or server.state in ("stopping", "parking", "parked"):
            return
        if server.state == "starting":
            server.since, server.waking = event.at, False
            self.ran_out.discard(server.model)
            server.promised = {request for request, model in self.waiting.items() if model == server.model}
        server.state = "ready"

    def _note_parked(self, event: InstanceParked) -> None:
        server = self.servers.get(event.instance)
        if server is None or (server.state != "parking" and not (server.state == "starting" and server.adopted)):
            return
        if server.waking:
            return
        server.state = "parked"
        self._note_residue(server, event.held_mib or {})

    def _note_residue(self, server: Server, held_mib: Mapping[str, int]) -> None:
        used = self._in_budgets(server, held_mib)
        if used and server.reserved:
            server.reserved = {**dict.fromkeys(server.reserved, 0), **used}

    def _note_gone(self, event: InstanceGone) -> None:
        server = self.servers.pop(event.instance, None)
        if server is None or server.state != "starting" or server.adopted or server.waking:
            return
        if event.out_of_memory and server.model not in self.ran_out:
            self.ran_out.add(server.model)
            return
        self.ran_out.discard(server.model)
        self.paused_until[server.model] = event.at + self.policy.backoff_base_s

    def _adopt(self, event: InstanceAdopted) -> None:
        if event.instance in self.servers:
            return
        spec = self.models.get(event.model, ModelSpec(name=event.model))
        named = tuple(name for name in event.devices or spec.devices or () if name in self.budgets)
        devices = named or tuple(self.budgets)
        need = spec.footprint_mib
        reserved = {} if need == 0 else {name: None if need is None else -(-need // len(devices)) for name in devices}
        self.servers[event.instance] = Server(
            event.model,
            adopted=True,
            reserved=reserved,
            home=frozenset(reserved),
            seats=spec.seats,
            launch_key=spec.launch_key,
        )

    def _measure(self, event: MemoryMeasured) -> None:
        server = self.servers.get(event.instance)
        if server is None or not server.reserved:
            return
        if server.state == "parked":
            self._note_residue(server, event.used_mib)
        if server.state in ("parked", "parking"):
            return
        used = self._in_budgets(server, event.used_mib)
        spec = self.models.get(server.model)
        if server.state == "starting" or (spec is not None and spec.is_declared):
            if None not in server.reserved.values():
                names = {**server.reserved, **used}
                server.reserved = {name: max(used.get(name, 0), server.reserved.get(name) or 0) for name in names}
        elif used:
            server.reserved = {**dict.fromkeys(server.reserved, 0), **used}

    def _in_budgets(self, server: Server, used_mib: Mapping[str, int]) -> dict[str, int]:
        used = {name: mib for name, mib in used_mib.items() if name in self.budgets}
        if ANY_DEVICE in self.budgets:
            used = {ANY_DEVICE: sum(used_mib.values())}
        if HOST not in server.reserved:
            used.pop(HOST, None)
        return used

    def _measure_device(self, event: DeviceMeasured) -> None:
        configured = self.policy.budgets[event.device]
        available = 0 if event.available_mib is None else event.available_mib
        self.budgets[event.device] = available if configured is None else min(configured, available)

    def _change_models(self, event: ModelsChanged) -> None:
        before, self.models = self.models, dict(event.models)
        self.last_specs.update(event.models)
        if event.policy is not None:
            self.policy = event.policy
            self.budgets = {**dict.fromkeys(self.budgets, 0), **event.policy.budgets}
        for name in {*before, *self.models}:
            old, new = before.get(name), self.models.get(name)
            if old is None or new is None or old.launch_key != new.launch_key:
                self.paused_until.pop(name, None)  # a fresh start: it may be what was wrong
                self.ran_out.discard(name)
        for server in self.servers.values():
            spec = self.models.get(server.model)
            server.is_outdated = spec is None or spec.launch_key != server.launch_key

    def _note_wish(self, event: LoadRequested | UnloadRequested) -> None:
        unload = isinstance(event, UnloadRequested)
        if not unload:
            self.paused_until.pop(event.model, None)
        for server in self.servers.values():
            if server.model == event.model:
                server.unload_wanted = unload

    def _close(self, event: RequestClosed) -> None:
        request = event.request
        if self.waiting.pop(request, None) is not None:
            self._end(request)
        elif request in self.open:
            server = self.servers.get(self.open.pop(request))
            self._end(request)
            if server is not None:
                server.leases.remove(request)
                if event.lost and server.state == "ready":
                    server.state = "suspect?"  # the check must be asked for in answer to this very event

    def _end(self, request: int) -> None:
        assert request not in self.ended, "a request ended twice"
        self.ended.add(request)

    # The scheduler's side.

    def _obey(self, command: Command, at: float) -> None:
        match command:
            case GrantRequest():
                self._grant(command, at)
            case RejectRequest():
                assert command.request in self.waiting, "only who waits can be refused"
                del self.waiting[command.request]
                self._end(command.request)
                assert command.detail, "a refusal says why"
            case CutRequest():
                assert command.request in self.open and command.refusal is Refusal.PREEMPTED
            case StartInstance():
                self._start(command, at)
            case WakeInstance():
                self._wake(command)
            case ParkInstance():
                self._park(command, at)
            case StopInstance():
                self._stop(command, at)
            case CheckInstance():
                assert self.servers[command.instance].state == "suspect?", "checked without need, or twice"
                self.servers[command.instance].state = "suspect"
            case SetTimer():
                assert command.at >= at
                self.timers[command.timer] = command.at
            case CancelTimer():
                assert command.timer in self.timers, "cancelled a timer that isn't pending"
                del self.timers[command.timer]

    def _grant(self, command: GrantRequest, at: float) -> None:
        server = self.servers[command.instance]
        assert self.waiting.pop(command.request) == server.model
        assert server.state == "ready", "granted on an instance that isn't ready"
        assert TimerKey(TimerKind.DRAIN, command.instance) not in self.timers, "granted on a draining instance"
        server.leases.add(command.request)
        assert len(server.leases) <= (self.models[server.model].concurrency or 10**9)
        server.last_grant_at = at
        self.open[command.request] = command.instance

    def _start(self, command: StartInstance, at: float) -> None:
        spec = self.models[command.model]
        assert not self.shutting_down
        assert command.instance not in self.servers
        assert all(s.model != command.model for s in self.servers.values()), "two instances of one model"
        assert at >= self.paused_until.get(command.model, at), "a start right after a failed load"
        reserved = {name: command.reserved_mib.get(name) for name in command.devices}
        assert reserved.keys() >= command.reserved_mib.keys()
        assert (spec.footprint_mib != 0) == bool(reserved), "memory without a device, or the other way round"
        if spec.devices is not None and reserved and ANY_DEVICE not in self.budgets:
            assert set(command.devices) == set(spec.devices), "not on the devices that it names"
        for server in self.servers.values():
            assert server.seats.isdisjoint(spec.seats), "a seat for two"
            shares = not reserved.keys().isdisjoint(server.reserved)
            assert not (shares and server.state == "starting"), "two starts at a time on one device"
        for name, need in reserved.items():
            tenants = [(s.model, s.reserved[name]) for s in self.servers.values() if name in s.reserved]
            self._must_fit([*tenants, (command.model, need)], self.budgets[name])
        self.servers[command.instance] = Server(
            command.model,
            reserved=reserved,
            home=frozenset(reserved),
            seats=spec.seats,
            launch_key=spec.launch_key,
        )

    def _wake(self, command: WakeInstance) -> None:
        """A load like any other, where it is: beside whoever is there now."""
        server = self.servers[command.instance]
        assert not self.shutting_down
        assert server.state == "parked" and server.model == command.model, "only who is parked can be woken"
        assert not server.unload_wanted and not server.is_outdated, "woken though someone wants it gone"
        reserved = {name: command.reserved_mib.get(name) for name in command.devices}
        assert reserved.keys() == server.home, "a process can't move to another device"
        others = [one for one in self.servers.values() if one is not server]
        for other in others:
            assert other.seats.isdisjoint(server.seats), "a seat for two"
            shares = not reserved.keys().isdisjoint(other.reserved)
            assert not (shares and other.state == "starting"), "two loads at a time on one device"
        for name, need in reserved.items():
            tenants = [(one.model, one.reserved[name]) for one in others if name in one.reserved]
            self._must_fit([*tenants, (command.model, need)], self.budgets[name])
        server.state, server.waking, server.reserved = "starting", True, reserved

    def _park(self, command: ParkInstance, at: float) -> None:
        server = self.servers[command.instance]
        spec = self.models[server.model]
        assert server.state == "ready", "only who is ready can be parked"
        assert not server.leases, "parked with an open request"
        assert server.model not in self.waiting.values(), "parked though someone waits for it"
        assert spec.park_after_s is not None and at >= server.last_grant_at + spec.park_after_s - _ROUNDING_S
        server.state = "parking"

    def _must_fit(self, tenants: list[tuple[str, int | None]], budget: int | None) -> None:
        pairs = list(combinations(tenants, 2))
        for (one, one_needs), (other, other_needs) in pairs:
            if budget is None or one_needs is None or other_needs is None:
                assert self._are_companions(one, other), "a whole-device model has company"
        if budget is not None and not (pairs and all(self._are_companions(a, b) for (a, _), (b, _) in pairs)):
            assert sum(need or 0 for _, need in tenants) <= budget, "more reserved than there is"

    def _are_companions(self, one: str, other: str) -> bool:
        pairs = ((self.last_specs.get(one), other), (self.last_specs.get(other), one))
        return any(spec is not None and name in spec.companions for spec, name in pairs)

    def _stop(self, command: StopInstance, at: float) -> None:
        server = self.servers[command.instance]
        assert server.state != "stopping", "stopped twice"
        assert server.state != "parking", "stopped before it could say how being parked went"
        if server.leases:
            assert at - server.last_grant_at >= self.policy.drain_timeout_s - _ROUNDING_S, (
                "stopped before its drain deadline"
            )
        if at < server.since + self.policy.drain_timeout_s:
            assert not server.promised & self.waiting.keys(), "left without serving whom it was started for"
        spec = self.models.get(server.model)
        if spec is not None and spec.pinned and spec.idle_timeout_s is None and not server.adopted:
            assert server.unload_wanted or server.is_outdated, "a pinned model was evicted"
        server.state = "stopping"

    def _cuts_come_with_a_stop(self, commands: list[Command]) -> None:
        cut: set[int] = set()
        for command in commands:
            if isinstance(command, CutRequest):
                cut.add(command.request)
            elif isinstance(command, StopInstance):
                assert cut == self.servers[command.instance].leases, "each open request is cut before the stop"
                cut = set()
        assert not cut, "cut a request without stopping its instance"

    def _after(self, event: Event) -> None:
        assert all(s.state != "suspect?" for s in self.servers.values()), "a suspect instance isn't checked"
        assert len(self.waiting) <= self.policy.queue_limit
        if self.shutting_down:
            assert not self.waiting
        if isinstance(event, RequestArrived) and event.request_class is RequestClass.TASK:
            assert event.request not in self.waiting, "a background request waits"
        for model in dict.fromkeys(self.waiting.values()):
            self._is_explained(model, [request for request, wanted in self.waiting.items() if wanted == model])
            assert not self._could_be_granted(model), "waits in front of a free place"
        staying = {id_ for id_, server in self.servers.items() if server.state not in ("stopping", "parking")}
        assert {key.subject for key in self.timers if key.kind is not TimerKind.ROOM} <= staying, (
            "a timer of an instance that is leaving or gone"
        )
        for instance, server in self.servers.items():
            assert set(self.scheduler.leases_of(instance)) == server.leases
        for request in (*self.open, *list(self.ended)[-3:]):
            assert self.scheduler.wait_of(request) is None

    def _is_explained(self, model: str, queue: list[int]) -> None:
        """The first and the last speak for those between them."""
        for index in {0, len(queue) - 1}:
            wait = self.scheduler.wait_of(queue[index])
            assert wait is not None and wait.reason and wait.model == model
            assert 0 <= wait.position < len(queue)
            assert len(self.classes) > 1 or wait.position == index
            assert "another model" not in wait.reason, "a reason that names nobody"

    def _could_be_granted(self, model: str) -> bool:
        """A free place on an instance that serves. If its turn were over, it would be draining."""
        if self.policy.concurrency is not None and len(self.open) >= self.policy.concurrency:
            return False
        return any(
            s.model == model
            and s.state == "ready"
            and not (s.unload_wanted or s.is_outdated)
            and TimerKey(TimerKind.DRAIN, id_) not in self.timers
            and len(s.leases) < (self.models[model].concurrency or 10**9)
            for id_, s in self.servers.items()
        )
