"""One server for many models: it is given them one after the other, and no request may reach the wrong one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from housing import ADMIN_KEY, PROGRAMS, Deaf, House, Impatient, TabbyFolder, eventually, stop_dead, who_answers

from llm_router.backends.base import LaunchRequest
from llm_router.backends.openai import OpenAI
from llm_router.core.events import InstanceAdopted
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.launchers import procfs
from llm_router.launchers.ports import Ports
from llm_router.launchers.process import ProcessLauncher
from llm_router.runtime import hosts, spares
from llm_router.runtime.instances import Launch
from llm_router.runtime.supervisor import Supervisor

Build = Callable[..., House]


@pytest.fixture
def tabby(tmp_path: Path) -> TabbyFolder:
    return TabbyFolder(tmp_path / "tabby")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Build]:
    houses: list[House] = []

    def build(*launches: Launch) -> House:
        houses.append(House({launch.request.model: launch for launch in launches}, tmp_path / "state"))
        return houses[-1]

    yield build
    for one in houses:
        await one.close()


def is_running(pid: int) -> bool:
    stat = procfs.read_stat(pid)
    return stat is not None and stat.is_alive


def reap(pid: int) -> None:
    """Both routers are this process, so what the first one let go is still its child."""
    os.waitpid(pid, 0)


# -- a load


async def test_a_server_is_started_and_given_its_model(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"))
    await one.load(1, "a")
    assert await one.who_answers(1) == "a"
    assert one.record(1).facts.models == ("a",)
    assert one.record(1).facts.context_length == 4096


async def test_each_step_of_a_load_is_told(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a", "--startup-s", "0.2", "--modules", "4"))
    one.start(1, "a")
    await eventually(lambda: one.record(1).loading.fraction == 0.5 or None)
    assert one.record(1).loading.stage == "model"


async def test_the_next_model_takes_the_server_over(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"), tabby.launch("b"))
    first = await one.load(1, "a")
    await one.unload(1)
    assert is_running(first)
    second = await one.load(2, "b")
    assert second == first
    assert await one.who_answers(2) == "b"
    assert one.effects.last_process_of("a") is one.effects.last_process_of("b")


async def test_the_memory_is_the_next_models_from_then_on(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"), tabby.launch("b"))
    pid = await one.load(1, "a")
    await one.unload(1)
    await one.load(2, "b")
    assert one.watch.told == [
        ("room", 1, ("0",), {"0": 100}),
        ("began", 1, pid),
        ("ended", 1),
        ("room", 2, ("0",), {"0": 100}),
        ("began", 2, pid),
    ]


async def test_a_failed_load_tells_the_servers_words_and_leaves_the_server(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("bad"), tabby.launch("good"))
    (tabby.path / "models" / "bad" / "failure").write_text("Insufficient VRAM in split for model and cache")
    one.start(1, "bad")
    process = await one.spawned(1)
    assert await one.until(1) == ["InstanceGone"]
    assert one.error == "cannot load bad: Insufficient VRAM in split for model and cache"
    assert one.gone.out_of_memory
    assert await one.load(2, "good") == process.pid
    assert await one.who_answers(2) == "good"


async def test_a_refused_load_tells_why(house: Build, tabby: TabbyFolder) -> None:
    launch = tabby.launch("a")
    (tabby.path / "models" / "a").rmdir()
    one = house(launch)
    one.start(1, "a")
    assert await one.until(1) == ["InstanceGone"]
    assert one.error.startswith("cannot load a: Could not find the model path")
    assert not one.gone.out_of_memory


async def test_a_wrong_key_is_told(house: Build, tabby: TabbyFolder) -> None:
    launch = tabby.launch("a")
    one = house(replace(launch, request=replace(launch.request, admin_key="another-key")))
    one.start(1, "a")
    assert await one.until(1) == ["InstanceGone"]
    assert one.error == "cannot load a: Invalid admin key"


async def test_the_end_of_a_load_alone_is_no_proof(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a", backend=Deaf()))
    (tabby.path / "models" / "a" / "failure").write_text("a failure that nobody hears")
    one.start(1, "a")
    assert await one.until(1) == ["InstanceGone"]
    assert one.error == "cannot load a: its server has nothing loaded, not a; look into its log"


async def test_keys_in_a_servers_words_are_not_shown(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"))
    (tabby.path / "models" / "a" / "failure").write_text(f"no good: {ADMIN_KEY}")
    one.start(1, "a")
    await one.until(1)
    assert one.error == "cannot load a: no good: ***"


# -- what becomes of the server


async def test_a_stop_during_a_load_ends_the_server(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a", "--never-ready"), tabby.launch("b"))
    one.start(1, "a")
    process = await one.spawned(1)
    await eventually(lambda: one.record(1).loading.fraction)
    one.effects.stop(1)
    assert await one.until(1) == ["InstanceGone"]
    assert one.error == ""
    assert process.exited.result() == -signal.SIGKILL
    assert await one.load(2, "b") != process.pid


async def test_a_load_that_takes_too_long_ends_the_server(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a", "--never-ready", load_timeout_s=1.0))
    one.start(1, "a")
    process = await one.spawned(1)
    assert await one.until(1) == ["InstanceGone"]
    assert one.error.startswith("cannot use a: not ready after")
    assert process.exited.done()


async def test_pings_are_no_progress(house: Build, tabby: TabbyFolder) -> None:
    launch = tabby.launch("a", "--never-ready", "--ping-s", "0.02", stall_timeout_s=0.4)
    one = house(launch)
    one.start(1, "a")
    process = await one.spawned(1)
    assert await one.until(1) == ["InstanceGone"]
    assert "hangs while loading, no output, no progress and no growth of its memory for 0.4 s" in one.error
    assert process.exited.done()


async def test_growing_memory_is_progress(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a", "--startup-s", "0.6", "--modules", "1", stall_timeout_s=0.3))
    one.watch.grown_at = asyncio.get_running_loop().time() + 1.0
    await one.load(1, "a")


async def test_a_server_that_dies_while_it_loads_tells_how(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a", "--never-ready"))
    one.start(1, "a")
    process = await one.spawned(1)
    await eventually(lambda: one.record(1).loading.fraction)
    os.kill(process.pid, signal.SIGKILL)
    assert await one.until(1) == ["InstanceGone"]
    assert one.error.startswith("cannot use a: it was killed by SIGKILL while loading")


async def test_a_server_that_dies_under_its_model_is_gone_at_once(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"), tabby.launch("b"))
    await one.load(1, "a")
    await one.unload(1)
    pid = await one.load(2, "b")
    os.kill(pid, signal.SIGKILL)
    assert (await one.until(4))[-1] == "InstanceGone"
    assert one.error.startswith("cannot use b any more: it was killed by SIGKILL")
    assert await one.load(3, "b") != pid


async def test_a_server_that_does_not_give_its_model_back_is_ended(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a", backend=Impatient()))
    pid = await one.load(1, "a")
    stop_dead(pid)
    one.effects.stop(1)
    await one.until(2)
    assert not is_running(pid)


async def test_a_spare_that_ends_is_forgotten(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"))
    pid = await one.load(1, "a")
    process = one.record(1).process
    assert process is not None
    await one.unload(1)
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait([process.exited])
    assert await one.load(2, "a") != pid


async def test_a_spare_that_hangs_is_replaced(
    house: Build, tabby: TabbyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "CHECK_S", 0.2)
    one = house(tabby.launch("a"))
    pid = await one.load(1, "a")
    await one.unload(1)
    stop_dead(pid)
    assert await one.load(2, "a") != pid
    assert not is_running(pid)


async def test_a_spare_is_not_kept_for_ever(house: Build, tabby: TabbyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "IDLE_S", 0.01)
    one = house(tabby.launch("a"))
    await one.load(1, "a")
    process = one.record(1).process
    assert process is not None
    await one.unload(1)
    async with asyncio.timeout(10):
        await asyncio.wait([process.exited])


async def test_spares_are_ended_in_the_last_phase(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"))
    pid = await one.load(1, "a")
    await one.unload(1)
    await one.effects.end_spares()
    assert not is_running(pid)


async def test_servers_that_are_not_alike_are_not_taken_over(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"), tabby.launch("b", "--modules", "3"))
    first = await one.load(1, "a")
    await one.unload(1)
    assert await one.load(2, "b", devices=("1",)) != first
    assert await one.load(3, "a") == first, "it was kept for a model of its own kind"


async def test_a_spare_leaves_the_device_that_another_server_is_started_on(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"), tabby.launch("b", "--modules", "3"))
    first = await one.load(1, "a")
    await one.unload(1)
    await one.load(2, "b")
    assert not is_running(first)


async def test_a_spare_that_leaves_too_little_room_is_replaced(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"))
    first = await one.load(1, "a")
    await one.unload(1)
    one.watch.is_full = True
    assert await one.load(2, "a") != first
    assert not is_running(first)


async def test_a_spare_makes_way_on_its_configured_port(house: Build, tabby: TabbyFolder) -> None:
    port = Ports().take()
    one = house(tabby.launch("a", port=port), tabby.launch("b", "--modules", "3", port=port))
    first = await one.load(1, "a")
    await one.unload(1)
    await one.load(2, "b")
    assert not is_running(first)
    assert await who_answers(port) == "b"
    await one.unload(2)
    assert await one.load(3, "b")
    assert await who_answers(port) == "b"


# -- a later router


async def restarted(one: House) -> House:
    await one.die()
    later = House(one.launches, one.state)
    await later.effects.adopt()
    return later


async def test_the_model_of_a_server_that_was_taken_over_is_adopted(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"), tabby.launch("b"))
    await one.load(1, "a")
    await one.unload(1)
    pid = await one.load(2, "b")
    later = await restarted(one)
    assert await later.until(2) == ["InstanceAdopted", "InstanceReady"]
    adopted = later.events[0]
    assert isinstance(adopted, InstanceAdopted)
    assert (adopted.instance, adopted.model, adopted.devices) == (2, "b", ("0",))
    assert await later.who_answers(2) == "b"
    await later.unload(2)
    assert await later.load(3, "a") == pid, "an adopted server serves others too"
    await later.close()
    reap(pid)


async def test_a_spare_of_an_earlier_router_is_ended_without_a_word(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"))
    pid = await one.load(1, "a")
    await one.unload(1)
    later = await restarted(one)
    assert later.events == []
    assert not is_running(pid)
    await later.close()
    reap(pid)


async def test_a_server_that_has_another_model_than_it_should_is_not_adopted(house: Build, tabby: TabbyFolder) -> None:
    one = house(tabby.launch("a"), tabby.launch("b"))
    pid = await one.load(1, "a")
    (entry,) = (one.state / "instances").glob("*.json")
    values = json.loads(entry.read_text())
    values["identity"] |= {"model": "b", "launch_key": one.launches["b"].key}
    entry.write_text(json.dumps(values))
    later = await restarted(one)
    assert await later.until(2) == ["InstanceAdopted", "InstanceGone"]
    assert "its server doesn't have it loaded" in later.error
    await later.close()
    reap(pid)


# -- somebody else's server


@pytest.fixture
async def server(tabby: TabbyFolder, unused_tcp_port: int) -> AsyncIterator[int]:
    """The port of a server that isn't ours."""
    argv = (sys.executable, "-IS", str(PROGRAMS / "fake_tabbyapi.py"), "--port", str(unused_tcp_port))
    child = await asyncio.create_subprocess_exec(*argv, cwd=tabby.path, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    while b"Completions" not in await child.stdout.readline():  # then its port is open
        pass
    yield unused_tcp_port
    child.kill()
    await child.wait()


async def admin(port: int, path: str, body: object = None) -> httpx.Response:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as http:
        return await http.post(f"http://127.0.0.1:{port}{path}", json=body)


async def test_a_server_at_a_url_is_loaded_and_given_back(house: Build, tabby: TabbyFolder, server: int) -> None:
    one = house(tabby.remote("a", server))
    await one.load(1, "a")
    assert await who_answers(server) == "a"
    await one.unload(1)
    assert (await admin(server, "/v1/model/unload")).status_code == 503, "it has no model any more"


async def test_what_a_server_at_a_url_has_already_is_not_loaded_again(
    house: Build, tabby: TabbyFolder, server: int
) -> None:
    one = house(tabby.remote("a", server))
    await admin(server, "/v1/model/load", {"model_name": "a"})
    await one.load(1, "a")
    assert one.record(1).loading.fraction is None
    assert one.record(1).facts.models == ("a",)


async def test_a_request_that_never_ends_does_not_keep_a_load_waiting(
    house: Build, tabby: TabbyFolder, server: int
) -> None:
    one = house(tabby.remote("a", server), tabby.remote("b", server))
    await one.load(1, "a")
    endless = {"messages": [], "stream": True, "fault": "stall_after_1"}
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    url = f"http://127.0.0.1:{server}/v1/chat/completions"
    async with httpx.AsyncClient(headers=headers) as http, http.stream("POST", url, json=endless):
        await one.load(2, "b")
    assert await who_answers(server) == "b"


async def test_a_check_notices_that_a_server_has_another_model(house: Build, tabby: TabbyFolder, server: int) -> None:
    one = house(tabby.remote("a", server))
    tabby.model("other")
    await one.load(1, "a")
    one.effects.check(1)
    await one.until(len(one.events) + 1)
    assert type(one.events[-1]).__name__ == "InstanceReady"
    await admin(server, "/v1/model/load", {"model_name": "other"})
    one.effects.check(1)
    await one.until(len(one.events) + 1)
    assert "no longer answers" in one.error


# -- any server


async def test_a_server_that_hangs_is_killed(house: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "CHECK_S", 0.2)
    command = (sys.executable, "-IS", str(PROGRAMS / "fake_backend.py"), "--port", "${PORT}", "--name", "a")
    request = LaunchRequest(model="a", port=0, command=command)
    one = house(Launch(backend=OpenAI(), request=request, fixed_port=None, load_timeout_s=20.0))
    pid = await one.load(1, "a")
    process = one.record(1).process
    assert process is not None
    stop_dead(pid)
    one.effects.check(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert "no longer answers" in one.error
    assert process.exited.result() == -signal.SIGKILL


# -- the whole runtime


@pytest.mark.parametrize("leave", [False, True])
async def test_the_last_phase_leaves_a_spare_only_where_it_is_asked_to(
    tmp_path: Path, tabby: TabbyFolder, leave: bool
) -> None:
    one = Supervisor(
        models={"a": ModelSpec(name="a", footprint_mib=0)},
        policy=PolicySpec(),
        launches={"a": tabby.launch("a")},
        launcher=ProcessLauncher(tmp_path / "state"),
        response_timeout_s=5,
        leave_on_exit=leave,
    )
    one.load("a")
    async with asyncio.timeout(20):
        await one.changed()
        process = one.effects.last_process_of("a")
        assert process is not None
        one.unload("a")
        await one.changed()
        assert is_running(process.pid)
        await one.close()
    assert is_running(process.pid) is leave
    if leave:
        os.kill(process.pid, signal.SIGKILL)
        reap(process.pid)
