"""What a start is told about its place, what is asked and remembered around it, and how a server is told to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from housing import Diary
from scripted import Backend, Health, World, launch, left_behind, passed, remote

from llm_router.backends.base import Address, Facts, HttpCall, Inquiry, LaunchRequest, Parking, Readiness, StopPlan
from llm_router.core.events import InstanceAdopted, InstanceGone, KeepRequested
from llm_router.errors import LaunchError
from llm_router.history.base import LoadRecord
from llm_router.launchers import procfs
from llm_router.launchers.ports import Ports
from llm_router.models import tiny
from llm_router.runtime.instances import Launch, Unwatched
from llm_router.runtime.learning import RecentLoads

Make = Callable[..., World]


def placed(model: Launch, *devices: str, reserved_mib: Mapping[str, int] | None = None) -> LaunchRequest:
    """The request of a start there, on devices of 24000, 16000 and an unknown number of MiB."""
    sizes = {"0": 24000, "1": 16000}
    return model.request_on(4711, devices, reserved_mib or {}, sizes.get)


def configured(**more: Any) -> Launch:
    model = launch()
    return replace(model, request=replace(model.request, **more))


# -- devices


def test_a_start_is_told_its_devices_and_their_size() -> None:
    request = placed(configured(), "0", "1")
    assert (request.port, request.devices, request.device_mib) == (4711, ("0", "1"), 16000)


def test_a_size_that_is_unknown_stays_so() -> None:
    assert placed(configured(), "0", "2").device_mib is None


@pytest.mark.parametrize("device", ["cpu", "device"])
@pytest.mark.parametrize("devices", [None, (), ("3",)])
def test_without_a_gpu_what_is_configured_stays(device: str, devices: tuple[str, ...] | None) -> None:
    request = placed(configured(devices=devices), device, reserved_mib={device: 5})
    assert (request.devices, request.memory_mib, request.device_mib) == (devices, None, None)


def test_declared_memory_is_shared_out_as_it_was_reserved() -> None:
    request = placed(configured(memory_mib=30000), "0", "1", reserved_mib={"0": 18000, "1": 12000})
    assert request.memory_mib == 18000


def test_what_was_only_learned_limits_nobody() -> None:
    assert placed(configured(), "0", reserved_mib={"0": 18000}).memory_mib is None


async def test_the_place_is_kept_and_does_not_change_the_key(world: Make) -> None:
    backend = Backend()
    one = world(launch(backend=backend), device_mib={"1": 100}.get)
    key = one.launches["m"].key
    one.start(1, devices=("1",), reserved_mib={"1": 50})
    identity = (await one.launcher.next()).identity
    assert (identity.devices, identity.launch_key) == (("1",), key)
    assert (backend.asked[-1].devices, backend.asked[-1].device_mib) == (("1",), 100)


async def test_an_adopted_one_is_where_it_was(world: Make, health: Health) -> None:
    backend = Backend(port=health.port)
    model = launch(backend=backend)
    one = world(model)
    one.launcher.left = [left_behind(model, devices=("1",))]
    await one.effects.adopt()
    await one.until(2)
    adopted = one.events[0]
    assert isinstance(adopted, InstanceAdopted)
    assert adopted.devices == ("1",)
    assert backend.asked[-1].devices == ("1",)


# -- memory


async def test_nothing_is_started_before_there_is_room(world: Make) -> None:
    watch = Diary()
    watch.is_full = True
    one = world(launch(), watch=watch)
    one.start(1, devices=("0",), reserved_mib={"0": 7})
    assert await one.until(1) == ["InstanceGone"]
    assert one.error == "cannot load m: no room"
    assert one.launcher.started == []
    assert watch.told == [("room", 1, ("0",), {"0": 7}), ("ended", 1)]


async def test_the_watch_hears_of_every_process(world: Make) -> None:
    watch = Diary()
    one = world(launch(), watch=watch)
    process = await one.loaded()
    process.exit(1)
    await one.until(2)
    assert watch.told == [("room", 1, (), {}), ("began", 1, process.pid), ("ended", 1)]


@pytest.mark.parametrize(
    ("words", "lacked"), [("torch.OutOfMemoryError: CUDA out of memory.", True), ("error: no such file", False)]
)
async def test_a_lack_of_memory_is_told(world: Make, words: str, lacked: bool) -> None:
    one = world(launch())
    one.start()
    process = await one.launcher.next()
    process.output.say(words)
    process.exit(1)
    await one.until(1)
    gone = one.events[0]
    assert isinstance(gone, InstanceGone)
    assert gone.out_of_memory is lacked


@pytest.mark.parametrize("more", [1, 0])
async def test_what_the_kernel_ended_for_want_of_memory_is_told(
    world: Make, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    monkeypatch.setattr(procfs, "oom_kills", lambda: 7)
    one = world(launch())
    one.start()
    process = await one.launcher.next()
    monkeypatch.setattr(procfs, "oom_kills", lambda: 7 + more)
    process.exit(-9)
    await one.until(1)
    gone = one.events[0]
    assert isinstance(gone, InstanceGone)
    assert gone.out_of_memory is bool(more)
    assert ("ran out of memory" in (gone.error or "")) is bool(more)


async def test_a_wanted_end_lacks_nothing(world: Make) -> None:
    one = world(launch())
    process = await one.loaded()
    process.output.say("CUDA out of memory")
    one.effects.stop(1)
    await one.until(2)
    gone = one.events[1]
    assert isinstance(gone, InstanceGone)
    assert not gone.out_of_memory


# -- what is remembered


@dataclass
class Notebook(RecentLoads):
    records: list[LoadRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def add_load(self, record: LoadRecord) -> None:
        super().add_load(record)
        self.records.append(record)


async def test_a_load_is_remembered_with_its_warmth_and_its_peak(world: Make) -> None:
    book = Notebook()
    warm = iter([False, True])
    one = world(launch(), history=book, watch=Diary(), is_warm=lambda path: path == "m.gguf" and next(warm))
    for instance in (1, 2):
        await one.loaded(instance)
        one.effects.stop(instance)
        await one.until(2 * instance)
    assert [(record.model, record.warm, record.peak_mib, record.error) for record in book.records] == [
        ("m", False, {"0": 1001}, None),
        ("m", True, {"0": 1002}, None),
    ]
    assert {record.launch_key for record in book.records} == {one.launches["m"].key}


async def test_a_failed_load_is_remembered_and_a_stopped_one_is_not(world: Make) -> None:
    book = Notebook()
    one = world(launch(), history=book)
    one.start(1)
    (await one.launcher.next()).exit(1)
    await one.until(1)
    one.start(2)
    await one.launcher.next()
    one.effects.stop(2)
    await one.until(2)
    assert ["exited with status 1" in (record.error or "") for record in book.records] == [True]
    assert one.effects.estimate_s("m") is None, "a failure says nothing about how long a load takes"


async def test_an_estimate_comes_from_loads_of_the_same_warmth(world: Make) -> None:
    book = RecentLoads()
    one = world(launch(), history=book, is_warm=lambda _: True)
    record = LoadRecord(at=0.0, model="m", launch_key=one.launches["m"].key, took_s=20.0, warm=False)
    for took_s, warm in ((30.0, False), (20.0, False), (90.0, False), (3.0, True)):
        book.add_load(replace(record, took_s=took_s, warm=warm))
    book.add_load(replace(record, launch_key="another", took_s=500.0))
    assert one.effects.estimate_s("m") == 30.0
    one.start()
    await one.launcher.next()
    assert one.effects.estimate_s("m") == 3.0


async def test_being_woken_is_remembered_apart_and_estimated_from_the_last_times(world: Make, health: Health) -> None:
    """Also by a router that finds it parked; and a wake that fails says nothing about how long it takes."""
    book = Notebook()
    calls = Parking(park=HttpCall(method="POST", path="/park"), wake=HttpCall(method="POST", path="/wake"))
    one = world(launch(backend=Backend(port=health.port, changes={"parking": calls})), history=book)
    await one.loaded()
    book.records.clear()
    key = one.launches["m"].key
    book.add_load(LoadRecord(at=0.0, model="m", launch_key=key, took_s=60.0, warm=False))
    assert one.effects.estimate_s("m") == pytest.approx(30.0, abs=2.0)
    one.effects.park(1)
    await one.until(2)
    assert one.effects.estimate_s("m") is None, "it was never woken"
    book.add_load(LoadRecord(at=0.0, model="m", launch_key=key, took_s=3.0, warm=False, woken=True))
    assert one.effects.estimate_s("m") == 3.0
    book.records.clear()
    one.wake()
    assert await one.until(3) == ["InstanceReady", "InstanceParked", "InstanceReady"]
    one.effects.park(1)
    await one.until(4)
    health.status = 500
    one.wake()
    await one.until(5)
    assert [(record.model, record.woken, record.error is None) for record in book.records] == [
        ("m", True, True),
        ("m", True, False),
    ]
    assert {record.launch_key for record in book.records} == {key}


async def test_how_long_a_client_wants_a_model_kept_outlives_the_router(world: Make, health: Health) -> None:
    model = launch(backend=Backend(port=health.port))
    one = world(model)
    process = await one.loaded()
    one.effects.keep("m", 90.0)
    assert process.identity.keep_s == 90.0
    another = world(model)
    another.launcher.left = [left_behind(model, keep_s=process.identity.keep_s)]
    await another.effects.adopt()
    assert await another.until(3) == ["InstanceAdopted", "KeepRequested", "InstanceReady"]
    assert isinstance(another.events[1], KeepRequested)
    assert (another.events[1].model, another.events[1].keep_s) == ("m", 90.0)


async def test_a_wish_for_what_is_not_there_or_leaves_is_nobodys(world: Make) -> None:
    one = world(launch(), launch("other"))
    process = await one.loaded()
    one.effects.keep("other", 90.0)
    process.lingers = asyncio.Event()
    one.effects.stop(1)
    one.effects.keep("m", 90.0)
    assert process.identity.keep_s is None
    process.lingers.set()
    await one.until(2)


class FullHost(Unwatched):
    """The host has no room for weights. `asked`: for how many MiB."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    async def host_room(self, instance: int, model: str, weights_mib: int | None) -> None:
        self.asked.append(weights_mib)
        raise LaunchError(f"cannot park {model}: the host is full")


async def test_a_server_whose_weights_the_host_cannot_take_is_stopped_and_not_asked(
    world: Make, health: Health, tmp_path: Path
) -> None:
    calls = Parking(park=HttpCall(method="POST", path="/park"), wake=HttpCall(method="POST", path="/wake"))
    model = launch(backend=Backend(port=health.port, changes={"parking": calls}))
    path = tiny.write(tmp_path / "m.gguf", name="m", seed=1, count=5)
    host = FullHost()
    one = world(replace(model, request=replace(model.request, path=str(path))), watch=host)
    process = await one.loaded()
    one.effects.park(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert one.error is not None and one.error.startswith("cannot park m: the host is full")
    assert len(process.stops) == 1 and health.paths == []
    assert host.asked == [pytest.approx(path.stat().st_size / 2**20, abs=1)]


async def test_what_somebody_else_runs_is_not_remembered(world: Make, health: Health) -> None:
    book = Notebook()
    one = world(remote("far", health.port), history=book)
    one.start(1, "far")
    await one.until(1)
    assert book.records == []


# -- what a ready server says of itself


def inquiry(path: str, facts: Facts) -> Inquiry:
    return Inquiry(call=HttpCall(method="GET", path=path), read=lambda _: facts)


async def test_facts_are_asked_once_it_is_ready_and_hold_nobody_up(world: Make, health: Health) -> None:
    facts = (inquiry("/one", Facts(slots=4)), inquiry("/two", Facts(slots=8, context_length=4096)))
    one = world(launch(backend=Backend(port=health.port, changes={"facts": facts})))
    health.status = None
    await one.loaded()
    assert await one.until(1) == ["InstanceReady"]
    assert one.effects.instances[1].facts == Facts()
    async with asyncio.timeout(5):
        await health.asked.wait()


async def test_the_first_answer_that_knows_something_wins(world: Make, health: Health) -> None:
    facts = (inquiry("/one", Facts(slots=4)), inquiry("/two", Facts(slots=8, context_length=4096)))
    one = world(launch(backend=Backend(port=health.port, changes={"facts": facts})))
    await one.loaded()
    async with asyncio.timeout(5):
        while one.effects.instances[1].facts.context_length is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert one.effects.instances[1].facts == Facts(slots=4, context_length=4096)


# -- how it is told to leave


def leaving(health: Health, limit_s: float = 5.0) -> Launch:
    plan = StopPlan(before=HttpCall(method="POST", path="/abort", limit_s=limit_s), grace_s=7.0)
    return launch(backend=Backend(port=health.port, changes={"stop": plan}))


@pytest.mark.parametrize("status", [200, 500])
async def test_a_server_is_asked_to_give_up_first(world: Make, health: Health, status: int) -> None:
    one = world(leaving(health))
    process = await one.loaded()
    health.status = status
    health.paths.clear()
    one.effects.stop(1)
    await one.until(2)
    assert health.paths == ["/abort"]
    assert [plan.grace_s for plan in process.stops] == [7.0]


async def test_it_is_not_waited_for_longer_than_its_limit(world: Make, health: Health) -> None:
    one = world(leaving(health, limit_s=0.05))
    process = await one.loaded()
    health.status = None
    one.effects.stop(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert len(process.stops) == 1


async def test_what_never_served_has_nothing_to_give_up(world: Make, health: Health) -> None:
    one = world(leaving(health))
    health.status = 503
    one.start()
    process = await one.launcher.next()
    one.effects.stop(1)
    await one.until(1)
    assert "/abort" not in health.paths
    assert len(process.stops) == 1


async def test_a_server_that_hangs_is_asked_nothing_and_given_no_grace(
    world: Make, health: Health, short_checks: None
) -> None:
    one = world(leaving(health))
    process = await one.loaded()
    health.paths.clear()
    health.status = None
    one.effects.check(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert "/abort" not in health.paths
    assert [(plan.grace_s, plan.kill_after_s) for plan in process.stops] == [(0.0, 0.0)]


# -- secrets


async def test_the_servers_secrets_are_hidden_in_its_output(world: Make) -> None:
    changes = {"secrets": ("one-secret",), "credential": "its-key", "env": {"HF_TOKEN": "hf_abc", "PORT": "4711"}}
    one = world(launch(backend=Backend(changes=changes)))
    process = await one.loaded()
    assert process.output.hidden == {"one-secret", "its-key", "hf_abc"}


# -- equal endpoints


async def test_the_next_endpoint_takes_the_place_of_one_that_is_gone(
    world: Make, health: Health, short_checks: None
) -> None:
    second = Health()
    await second.up()
    model = remote("far", health.port)
    other = Address(host="127.0.0.1", port=second.port)
    changes = {"alternatives": (other,), "readiness": Readiness(path="/v1/models")}
    one = world(replace(model, backend=Backend(port=health.port, changes=changes)))
    one.start(1, "far")
    await one.until(1)
    assert one.effects.upstream_of(1).port == health.port

    await health.down()
    one.effects.check(1)
    assert (await one.until(2))[-1] == "InstanceGone"
    one.start(2, "far")
    await one.until(3)
    assert one.effects.upstream_of(2).port == second.port
    one.effects.check(2)
    assert (await one.until(4))[-1] == "InstanceReady"

    await second.down()
    one.start(3, "far")
    await one.until(5)
    assert f"cannot reach far at 127.0.0.1:{health.port}, 127.0.0.1:{second.port}" in (one.error or "")


# -- a port that somebody else has


async def test_an_answer_of_somebody_who_was_there_before_is_not_believed(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise LaunchError("cannot use m: pid 1 (other) has its port 30000")

    monkeypatch.setattr("llm_router.launchers.probe.refuse_squatter", refuse)
    one = world(launch("m", fixed_port=Ports().take()), launch("n"))
    one.start(1, "m")
    (await one.launcher.next()).output.say("ready")
    assert await one.until(1) == ["InstanceGone"]
    one.start(2, "n")
    (await one.launcher.next()).output.say("ready")
    await passed()
    assert (await one.until(2))[-1] == "InstanceReady", "a port that we chose was nobody's"
