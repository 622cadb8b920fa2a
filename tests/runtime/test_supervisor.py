"""The whole runtime with scripted servers: requests, loads and the last phase, in every state an instance can be in."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest
from scripted import Backend, Health, Launcher, launch, passed, remote

from llm_router.core.commands import CancelTimer, Command, SetTimer
from llm_router.core.events import LoadRequested
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.errors import LlmRouterError
from llm_router.relay.lease import Upstream
from llm_router.runtime import hosts
from llm_router.runtime.instances import Launch
from llm_router.runtime.supervisor import Supervisor


class Waiter:
    """Notes what it is told; with `is_broken`, it fails at being granted."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.is_broken = is_broken
        self.told: asyncio.Future[Upstream | LlmRouterError] = asyncio.get_running_loop().create_future()

    def granted(self, request: int, upstream: Upstream) -> None:
        if self.is_broken:
            raise RuntimeError("a bug in the relay")
        self.told.set_result(upstream)

    def refused(self, error: LlmRouterError) -> None:
        self.told.set_result(error)

    def cut(self, error: LlmRouterError) -> None:
        self.told.set_result(error)


class Runtime:
    def __init__(self, *launches: Launch, leave_on_exit: bool = False, **specs: object) -> None:
        self.launcher = Launcher()
        names = [launch.request.model for launch in launches]
        self.supervisor = Supervisor(
            models={name: ModelSpec(name=name, footprint_mib=0, **specs) for name in names},  # type: ignore[arg-type]
            policy=PolicySpec(),
            launches={launch.request.model: launch for launch in launches},
            launcher=self.launcher,
            response_timeout_s=5,
            leave_on_exit=leave_on_exit,
        )

    def ask(self, model: str = "m", *, is_broken: bool = False) -> tuple[int, Waiter]:
        waiter = Waiter(is_broken=is_broken)
        return self.supervisor.leases.open(model, request_class="normal", waiter=waiter), waiter

    async def load(self, model: str = "m") -> None:
        self.supervisor.load(model)
        process = await self.launcher.next()
        change = asyncio.ensure_future(self.supervisor.changed())  # noqa: TID251
        process.output.say("ready")
        async with asyncio.timeout(5):
            await change

    async def close(self) -> None:
        async with asyncio.timeout(5):
            await self.supervisor.close()


@pytest.fixture
async def runtime() -> AsyncIterator[Callable[..., Runtime]]:
    made: list[Runtime] = []

    def make(*launches: Launch, leave_on_exit: bool = False, **specs: object) -> Runtime:
        made.append(Runtime(*launches, leave_on_exit=leave_on_exit, **specs))
        return made[-1]

    yield make
    for one in made:
        await one.close()


Make = Callable[..., Runtime]


async def test_a_server_is_told_the_size_of_the_device_it_was_placed_on() -> None:
    backend = Backend()
    launcher = Launcher()
    supervisor = Supervisor(
        models={"m": ModelSpec(name="m", footprint_mib=9000)},
        policy=PolicySpec(budgets={"0": 23000}),
        launches={"m": launch(backend=backend)},
        launcher=launcher,
        response_timeout_s=5,
        device_mib={"0": 24000}.get,
    )
    supervisor.load("m")
    await launcher.next()
    assert (backend.asked[-1].devices, backend.asked[-1].device_mib) == (("0",), 24000)
    await supervisor.close()


# -- a mistake of ours


async def test_a_relay_that_fails_at_its_grant_costs_that_request_alone(
    runtime: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = runtime(launch(), concurrency=1)
    await one.load()
    _, broken = one.ask(is_broken=True)
    assert isinstance(broken.told.result(), LlmRouterError)
    assert "a bug in the relay" in caplog.text
    _, next_one = one.ask()
    assert isinstance(next_one.told.result(), Upstream), "its place is free again"


async def test_a_command_that_fails_costs_the_others_nothing(
    runtime: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = runtime(launch(), idle_timeout_s=60.0)
    await one.load()
    carry_out = one.supervisor.handle._carry_out

    def fail_at_timers(command: Command) -> None:
        if isinstance(command, SetTimer | CancelTimer):
            raise RuntimeError("a bug with timers")
        carry_out(command)

    monkeypatch.setattr(one.supervisor.handle, "_carry_out", fail_at_timers)
    request, _ = one.ask()
    one.supervisor.leases.close(request)
    one.supervisor.unload("m")
    change = asyncio.ensure_future(one.supervisor.changed())  # noqa: TID251
    async with asyncio.timeout(5):
        await change
    assert "a bug with timers" in caplog.text
    assert one.supervisor.instance_of("m") is None


async def test_a_crashed_task_is_logged_with_its_name(runtime: Make, caplog: pytest.LogCaptureFixture) -> None:
    async def crash() -> None:
        raise RuntimeError("a bug in a task")

    one = runtime(launch())
    one.supervisor.tasks.spawn("the-name", crash())
    await passed()
    assert "task the-name crashed" in caplog.text
    assert "a bug in a task" in caplog.text


async def test_a_load_that_crashes_refuses_who_waits(runtime: Make) -> None:
    one = runtime(launch())
    one.launcher.fails = RuntimeError("a bug in a launcher")
    _, waiter = one.ask()
    async with asyncio.timeout(5):
        told = await waiter.told
    assert isinstance(told, LlmRouterError)
    assert told.code == "model_load_failed"


async def test_a_server_that_is_only_silent_goes_on_being_granted(runtime: Make, health: Health) -> None:
    one = runtime(launch(port=health.port))
    await one.load()
    instance = one.supervisor.instance_of("m")
    assert instance is not None
    health.late = asyncio.Event()
    one.supervisor.leases.suspect(instance)
    async with asyncio.timeout(5):
        await health.asked.wait()
    _, waiter = one.ask()
    assert waiter.told.done(), "it may just be busy with somebody's long prompt"
    health.late.set()


async def test_a_server_that_broke_off_is_granted_again_once_it_has_answered(runtime: Make, health: Health) -> None:
    one = runtime(launch(port=health.port))
    await one.load()
    request, _ = one.ask()
    health.late = asyncio.Event()
    one.supervisor.leases.suspect(1)
    one.supervisor.leases.close(request, lost=True)
    _, waiter = one.ask()
    assert not waiter.told.done()
    health.late.set()
    async with asyncio.timeout(5):
        assert isinstance(await waiter.told, Upstream)


# -- the last phase


async def test_instances_in_every_state_are_gone_at_the_end(
    runtime: Make, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "CHECK_S", 60.0)
    names = ("ready", "busy", "suspect", "stopping", "starting", "spawning")
    one = runtime(*(launch(name, port=health.port) for name in names), remote("remote", health.port))
    for name in ("ready", "busy", "suspect", "stopping"):
        await one.load(name)
    one.ask("busy")
    request, _ = one.ask("suspect")
    health.status = None
    one.supervisor.leases.close(request, lost=True)
    one.launcher.started[3].lingers = asyncio.Event()
    one.supervisor.unload("stopping")
    health.status = 200
    one.supervisor.load("remote")
    await one.supervisor.changed()
    one.supervisor.load("starting")
    await one.launcher.next()
    one.launcher.held = asyncio.Event()
    one.supervisor.load("spawning")
    await passed()
    assert len(one.supervisor.effects.instances) == 7
    closing = asyncio.ensure_future(one.supervisor.close())  # noqa: TID251
    await passed()
    assert not closing.done(), "one of them still uses its grace"
    one.launcher.started[3].lingers.set()
    async with asyncio.timeout(5):
        await closing
    assert one.supervisor.effects.instances == {}
    assert [len(process.stops) for process in one.launcher.started] == [1] * 5
    assert one.launcher.is_closed


async def test_what_is_to_stay_stays_and_what_is_leaving_leaves(runtime: Make) -> None:
    one = runtime(launch("ready"), launch("starting"), launch("stopping"), leave_on_exit=True)
    await one.load("ready")
    await one.load("stopping")
    one.launcher.started[1].lingers = asyncio.Event()
    one.supervisor.unload("stopping")
    one.supervisor.load("starting")
    await one.launcher.next()
    closing = asyncio.ensure_future(one.supervisor.close())  # noqa: TID251
    await passed()
    assert not closing.done()
    one.launcher.started[1].lingers.set()
    async with asyncio.timeout(5):
        await closing
    assert [len(process.stops) for process in one.launcher.started] == [0, 1, 0]
    assert one.launcher.is_closed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_last_phase_ends_the_grace(runtime: Make, number: signal.Signals) -> None:
    one = runtime(launch())
    await one.load()
    (process,) = one.launcher.started
    process.lingers = asyncio.Event()
    closing = asyncio.ensure_future(one.supervisor.close())  # noqa: TID251
    await passed()
    os.kill(os.getpid(), number)
    async with asyncio.timeout(5):
        await closing
    assert [plan.grace_s for plan in process.stops] == [7.0, 0.0]


async def test_nothing_is_started_in_the_last_phase(runtime: Make) -> None:
    one = runtime(launch("m"), launch("n"))
    await one.load("m")
    one.launcher.started[0].lingers = asyncio.Event()
    closing = asyncio.ensure_future(one.supervisor.close())  # noqa: TID251
    await passed()
    _, waiter = one.ask("n")
    one.supervisor.handle.post(LoadRequested(at=0.0, model="n"))
    told = waiter.told.result()
    assert isinstance(told, LlmRouterError)
    assert told.code == "shutting_down"
    one.launcher.started[0].lingers.set()
    async with asyncio.timeout(5):
        await closing
    assert len(one.launcher.started) == 1
