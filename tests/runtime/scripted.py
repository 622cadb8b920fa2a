"""A launcher and a backend that do what a test tells them, when it tells them; only health checks go over a socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from llm_router.backends.base import (
    Address,
    LaunchRequest,
    LaunchSpec,
    Loading,
    Readiness,
    Ready,
    Signal,
    StopPlan,
)
from llm_router.core.commands import StartInstance, WakeInstance
from llm_router.core.events import Event
from llm_router.launchers.base import Identity, RunningProcess
from llm_router.relay.pool import Pool
from llm_router.runtime.effects import Effects
from llm_router.runtime.instances import Launch
from llm_router.runtime.tasks import Tasks

# Whoever answers a health check in these tests is this process, and it is of this session.
OURS = os.getsid(0)


class Output:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hidden: set[str] = set()
        self._subscribers: list[Callable[[str], None]] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
        for on_line in list(self._subscribers):
            on_line(line)

    def hide(self, texts: Iterable[str]) -> None:
        self.hidden = set(texts)

    def tail(self, lines: int = 20) -> list[str]:
        return self.lines[-lines:]

    def subscribe(self, on_line: Callable[[str], None]) -> Callable[[], None]:
        self._subscribers.append(on_line)
        return lambda: self._subscribers.remove(on_line)

    async def follow(self, lines: int = 0) -> AsyncIterator[str]:
        for line in self.lines:
            yield line


class Process:
    """`stops`: the plans it was stopped by. `lingers`: what a stop waits for; `unstoppable`: what it raises."""

    def __init__(self, identity: Identity, pid: int = OURS) -> None:
        self.identity = identity
        self.pid = pid
        self.output = Output()
        self.exited: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.stops: list[StopPlan] = []
        self.lingers: asyncio.Event | None = None
        self.unstoppable: Exception | None = None

    def exit(self, status: int) -> None:
        self.exited.set_result(status)

    async def stop(self, plan: StopPlan) -> None:
        self.stops.append(plan)
        if self.unstoppable is not None:
            raise self.unstoppable
        if self.lingers is not None and plan.grace_s > 0:
            await self.lingers.wait()
        elif self.lingers is not None:
            self.lingers.set()
        if not self.exited.done():
            self.exit(0)


class Launcher:
    """`held`: a start waits for it. `fails`: what a start raises. `left`: what an earlier router left behind."""

    def __init__(self) -> None:
        self.started: list[Process] = []
        self.left: list[Process] = []
        self.held: asyncio.Event | None = None
        self.fails: Exception | None = None
        self.is_closed = False
        self._news = asyncio.Event()

    async def start(self, spec: LaunchSpec, identity: Identity) -> Process:
        if self.held is not None:
            await self.held.wait()
        if self.fails is not None:
            raise self.fails
        process = Process(identity)
        self.started.append(process)
        self._news.set()
        return process

    async def next(self) -> Process:
        """Wait for the next start; returns its process as soon as someone listens to its output."""
        async with asyncio.timeout(5):
            await self._news.wait()
        self._news.clear()
        process = self.started[-1]
        await passed()
        return process

    def hand_over(self, process: RunningProcess, identity: Identity) -> None:
        assert isinstance(process, Process)
        process.identity = identity

    async def survivors(self) -> Sequence[Process]:
        return self.left

    def close(self) -> None:
        self.is_closed = True


def read_line(line: str) -> Signal | None:
    return {"ready": Ready(), "half": Loading(fraction=0.5)}.get(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """`port`: where the servers answer. `fails`: what `launch` raises. `changes`: to the spec. `asked`: the requests of
    all launches."""

    kind: str = "scripted"
    port: int = 0
    fails: Exception | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    asked: list[LaunchRequest] = field(default_factory=list)

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        self.asked.append(request)
        if self.fails is not None:
            raise self.fails
        spec = LaunchSpec(
            argv=() if request.url else ("engine",),
            address=Address(host="127.0.0.1", port=self.port or request.port),
            readiness=Readiness(path="/health" if request.url else None, read_line=read_line),
            stop=StopPlan(grace_s=7.0),
        )
        return replace(spec, **self.changes)  # type: ignore[arg-type]


class Health:
    """A server that answers each request with `status`; None: it reads it and says nothing. `paths`: what was asked.
    `late`: what it waits for before it answers."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.paths: list[str] = []
        self.port = 0
        self.asked = asyncio.Event()
        self.late: asyncio.Event | None = None
        self._server: asyncio.Server | None = None

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.paths.append(head.split(b" ")[1].decode())
        self.asked.set()
        if self.late is not None:
            await self.late.wait()
        if self.status is None:
            await reader.read()
        else:
            writer.write(f"HTTP/1.1 {self.status} x\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()


def launch(name: str = "m", *, port: int = 0, load_timeout_s: float = 5.0, **more: object) -> Launch:
    request = LaunchRequest(model=name, port=0, path="m.gguf")
    plain = Launch(backend=Backend(port=port), request=request, fixed_port=None, load_timeout_s=load_timeout_s)
    return replace(plain, **more)  # type: ignore[arg-type]


def remote(name: str, port: int) -> Launch:
    request = LaunchRequest(model=name, port=0, url=f"http://127.0.0.1:{port}")
    return Launch(backend=Backend(port=port), request=request, fixed_port=None, load_timeout_s=5.0)


def left_behind(launch: Launch, *, instance: int = 3, pid: int = OURS, **more: object) -> Process:
    port = launch.backend.launch(launch.request, "").address.port
    identity = Identity(instance=instance, model=launch.request.model, launch_key=launch.key, port=port)
    return Process(replace(identity, **more), pid)  # type: ignore[arg-type]


@dataclass
class World:
    """Effects, and every event they post. `more`: what else they are made with."""

    launches: dict[str, Launch]
    launcher: Launcher = field(default_factory=Launcher)
    tasks: Tasks = field(default_factory=Tasks)
    events: list[Event] = field(default_factory=list)
    more: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._news = asyncio.Event()
        self.effects = Effects(
            launches=self.launches,
            launcher=self.launcher,
            pool=Pool(spawn=self.tasks.spawn, timeout_s=5),
            tasks=self.tasks,
            post=self._post,
            now=asyncio.get_running_loop().time,
            **self.more,  # type: ignore[arg-type]
        )

    def _post(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, count: int) -> list[str]:
        """Wait for so many events in all; returns their names. Nothing more may come right after them."""
        async with asyncio.timeout(5):
            while len(self.events) < count:
                self._news.clear()
                await self._news.wait()
        await passed()
        return [type(event).__name__ for event in self.events]

    @property
    def error(self) -> str | None:
        return getattr(self.events[-1], "error", None)

    def start(self, instance: int = 1, model: str = "m", **more: object) -> None:
        """As the scheduler would have it; `more`: devices, reserved_mib."""
        command = StartInstance(instance=instance, model=model, devices=(), reserved_mib={})
        self.effects.start(replace(command, **more))  # type: ignore[arg-type]

    def wake(self, instance: int = 1, model: str = "m") -> None:
        self.effects.wake(WakeInstance(instance=instance, model=model, devices=(), reserved_mib={}))

    async def loaded(self, instance: int = 1, model: str = "m") -> Process:
        self.start(instance, model)
        process = await self.launcher.next()
        count = len(self.events)
        process.output.say("ready")
        await self.until(count + 1)
        return process


async def passed() -> None:
    """Everything that could happen now has happened."""
    for _ in range(20):
        await asyncio.sleep(0)
