"""The laws of the core, as a witness who sees only events and commands and keeps books of its own.

Counterpart: `story` and `test_laws`, which let it watch. It deliberately shares no code with the scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llm_router.core.commands import (
    CancelTimer,
    CheckInstance,
    Command,
    CutRequest,
    GrantRequest,
    Refusal,
    RejectRequest,
    SetTimer,
    StartInstance,
    StopInstance,
)
from llm_router.core.events import (
    Event,
    InstanceAdopted,
    InstanceGone,
    InstanceReady,
    LoadRequested,
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
from llm_router.core.specs import ModelSpec, PolicySpec

_ROUNDING_S = 1e-6


@dataclass
class Server:
    model: str
    state: str = "starting"  # starting, ready, suspect, stopping
    adopted: bool = False
    leases: set[int] = field(default_factory=set)
    promised: set[int] = field(default_factory=set)
    last_grant_at: float = float("-inf")
    unload_wanted: bool = False


class Witness:
    """Hands events to a scheduler and checks the laws after each one."""

    def __init__(self, models: Mapping[str, ModelSpec], policy: PolicySpec) -> None:
        self.scheduler = Scheduler(models, policy)
        self.models = models
        self.policy = policy
        self.waiting: dict[int, str] = {}
        self.open: dict[int, int] = {}
        self.ended: set[int] = set()
        self.servers: dict[int, Server] = {}
        self.timers: dict[TimerKey, float] = {}
        self.paused_until: dict[str, float] = {}
        self.shutting_down = False
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
            case RequestClosed():
                self._close(event)
            case InstanceReady():
                self._note_ready(event)
            case InstanceGone():
                self._note_gone(event)
            case InstanceAdopted():
                self.servers.setdefault(event.instance, Server(event.model, adopted=True))
            case LoadRequested() | UnloadRequested():
                self._note_wish(event)
            case TimerFired():
                self.timers.pop(event.timer, None)
            case ShutdownRequested():
                self.shutting_down = True

    def _note_ready(self, event: InstanceReady) -> None:
        server = self.servers.get(event.instance)
        if server is None or server.state == "stopping":
            return
        if server.state == "starting":
            server.promised = {request for request, model in self.waiting.items() if model == server.model}
        server.state = "ready"

    def _note_gone(self, event: InstanceGone) -> None:
        server = self.servers.pop(event.instance, None)
        if server is not None and server.state == "starting" and not server.adopted:
            self.paused_until[server.model] = event.at + self.policy.backoff_base_s

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
        beside = [s for s in self.servers.values() if self._footprint(s.model) != 0]
        if spec.footprint_mib != 0:
            assert all(s.state != "starting" for s in beside), "two starts at a time"
            self._must_fit([spec.footprint_mib, *(self._footprint(s.model) for s in beside)])
        self.servers[command.instance] = Server(command.model)

    def _must_fit(self, footprints: list[int | None]) -> None:
        if len(footprints) > 1:
            assert None not in footprints and self.policy.budget_mib is not None, "a whole-device model has company"
        if self.policy.budget_mib is not None:
            assert sum(f or 0 for f in footprints) <= self.policy.budget_mib, "more reserved than there is"

    def _footprint(self, model: str) -> int | None:
        return self.models[model].footprint_mib if model in self.models else None

    def _stop(self, command: StopInstance, at: float) -> None:
        server = self.servers[command.instance]
        assert server.state != "stopping", "stopped twice"
        if server.leases:
            assert at - server.last_grant_at >= self.policy.drain_timeout_s - _ROUNDING_S, (
                "stopped before its drain deadline"
            )
        assert not server.promised & self.waiting.keys(), "left without serving whom it was started for"
        spec = self.models.get(server.model)
        if spec is not None and spec.pinned and spec.idle_timeout_s is None and not server.adopted:
            assert server.unload_wanted, "a pinned model was evicted"
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
        staying = {id_ for id_, server in self.servers.items() if server.state != "stopping"}
        assert {key.subject for key in self.timers} <= staying, "a timer of an instance that is leaving or gone"
        for instance, server in self.servers.items():
            assert set(self.scheduler.leases_of(instance)) == server.leases
        for request in (*self.open, *list(self.ended)[-3:]):
            assert self.scheduler.wait_of(request) is None

    def _is_explained(self, model: str, queue: list[int]) -> None:
        """The first and the last speak for those between them."""
        for position in {0, len(queue) - 1}:
            wait = self.scheduler.wait_of(queue[position])
            assert wait is not None and wait.reason and wait.model == model
            assert wait.position == position
            assert "another model" not in wait.reason, "a reason that names nobody"

    def _could_be_granted(self, model: str) -> bool:
        """A free place on an instance that serves. If its turn were over, it would be draining."""
        return any(
            s.model == model
            and s.state == "ready"
            and not s.unload_wanted
            and TimerKey(TimerKind.DRAIN, id_) not in self.timers
            and len(s.leases) < (self.models[model].concurrency or 10**9)
            for id_, s in self.servers.items()
        )
