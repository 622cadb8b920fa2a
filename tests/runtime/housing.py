"""Effects over real processes: what the tests of loading start, ask and wait for."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import httpx

from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan, no_signal
from llm_router.backends.tabbyapi import TabbyAPI
from llm_router.core.commands import StartInstance
from llm_router.core.events import Event, InstanceGone
from llm_router.errors import LaunchError
from llm_router.launchers.base import RunningProcess
from llm_router.launchers.process import ProcessLauncher
from llm_router.relay.pool import Pool
from llm_router.runtime.effects import Effects
from llm_router.runtime.instances import Instance, Launch
from llm_router.runtime.learning import RecentLoads
from llm_router.runtime.tasks import Tasks

T = TypeVar("T")

PROGRAMS = Path(__file__).parents[1] / "programs"
ADMIN_KEY = "the-admin-key"


class Impatient(TabbyAPI):
    """TabbyAPI, but with little time to unload and to end."""

    kind = "impatient"

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        spec = super().launch(request, probe_output)
        assert spec.load is not None
        load = replace(spec.load, unload=replace(spec.load.unload, limit_s=0.2))
        return replace(spec, load=load, stop=StopPlan(grace_s=0.1, kill_after_s=0.1))


class Deaf(TabbyAPI):
    """TabbyAPI, but what it says in its stream isn't understood."""

    kind = "deaf"

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        spec = super().launch(request, probe_output)
        assert spec.load is not None
        return replace(spec, load=replace(spec.load, read_event=no_signal))


@dataclass
class TabbyFolder:
    """A folder to run TabbyAPI in, with models in it."""

    path: Path

    def __post_init__(self) -> None:
        (self.path / "models").mkdir(parents=True)
        (self.path / "api_tokens.yml").write_text(f"api_key: the-api-key\nadmin_key: {ADMIN_KEY}\n")

    def model(self, name: str, **files: str) -> None:
        """`files`: what is in the model's folder, by name; see `fake_tabbyapi`."""
        folder = self.path / "models" / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)

    def command(self, *options: str) -> tuple[str, ...]:
        return (sys.executable, "-IS", str(PROGRAMS / "fake_tabbyapi.py"), "--port", "${PORT}", *options)

    def launch(self, model: str, *options: str, port: int | None = None, **more: object) -> Launch:
        self.model(model)
        request = LaunchRequest(
            model=model,
            port=0,
            command=self.command(*options),
            directory=str(self.path),
            model_name=model,
            admin_key=ADMIN_KEY,
        )
        launch = Launch(backend=TabbyAPI(), request=request, fixed_port=port, load_timeout_s=20.0)
        return replace(launch, **more)  # type: ignore[arg-type]

    def remote(self, model: str, port: int) -> Launch:
        self.model(model)
        url = f"http://127.0.0.1:{port}"
        request = LaunchRequest(model=model, port=0, url=url, model_name=model, admin_key=ADMIN_KEY)
        return Launch(backend=TabbyAPI(), request=request, fixed_port=None, load_timeout_s=20.0)


class Diary:
    """A `Watch` that notes what it is told. `grown_at`: what it says of any memory; `is_full`: the next one finds no
    room."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.is_full = False
        self.grown_at = -math.inf

    async def room(self, instance: int, model: str, devices: tuple[str, ...], reserved_mib: Mapping[str, int]) -> None:
        self.told.append(("room", instance, devices, dict(reserved_mib)))
        if self.is_full:
            self.is_full = False
            raise LaunchError(f"cannot load {model}: no room")

    def began(self, instance: int, pid: int, devices: tuple[str, ...]) -> None:
        self.told.append(("began", instance, pid))

    def ended(self, instance: int) -> None:
        self.told.append(("ended", instance))

    def grew(self, instance: int) -> float:
        return self.grown_at

    def peak_mib(self, instance: int) -> Mapping[str, int]:
        return {"0": 1000 + instance}


@dataclass
class House:
    """One router's effects. `launches` by model; `state`: its state folder."""

    launches: dict[str, Launch]
    state: Path
    tasks: Tasks = field(default_factory=Tasks)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._news = asyncio.Event()
        self.watch = Diary()
        self.history = RecentLoads()
        self.launcher = ProcessLauncher(self.state)
        self.effects = Effects(
            launches=self.launches,
            launcher=self.launcher,
            pool=Pool(spawn=self.tasks.spawn, timeout_s=5),
            tasks=self.tasks,
            post=self._post,
            now=asyncio.get_running_loop().time,
            watch=self.watch,
            history=self.history,
        )

    def _post(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, count: int) -> list[str]:
        async with asyncio.timeout(20):
            while len(self.events) < count:
                self._news.clear()
                await self._news.wait()
        return [type(event).__name__ for event in self.events]

    def start(self, instance: int, model: str, **more: object) -> None:
        command = StartInstance(instance=instance, model=model, devices=("0",), reserved_mib={"0": 100})
        self.effects.start(replace(command, **more))  # type: ignore[arg-type]

    async def load(self, instance: int, model: str, **more: object) -> int:
        """Returns the process id; 0 for a remote server."""
        self.start(instance, model, **more)
        assert (await self.until(len(self.events) + 1))[-1] == "InstanceReady", self.error
        process = self.record(instance).process
        return 0 if process is None else process.pid

    async def unload(self, instance: int) -> None:
        self.effects.stop(instance)
        assert (await self.until(len(self.events) + 1))[-1] == "InstanceGone"

    def record(self, instance: int) -> Instance:
        return self.effects.instances[instance]

    @property
    def error(self) -> str:
        return getattr(self.events[-1], "error", None) or ""

    @property
    def gone(self) -> InstanceGone:
        event = self.events[-1]
        assert isinstance(event, InstanceGone)
        return event

    async def who_answers(self, instance: int) -> str:
        """The model that a chat on this instance comes from."""
        spec = self.record(instance).spec
        assert spec is not None
        return await who_answers(spec.address.port)

    async def spawned(self, instance: int) -> RunningProcess:
        return await eventually(lambda: self.record(instance).process)

    async def close(self) -> None:
        for instance in list(self.effects.instances):
            self.effects.stop(instance)
        async with asyncio.timeout(20):
            while self.effects.instances:
                self._news.clear()
                await self._news.wait()
        await self.effects.end_spares()
        await self.tasks.close()
        self.launcher.close()

    async def die(self) -> None:
        """As after a `kill -9`: nothing is stopped."""
        await self.tasks.close()
        self.launcher.close()
        self.effects.instances.clear()


async def who_answers(port: int) -> str:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as http:
        reply = await http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={"messages": [], "max_tokens": 1})
    content = reply.json()["choices"][0]["message"]["content"]
    return str(content).removeprefix(" I am ").partition(":")[0]


async def eventually(look: Callable[[], T | None]) -> T:
    """What it sees, as soon as it sees something."""
    async with asyncio.timeout(20):
        while (seen := look()) is None:  # noqa: ASYNC110 - of what another process does there is no event
            await asyncio.sleep(0.005)
    return seen


def stop_dead(pid: int) -> None:
    """It hangs: its sockets stay open, and nobody answers."""
    os.kill(pid, signal.SIGSTOP)
