"""The rules that other tools follow, on the same events and commands as the real core: what it is measured against.

Counterparts: `room` knows what fits; `engine` plays. They get the same memory, declared footprints and queue limit, and
none of the faults of the tools themselves: only the rule is compared.

- `Fifo`: strict order of arrival. Nobody is looked at before the one in front has been given its model.
- `Lru`: Ollama's scheduler (`server/sched.go`, `processPending`). Order of arrival, but a load that has begun holds up
  only who asks for the model that loads; the least recently used model leaves, an idle one if there is one, and while
  that is awaited nobody is let through, not even to other models.
- `ReadyFirst`: llama-swap's scheduler (`internal/router/scheduler/fifo.go`). A ready model serves whoever asks for it,
  whoever else waits; a switch begins when nobody uses the models that would have to leave. Nothing bounds a wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from llm_router.core.commands import Command, GrantRequest, Refusal, RejectRequest, StartInstance, StopInstance
from llm_router.core.events import Event, InstanceGone, InstanceReady, RequestArrived, RequestClosed
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.simulation.room import Room, Shares


@dataclass(slots=True, eq=False)
class _Server:
    """One instance. `line`: requests that were let through to it and wait for it to be ready or for a free slot, as
    inside the server itself. `after`: instances that must be gone before it may start; its room is theirs."""

    id: int
    spec: ModelSpec
    shares: Shares
    after: set[int]
    state: str = "planned"  # planned, starting, ready, stopping
    leases: set[int] = field(default_factory=set)
    line: deque[int] = field(default_factory=deque)
    last_used_at: float = 0.0

    @property
    def is_busy(self) -> bool:
        return bool(self.leases or self.line) or self.state in {"planned", "starting"}


class Rival(ABC):
    """What all rules have in common: letting through, starting, stopping. `_go_on` is the rule."""

    def __init__(self, models: Mapping[str, ModelSpec], policy: PolicySpec, *, one_at_a_time: bool = False) -> None:
        self._models = models
        self._queue_limit = policy.queue_limit
        self._room = Room(policy.budgets, one_at_a_time=one_at_a_time)
        self._queue: dict[int, str] = {}
        self._servers: dict[int, _Server] = {}
        self._server_of: dict[str, _Server] = {}  # without those that stop
        self._user_of: dict[int, _Server] = {}
        self._in_line = 0
        self._last_id = 0
        self._commands: list[Command] = []

    def handle(self, event: Event) -> list[Command]:
        commands = self._commands = []
        match event:
            case RequestArrived():
                self._note_arrival(event)
            case RequestClosed():
                self._note_close(event)
            case InstanceReady():
                self._servers[event.instance].state = "ready"
                self._serve_line(self._servers[event.instance], event.at)
            case InstanceGone():
                self._note_gone(event)
            case _:
                pass
        self._go_on(event.at)
        return commands

    @abstractmethod
    def _go_on(self, at: float) -> None:
        """Let through, start and stop whatever the rule says now."""

    def _note_arrival(self, event: RequestArrived) -> None:
        if len(self._queue) + self._in_line >= self._queue_limit:
            detail = "cannot queue the request: too many are waiting already"
            self._commands.append(RejectRequest(request=event.request, refusal=Refusal.QUEUE_FULL, detail=detail))
        else:
            self._queue[event.request] = event.model

    def _note_close(self, event: RequestClosed) -> None:
        if self._queue.pop(event.request, None) is not None:
            return
        server = self._user_of.pop(event.request)
        server.last_used_at = event.at
        if event.request in server.leases:
            server.leases.remove(event.request)
            self._serve_line(server, event.at)
        else:
            server.line.remove(event.request)
            self._in_line -= 1

    def _note_gone(self, event: InstanceGone) -> None:
        """A failed load fails everybody who waits for the model, as under our own rule."""
        server = self._servers.pop(event.instance)
        if server.state == "starting":
            del self._server_of[server.spec.name]
            self._room.release(server.spec.name)
            for request in server.line:
                del self._user_of[request]
                self._in_line -= 1
            queued = [request for request, model in self._queue.items() if model == server.spec.name]
            for request in [*server.line, *queued]:
                self._queue.pop(request, None)
                rejection = RejectRequest(request=request, refusal=Refusal.LOAD_FAILED, detail=event.error or "")
                self._commands.append(rejection)
        for waiting in [other for other in self._servers.values() if event.instance in other.after]:
            waiting.after.remove(event.instance)
            self._start_if_free(waiting)

    def _let_through(self, request: int, server: _Server, at: float) -> None:
        self._queue.pop(request, None)
        self._user_of[request] = server
        server.line.append(request)
        self._in_line += 1
        self._serve_line(server, at)

    def _serve_line(self, server: _Server, at: float) -> None:
        slots = server.spec.concurrency
        while server.state == "ready" and server.line and (slots is None or len(server.leases) < slots):
            request = server.line.popleft()
            self._in_line -= 1
            server.leases.add(request)
            server.last_used_at = at
            self._commands.append(GrantRequest(request=request, instance=server.id))

    def _victims(self, spec: ModelSpec) -> list[_Server] | None:
        """Who must leave so that it fits: idle ones first, then the least recently used, and no more than needed;
        None: it never fits."""
        leaving: list[_Server] = []
        for server in sorted(self._server_of.values(), key=lambda one: (one.is_busy, one.last_used_at, one.id)):
            if self._room.place(spec, [one.spec.name for one in leaving]) is not None:
                break
            leaving.append(server)
        if self._room.place(spec, [one.spec.name for one in leaving]) is None:
            return None
        for server in reversed(leaving.copy()):
            fewer = [one for one in leaving if one is not server]
            if self._room.place(spec, [one.spec.name for one in fewer]) is not None:
                leaving = fewer
        return leaving

    def _switch(self, spec: ModelSpec, victims: list[_Server]) -> _Server:
        """Stop the victims; once they are gone, start the model in their place."""
        shares = self._room.place(spec, [victim.spec.name for victim in victims])
        assert shares is not None
        after = set()
        for victim in victims:
            self._stop(victim)
            after.add(victim.id)
        # Whoever stops for nobody in particular (see `Lru`) still holds its memory.
        after |= {one.id for one in self._servers.values() if one.state == "stopping" and _overlap(one.shares, shares)}
        self._last_id += 1
        server = _Server(self._last_id, spec, shares, after)
        self._servers[server.id] = self._server_of[spec.name] = server
        self._room.take(spec.name, shares)
        self._start_if_free(server)
        return server

    def _start_if_free(self, server: _Server) -> None:
        if server.after or server.state != "planned":
            return
        server.state = "starting"
        reserved = {device: share for device, share in server.shares.items() if share is not None}
        start = StartInstance(
            instance=server.id, model=server.spec.name, devices=tuple(server.shares), reserved_mib=reserved
        )
        self._commands.append(start)

    def _stop(self, server: _Server) -> None:
        server.state = "stopping"
        del self._server_of[server.spec.name]
        self._room.release(server.spec.name)
        self._commands.append(StopInstance(instance=server.id))

    def _refuse(self, request: int) -> None:
        del self._queue[request]
        detail = "cannot load the model: it is larger than the device"
        self._commands.append(RejectRequest(request=request, refusal=Refusal.NO_ROOM, detail=detail))


def _overlap(one: Shares, other: Shares) -> bool:
    return not one.keys().isdisjoint(other)


class Fifo(Rival):
    def _go_on(self, at: float) -> None:
        """1. The first one's model is ready: it is let through, and the next one is looked at.
        2. It is on its way: wait for it.
        3. Who must leave is idle: switch. Busy: wait; meanwhile nobody is let through, so it will be.
        """
        while self._queue:
            request, name = next(iter(self._queue.items()))
            server = self._server_of.get(name)
            if server is None:
                victims = self._victims(self._models[name])
                if victims is None:
                    self._refuse(request)
                    continue
                if not any(victim.is_busy for victim in victims):  # 3
                    self._switch(self._models[name], victims)
                return
            if server.state != "ready":  # 2
                return
            self._let_through(request, server, at)  # 1


class Lru(Rival):
    _leaving: _Server | None = None

    def _go_on(self, at: float) -> None:
        """1. Someone was told to leave: wait until it is gone.
        2. The first one's model is ready: let it through.
        3. Its model is on its way: wait for it, unless this request is what it was started for.
        4. It fits beside the others: start it, and look at the next one meanwhile.
        5. Something else is loading: look at the next one first.
        6. The least recently used must leave, an idle one if there is one.
        """
        for request, name in list(self._queue.items()):
            if self._is_making_room():  # 1
                return
            server, spec = self._server_of.get(name), self._models[name]
            if server is not None:
                if server.state != "ready":  # 3
                    return
                self._let_through(request, server, at)  # 2
            elif self._room.place(spec) is not None and not self._loads_elsewhere(spec):
                self._let_through(request, self._switch(spec, []), at)  # 4
            elif any(one.state != "ready" for one in self._server_of.values() if one.shares):  # 5
                continue
            else:  # 6
                victims = self._victims(spec)
                if not victims:
                    self._refuse(request)
                    continue
                self._leaving = victims[0]
                self._is_making_room()
                return

    def _is_making_room(self) -> bool:
        leaving = self._leaving
        if leaving is None:
            return False
        if leaving.state == "ready" and not leaving.is_busy:
            self._stop(leaving)
        if leaving.id not in self._servers:
            self._leaving = None
        return self._leaving is not None

    def _loads_elsewhere(self, spec: ModelSpec) -> bool:
        """Nothing is started on a device on which something else is loading."""
        shares = self._room.place(spec) or {}
        loading = (one.shares for one in self._server_of.values() if one.state != "ready")
        return any(_overlap(shares, other) for other in loading)


class ReadyFirst(Rival):
    def _go_on(self, at: float) -> None:
        """For each one that waits, in the order of arrival:

        1. Its model is ready or on its way: it is let through.
        2. Who must leave is idle: switch, beside other switches if they don't touch each other.
        3. Else it waits.
        """
        blocked = set[str]()  # who follows another one of its model that has just been left waiting waits, too
        for request, name in list(self._queue.items()):
            server = self._server_of.get(name)
            if server is not None:  # 1
                self._let_through(request, server, at)
            elif name not in blocked:
                victims = self._victims(self._models[name])
                if victims is None:
                    self._refuse(request)
                elif any(victim.is_busy for victim in victims):  # 3
                    blocked.add(name)
                else:  # 2
                    self._let_through(request, self._switch(self._models[name], victims), at)
