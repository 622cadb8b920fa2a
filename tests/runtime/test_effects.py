"""Every start, stop and check ends in exactly one event, whatever happens in between and however unlucky the moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from scripted import Backend, Health, World, launch, left_behind, passed, remote

from llm_router.core.events import InstanceAdopted, InstanceGone, InstanceReady
from llm_router.errors import LaunchError
from llm_router.launchers import probe
from llm_router.launchers.ports import Ports
from llm_router.runtime import hosts

Make = Callable[..., World]


pytestmark = pytest.mark.usefixtures("short_checks")


# -- start


async def test_a_start_ends_in_ready(world: Make) -> None:
    one = world(launch())
    await one.loaded()
    assert await one.until(1) == ["InstanceReady"]
    assert one.effects.upstream_of(1).model == "m"


async def test_progress_is_kept_for_the_status(world: Make) -> None:
    one = world(launch())
    one.start(1, "m")
    (await one.launcher.next()).output.say("half")
    assert one.effects.instances[1].loading.fraction == 0.5


@pytest.mark.parametrize("failure", [LaunchError("cannot start it"), RuntimeError("a bug")])
async def test_a_start_that_fails_in_any_way_ends_in_gone(world: Make, failure: Exception) -> None:
    one = world(launch())
    one.launcher.fails = failure
    one.start(1, "m")
    assert await one.until(1) == ["InstanceGone"]
    assert str(failure) in (one.error or "")
    assert one.effects.instances == {}


async def test_a_backend_that_fails_in_any_way_ends_in_gone(world: Make) -> None:
    one = world(launch(backend=Backend(fails=ValueError("a bug in a backend"))))
    one.start(1, "m")
    assert await one.until(1) == ["InstanceGone"]
    assert "a bug in a backend" in (one.error or "")


async def test_a_model_that_nobody_configured_ends_in_gone(world: Make) -> None:
    one = world(launch())
    one.start(1, "unknown")
    assert await one.until(1) == ["InstanceGone"]


async def test_a_load_that_takes_too_long_is_stopped(world: Make) -> None:
    one = world(launch(load_timeout_s=0.05))
    one.start(1, "m")
    process = await one.launcher.next()
    assert await one.until(1) == ["InstanceGone"]
    assert "not ready after" in (one.error or "")
    assert len(process.stops) == 1


async def test_an_exit_while_loading_tells_the_last_words(world: Make) -> None:
    one = world(launch())
    one.start(1, "m")
    process = await one.launcher.next()
    process.output.say("CUDA error: out of memory")
    process.exit(1)
    assert await one.until(1) == ["InstanceGone"]
    assert "exited with status 1 while loading: CUDA error: out of memory" in (one.error or "")


async def test_an_exit_right_after_the_ready_line_is_no_ready_instance(world: Make) -> None:
    one = world(launch())
    one.start(1, "m")
    process = await one.launcher.next()
    process.output.say("ready")
    process.exit(1)
    assert await one.until(1) == ["InstanceGone"]
    assert "exited with status 1" in (one.error or "")


async def test_an_exit_after_it_was_ready_is_noticed_at_once(world: Make) -> None:
    one = world(launch())
    process = await one.loaded()
    process.output.say("Segmentation fault (error)")
    process.exit(-11)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert one.error == (
        "cannot use m any more: it was killed by SIGSEGV: Segmentation fault (error); `llm-router logs m` has more"
    )
    assert len(process.stops) == 1, "its children may still be there"


# -- stop


async def test_a_stop_ends_in_gone(world: Make) -> None:
    one = world(launch())
    process = await one.loaded()
    one.effects.stop(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert one.error is None
    assert [plan.grace_s for plan in process.stops] == [7.0]


async def test_a_second_stop_changes_nothing(world: Make) -> None:
    one = world(launch())
    process = await one.loaded()
    one.effects.stop(1)
    one.effects.stop(1)
    await one.until(2)
    one.effects.stop(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert len(process.stops) == 1


async def test_a_stop_while_it_is_being_spawned_leaves_no_process(world: Make) -> None:
    one = world(launch())
    one.launcher.held = asyncio.Event()
    one.start(1, "m")
    await passed()
    one.effects.stop(1)
    assert await one.until(1) == ["InstanceGone"]
    assert one.error is None
    assert one.launcher.started == []


async def test_a_stop_in_the_same_instant_as_the_start(world: Make) -> None:
    one = world(launch())
    one.start(1, "m")
    one.effects.stop(1)
    assert await one.until(1) == ["InstanceGone"]
    assert all(process.exited.done() for process in one.launcher.started)


async def test_a_stop_while_it_loads_is_no_failure(world: Make) -> None:
    one = world(launch())
    one.start(1, "m")
    process = await one.launcher.next()
    one.effects.stop(1)
    assert await one.until(1) == ["InstanceGone"]
    assert one.error is None
    assert len(process.stops) == 1


async def test_a_stop_in_the_same_instant_as_the_ready_line(world: Make) -> None:
    one = world(launch())
    one.start(1, "m")
    process = await one.launcher.next()
    process.output.say("ready")
    one.effects.stop(1)
    assert await one.until(1) == ["InstanceGone"]
    assert one.error is None


async def test_an_exit_while_it_is_being_stopped_is_no_failure(world: Make) -> None:
    one = world(launch())
    process = await one.loaded()
    process.lingers = asyncio.Event()
    one.effects.stop(1)
    await passed()
    process.exit(-15)
    await passed()
    process.lingers.set()
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert one.error is None


async def test_a_stop_after_an_exit_is_answered_once(world: Make) -> None:
    one = world(launch())
    process = await one.loaded()
    process.exit(1)
    one.effects.stop(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]


async def test_what_cannot_be_stopped_is_gone_all_the_same(world: Make, caplog: pytest.LogCaptureFixture) -> None:
    one = world(launch())
    process = await one.loaded()
    process.unstoppable = PermissionError("not ours")
    one.effects.stop(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert "cannot stop m" in caplog.text


async def test_hurry_cuts_the_grace_of_what_is_being_stopped_only(world: Make) -> None:
    one = world(launch("m"), launch("n"))
    leaving = await one.loaded(1, "m")
    staying = await one.loaded(2, "n")
    leaving.lingers = asyncio.Event()
    one.effects.stop(1)
    await passed()
    one.effects.hurry()
    await one.until(3)
    assert [plan.grace_s for plan in leaving.stops] == [7.0, 0.0]
    assert staying.stops == []


# -- ports


async def test_a_configured_port_is_used_by_one_instance_at_a_time(world: Make) -> None:
    port = Ports().take()
    one = world(launch("m", fixed_port=port), launch("n", fixed_port=port))
    process = await one.loaded(1, "m")
    assert process.identity.port == port
    one.start(2, "n")
    await one.until(2)
    assert f"cannot use port {port}: another model is using it" in (one.error or "")
    one.effects.stop(1)
    await one.until(3)
    assert (await one.loaded(3, "n")).identity.port == port


async def test_the_port_of_a_failed_start_is_free_again(world: Make) -> None:
    port = Ports().take()
    one = world(launch("m", fixed_port=port))
    one.launcher.fails = LaunchError("cannot start it")
    one.start(1, "m")
    await one.until(1)
    one.launcher.fails = None
    assert (await one.loaded(2, "m")).identity.port == port


# -- check


async def test_a_check_of_a_server_that_answers_ends_in_ready(world: Make, health: Health) -> None:
    one = world(launch(port=health.port))
    await one.loaded()
    one.effects.check(1)
    assert await one.until(2) == ["InstanceReady", "InstanceReady"]


@pytest.mark.parametrize("status", [500, None], ids=["broken", "silent"])
async def test_a_check_of_a_server_that_does_not_answer_ends_in_gone(
    world: Make, health: Health, status: int | None
) -> None:
    one = world(launch(port=health.port))
    process = await one.loaded()
    health.status = status
    one.effects.check(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert "no longer answers" in (one.error or "")
    assert len(process.stops) == 1


async def test_a_check_of_a_dying_server_tells_how_it_died(world: Make, health: Health) -> None:
    one = world(launch(port=health.port))
    process = await one.loaded()
    health.status = 500
    one.effects.check(1)
    async with asyncio.timeout(5):
        await health.asked.wait()
    process.exit(-9)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert (one.error or "").startswith("cannot use m any more: it was killed by SIGKILL")


async def test_a_stop_while_it_is_checked_is_answered_once(world: Make, health: Health) -> None:
    one = world(launch(port=health.port))
    await one.loaded()
    health.status = None
    one.effects.check(1)
    async with asyncio.timeout(5):
        await health.asked.wait()
    one.effects.stop(1)
    await one.until(2)
    await one.tasks.close()
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert one.error is None


async def test_a_check_that_crashes_ends_in_gone(
    world: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(*_: object) -> bool:
        raise RuntimeError("a bug")

    one = world(launch())
    await one.loaded()
    monkeypatch.setattr(probe, "is_serving", crash)
    one.effects.check(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert "a bug" in caplog.text


async def test_a_check_of_what_is_gone_says_nothing(world: Make) -> None:
    one = world(launch())
    one.effects.check(1)
    await passed()
    assert one.events == []


async def test_a_silent_server_that_answers_late_is_only_busy_and_nobody_hears_of_it(
    world: Make, health: Health
) -> None:
    one = world(launch(port=health.port))
    process = await one.loaded()
    health.late = asyncio.Event()
    one.effects.suspect(1)
    async with asyncio.timeout(5):
        await health.asked.wait()
    looking = one.effects.instances[1].checking
    assert looking is not None
    await asyncio.wait([looking], timeout=2 * hosts.CHECK_S)
    assert not looking.done(), "a lost connection would have been the end of it by now"
    health.late.set()
    await looking
    assert await one.until(1) == ["InstanceReady"]
    assert process.stops == []


async def test_a_silent_server_that_never_answers_ends_in_gone(world: Make, health: Health) -> None:
    one = world(launch(port=health.port))
    process = await one.loaded()
    health.status = None
    one.effects.suspect(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert "owes a reply and no longer answers" in (one.error or "")
    assert len(process.stops) == 1


async def test_a_silent_server_is_looked_at_once_at_a_time(world: Make, health: Health) -> None:
    one = world(launch(port=health.port))
    await one.loaded()
    health.late = asyncio.Event()
    for _ in range(3):
        one.effects.suspect(1)
        await passed()
    async with asyncio.timeout(5):
        await health.asked.wait()
    assert len(health.paths) == 1
    health.late.set()
    looking = one.effects.instances[1].checking
    assert looking is not None
    await looking
    one.effects.suspect(1)
    assert one.effects.instances[1].checking is not looking, "it may be looked at again later"


async def test_a_lost_connection_does_not_wait_for_a_look_that_is_patient(
    world: Make, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "BUSY_CHECK_S", 60.0)
    one = world(launch(port=health.port))
    await one.loaded()
    health.status = None
    one.effects.suspect(1)
    async with asyncio.timeout(5):
        await health.asked.wait()
    one.effects.check(1)
    one.effects.suspect(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert "broke off a reply" in (one.error or "")


# -- adoption


async def test_what_serves_a_configured_model_is_taken_over(world: Make, health: Health) -> None:
    model = launch(port=health.port)
    one = world(model)
    one.launcher.left = [left_behind(model)]
    await one.effects.adopt()
    assert await one.until(2) == ["InstanceAdopted", "InstanceReady"]
    assert isinstance(one.events[0], InstanceAdopted)
    assert (one.events[0].instance, one.events[0].model) == (3, "m")
    one.launcher.left[0].exit(1)
    assert (await one.until(3))[-1] == "InstanceGone"


@pytest.mark.parametrize("change", [{"launch_key": "another"}, {"model": "unknown"}])
async def test_what_no_longer_fits_the_configuration_is_ended(
    world: Make, health: Health, change: dict[str, str]
) -> None:
    model = launch(port=health.port)
    one = world(model)
    one.launcher.left = [left_behind(model, **change)]
    await one.effects.adopt()
    assert one.events == []
    assert len(one.launcher.left[0].stops) == 1


async def test_two_with_one_number_are_not_both_taken_over(world: Make, health: Health) -> None:
    model = launch(port=health.port)
    one = world(model)
    one.launcher.left = [left_behind(model), left_behind(model)]
    await one.effects.adopt()
    assert await one.until(2) == ["InstanceAdopted", "InstanceReady"]
    assert [len(process.stops) for process in one.launcher.left] == [0, 1]


async def test_what_its_backend_cannot_describe_any_more_is_ended(world: Make, health: Health) -> None:
    model = launch(port=health.port)
    one = world(replace(model, backend=Backend(port=health.port, fails=ValueError("a bug"))))
    one.launcher.left = [left_behind(model)]
    await one.effects.adopt()
    assert one.events == []
    assert len(one.launcher.left[0].stops) == 1


async def test_what_cannot_be_ended_does_not_keep_the_router_from_starting(
    world: Make, caplog: pytest.LogCaptureFixture
) -> None:
    model = launch()
    one = world()
    one.launcher.left = [left_behind(model, instance=1), left_behind(model, instance=2)]
    one.launcher.left[0].unstoppable = PermissionError("not ours")
    await one.effects.adopt()
    assert len(one.launcher.left[1].stops) == 1
    assert "cannot end pid" in caplog.text


async def test_an_old_ready_line_of_an_adopted_server_proves_nothing(world: Make, health: Health) -> None:
    model = launch(port=health.port)
    one = world(model)
    process = left_behind(model)
    process.output.lines = ["ready"]
    one.launcher.left = [process]
    health.status = 503
    await one.effects.adopt()
    async with asyncio.timeout(5):
        await health.asked.wait()
    assert await one.until(1) == ["InstanceAdopted"]
    health.status = 200
    assert await one.until(2) == ["InstanceAdopted", "InstanceReady"]


async def test_an_adopted_server_that_never_answers_is_given_up(world: Make, health: Health) -> None:
    model = launch(port=health.port, load_timeout_s=0.1)
    one = world(model)
    one.launcher.left = [left_behind(model)]
    health.status = 503
    await one.effects.adopt()
    assert await one.until(2) == ["InstanceAdopted", "InstanceGone"]
    assert len(one.launcher.left[0].stops) == 1


async def test_an_adopted_server_that_ends_meanwhile_is_gone(world: Make, health: Health) -> None:
    model = launch(port=health.port)
    one = world(model)
    one.launcher.left = [left_behind(model)]
    await one.effects.adopt()
    one.launcher.left[0].exit(0)
    assert await one.until(2) == ["InstanceAdopted", "InstanceGone"]


async def test_an_answer_from_somebody_else_on_its_port_is_not_believed(world: Make, health: Health) -> None:
    model = launch(port=health.port)
    one = world(model)
    one.launcher.left = [left_behind(model, pid=2**22 + 1)]
    await one.effects.adopt()
    assert await one.until(2) == ["InstanceAdopted", "InstanceGone"]
    assert f"has taken its port {health.port}" in (one.error or "")


# -- remote


async def test_a_remote_server_is_ready_gone_and_back(world: Make, health: Health) -> None:
    one = world(remote("far", health.port))
    one.start(1, "far")
    await one.until(1)
    assert one.effects.upstream_of(1).port == health.port

    await health.down()
    one.effects.check(1)
    await one.until(2)
    assert "no longer answers" in (one.error or "")

    one.start(2, "far")
    await one.until(3)
    assert f"cannot reach far at 127.0.0.1:{health.port}" in (one.error or "")

    await health.up()
    one.start(3, "far")
    await one.until(4)
    assert [
        (type(event), event.instance) for event in one.events if isinstance(event, InstanceReady | InstanceGone)
    ] == [
        (InstanceReady, 1),
        (InstanceGone, 1),
        (InstanceGone, 2),
        (InstanceReady, 3),
    ]


async def test_a_remote_server_is_let_go_without_stopping_anything(world: Make, health: Health) -> None:
    one = world(remote("far", health.port))
    one.start(1, "far")
    await one.until(1)
    one.effects.stop(1)
    assert await one.until(2) == ["InstanceReady", "InstanceGone"]
    assert one.launcher.started == []
