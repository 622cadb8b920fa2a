import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_systemd import FakeSystemd, FakeUnit, script
from launching import AT_ONCE, identity

from llm_router.backends.base import Address, LaunchSpec, StopPlan
from llm_router.errors import LaunchError
from llm_router.launchers.systemd import Known, SystemdLauncher
from llm_router.launchers.unit import Unit

FOREVER = [sys.executable, "-IS", "-u", "-c", "import signal; print('up'); signal.pause()"]
DEAF = [
    *FOREVER[:-1],
    "import signal; signal.signal(15, lambda *_: print('told')); print('up')\nwhile True: signal.pause()",
]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    fake = FakeSystemd(tmp_path)
    fake.install_journalctl(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return fake


@pytest.fixture
async def units(tmp_path: Path, systemd: FakeSystemd) -> AsyncIterator[SystemdLauncher]:
    launcher = launcher_of(tmp_path, systemd)
    yield launcher
    systemd.refuses = False
    for unit in list(launcher.running):
        await unit.stop(AT_ONCE)
    launcher.close()


def launcher_of(tmp_path: Path, systemd: FakeSystemd, *known: Known) -> SystemdLauncher:
    return SystemdLauncher(tmp_path / "state", lambda: known, [systemd])


def service(name: str = "engine", *, runs: str | None = None, **env: str) -> LaunchSpec:
    argv = () if runs is None else (runs,)
    return LaunchSpec(argv=argv, address=Address(host="127.0.0.1", port=1), service=name, env=env)


async def said(unit: Unit, wanted: str) -> None:
    async with asyncio.timeout(20):
        async for line in unit.output.follow():
            if wanted in line:
                return
    raise AssertionError(f"{wanted!r} was never said: {unit.output.tail()}")


async def ended(unit: Unit) -> int | None:
    await asyncio.wait([unit.exited], timeout=20)
    return unit.exited.result()


class TestStarting:
    async def test_a_unit_is_started_and_its_main_process_is_the_instance(
        self, units: SystemdLauncher, systemd: FakeSystemd
    ) -> None:
        one = systemd.add("engine.service", FakeUnit(runs=FOREVER))
        unit = await units.start(service(), identity())
        assert one.child is not None
        assert unit.pid == one.child.pid
        assert systemd.asked == ["Start engine.service"]

    async def test_its_lines_come_from_the_journal(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        await said(await units.start(service(), identity()), "up")

    async def test_the_unit_runs_the_models_script_with_its_variables(
        self, units: SystemdLauncher, systemd: FakeSystemd, tmp_path: Path
    ) -> None:
        systemd.add("engine.service")
        runs = script(tmp_path / "start.sh", "--port", "0")
        await units.start(service(runs=runs, PORT="7", KEY='a"b$c'), identity())
        assert (systemd.active / "engine.service").readlink() == Path(runs)
        assert (systemd.active / "engine.service.env").read_text() == 'KEY="a\\"b\\$c"\nPORT="7"\n'

    async def test_variables_are_for_their_owners_eyes(
        self, units: SystemdLauncher, systemd: FakeSystemd, tmp_path: Path
    ) -> None:
        systemd.add("engine.service")
        await units.start(service(runs=script(tmp_path / "start.sh", "--port", "0"), KEY="secret"), identity())
        assert (systemd.active / "engine.service.env").stat().st_mode & 0o777 == 0o600

    async def test_a_unit_that_runs_another_script_is_stopped_before_the_link_changes(
        self, units: SystemdLauncher, systemd: FakeSystemd, tmp_path: Path
    ) -> None:
        systemd.add("engine.service")
        await units.start(service(runs=script(tmp_path / "a.sh", "--port", "0")), identity())
        second = await units.start(service(runs=script(tmp_path / "b.sh", "--port", "0")), identity(2))
        assert systemd.asked == ["Start engine.service", "Stop engine.service", "Start engine.service"]
        assert systemd.units["engine.service"].child is not None
        assert second.pid == systemd.units["engine.service"].child.pid

    async def test_a_unit_that_runs_this_very_script_is_taken_as_it_is(
        self, units: SystemdLauncher, systemd: FakeSystemd, tmp_path: Path
    ) -> None:
        systemd.add("engine.service")
        spec = service(runs=script(tmp_path / "a.sh", "--port", "0"))
        first = await units.start(spec, identity())
        again = await units.start(spec, identity(2))
        assert again.pid == first.pid

    async def test_the_start_doesnt_wait_until_a_slow_unit_says_that_it_is_ready(
        self, units: SystemdLauncher, systemd: FakeSystemd
    ) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER, is_slow=True))
        async with asyncio.timeout(20):
            assert (await units.start(service(), identity())).pid

    async def test_a_unit_that_failed_before_is_forgiven(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER, active="failed", result="start-limit-hit"))
        await units.start(service(), identity())
        assert systemd.asked == ["Forgive engine.service", "Start engine.service"]

    async def test_a_cancelled_start_leaves_nothing_running(
        self, units: SystemdLauncher, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = systemd.add("engine.service", FakeUnit(runs=FOREVER, is_slow=True))
        asked, never = asyncio.Event(), asyncio.Event()
        ask = systemd.state

        async def silent(unit: str) -> object:
            if one.child is None:
                return await ask(unit)
            asked.set()
            return await never.wait()

        monkeypatch.setattr(systemd, "state", silent)
        start = asyncio.get_running_loop().create_task(units.start(service(), identity()))
        await asked.wait()
        start.cancel()
        await asyncio.wait([start])
        assert start.cancelled()
        assert systemd.running() == []
        assert not units.running


class TestRefusals:
    async def test_a_typo_is_answered_with_the_nearest_name(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service")
        with pytest.raises(LaunchError, match=r'cannot start engin\.service: .*did you mean "engine\.service"\?'):
            await units.start(service("engin"), identity())

    async def test_what_cant_be_executed_is_told_in_the_journals_words(
        self, units: SystemdLauncher, systemd: FakeSystemd, tmp_path: Path
    ) -> None:
        systemd.add("engine.service")
        with pytest.raises(LaunchError, match=r"cannot start engine\.service: .*No such file.*systemctl status"):
            await units.start(service(runs=str(tmp_path / "nowhere.sh")), identity())

    async def test_a_refusal_leaves_no_entry_behind(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        systemd.refuses = True
        with pytest.raises(LaunchError, match="refuses it"):
            await units.start(service(), identity())
        systemd.refuses = False
        assert list((systemd.folder / "state" / "units").iterdir()) == []


class TestEnding:
    async def test_a_crash_behind_our_back_is_noticed_with_its_status(
        self, units: SystemdLauncher, systemd: FakeSystemd
    ) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        unit = await units.start(service(), identity())
        os.kill(unit.pid, signal.SIGKILL)
        assert await ended(unit) == -signal.SIGKILL

    async def test_its_last_words_are_there_when_its_end_is_told(
        self, units: SystemdLauncher, systemd: FakeSystemd
    ) -> None:
        code = "import sys; sys.stdin = open('/dev/null'); input_ = __import__('signal').sigwait([15]); sys.exit('bye')"
        block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print('up')\n"
        systemd.add("engine.service", FakeUnit(runs=[*FOREVER[:-1], block + code]))
        unit = await units.start(service(), identity())
        await said(unit, "up")
        os.kill(unit.pid, signal.SIGTERM)
        assert await ended(unit) == 1
        assert "bye" in unit.output.tail()

    async def test_a_restart_by_systemd_is_an_end_too(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER, restarts=True))
        unit = await units.start(service(), identity())
        os.kill(unit.pid, signal.SIGKILL)
        await ended(unit)
        await unit.stop(AT_ONCE)
        assert systemd.running() == []

    async def test_somebody_elses_stop_is_noticed(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        unit = await units.start(service(), identity())
        await systemd.begin("Stop", "engine.service")
        await ended(unit)
        assert unit.exited.done()

    async def test_a_stop_returns_when_nothing_is_left(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        unit = await units.start(service(), identity())
        await unit.stop(StopPlan())
        assert systemd.running() == []
        assert unit.exited.done()
        assert unit.output.finished.done()
        assert not units.running

    async def test_two_stops_are_one(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        unit = await units.start(service(), identity())
        await asyncio.gather(unit.stop(StopPlan()), unit.stop(StopPlan()))
        await unit.stop(StopPlan())
        assert systemd.asked.count("Stop engine.service") == 1

    async def test_what_is_deaf_is_killed_after_the_plan(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=DEAF))
        unit = await units.start(service(), identity())
        await said(unit, "up")
        await unit.stop(StopPlan(grace_s=0.05, second_term=True, kill_after_s=0.05))
        kinds = [asked.split()[0] for asked in systemd.asked]
        assert kinds == ["Start", "Stop", "SIGTERM", "SIGKILL"]

    async def test_cancelling_who_waits_doesnt_stop_the_stopping(
        self, units: SystemdLauncher, systemd: FakeSystemd
    ) -> None:
        systemd.add("engine.service", FakeUnit(runs=DEAF))
        unit = await units.start(service(), identity())
        await said(unit, "up")
        waiting = asyncio.get_running_loop().create_task(unit.stop(StopPlan(grace_s=0.2, kill_after_s=0.0)))
        await said(unit, "told")
        waiting.cancel()
        await ended(unit)
        assert systemd.running() == []

    async def test_a_refused_stop_says_so(self, units: SystemdLauncher, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        unit = await units.start(service(), identity())
        systemd.refuses = True
        with pytest.raises(LaunchError, match="refuses it"):
            await unit.stop(AT_ONCE)
        assert not unit.exited.done()


class TestAdoption:
    async def test_the_next_router_finds_what_runs(self, tmp_path: Path, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        first = launcher_of(tmp_path, systemd)
        pid = (await first.start(service(), identity(3))).pid
        first.close()
        known = Known(service="engine", script=None, identity=identity(90))
        second = launcher_of(tmp_path, systemd, known)
        (found,) = await second.survivors()
        assert (found.pid, found.identity) == (pid, identity(3))
        await found.stop(AT_ONCE)
        second.close()

    async def test_a_unit_that_somebody_else_started_is_known_by_its_script(
        self, tmp_path: Path, systemd: FakeSystemd
    ) -> None:
        systemd.add("engine.service")
        scripts = [script(tmp_path / f"{name}.sh", "--port", "0") for name in "ab"]
        systemd.active.mkdir(parents=True)
        (systemd.active / "engine.service").symlink_to(scripts[1])
        await systemd.begin("Start", "engine.service")
        models = [Known(service="engine", script=one, identity=identity(90, one)) for one in scripts]
        launcher = launcher_of(tmp_path, systemd, *models)
        (found,) = await launcher.survivors()
        assert found.identity.model == scripts[1]
        await found.stop(AT_ONCE)
        launcher.close()

    async def test_a_unit_of_ours_whose_model_cant_be_told_belongs_to_none(
        self, tmp_path: Path, systemd: FakeSystemd
    ) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        await systemd.begin("Start", "engine.service")
        models = [Known(service="engine", script=None, identity=identity(90, name)) for name in "ab"]
        launcher = launcher_of(tmp_path, systemd, *models)
        (found,) = await launcher.survivors()
        assert found.identity.model == ""
        await found.stop(AT_ONCE)
        launcher.close()

    async def test_what_was_started_anew_meanwhile_isnt_what_the_ledger_means(
        self, tmp_path: Path, systemd: FakeSystemd
    ) -> None:
        one = systemd.add("engine.service", FakeUnit(runs=FOREVER))
        first = launcher_of(tmp_path, systemd)
        await first.start(service(), identity(3))
        first.close()
        await asyncio.wait([await systemd.begin("Stop", "engine.service")])
        await systemd.begin("Start", "engine.service")
        launcher = launcher_of(tmp_path, systemd, Known(service="engine", script=None, identity=identity(90, "a")))
        (found,) = await launcher.survivors()
        assert one.child is not None
        assert (found.pid, found.identity.instance) == (one.child.pid, 90)
        await found.stop(AT_ONCE)
        launcher.close()

    async def test_units_outside_of_the_configuration_are_left_alone(
        self, tmp_path: Path, systemd: FakeSystemd
    ) -> None:
        systemd.add("other.service", FakeUnit(runs=FOREVER))
        await systemd.begin("Start", "other.service")
        launcher = launcher_of(tmp_path, systemd, Known(service="gone", script=None, identity=identity()))
        assert await launcher.survivors() == []
        assert systemd.running() == ["other.service"]
        await asyncio.wait([await systemd.begin("Stop", "other.service")])
        launcher.close()

    async def test_a_handed_over_unit_is_adopted_as_what_it_became(self, tmp_path: Path, systemd: FakeSystemd) -> None:
        systemd.add("engine.service", FakeUnit(runs=FOREVER))
        first = launcher_of(tmp_path, systemd)
        unit = await first.start(service(), identity(3))
        first.hand_over(unit, identity(4, "b"))
        first.close()
        second = launcher_of(tmp_path, systemd, Known(service="engine", script=None, identity=identity(90)))
        (found,) = await second.survivors()
        assert found.identity == identity(4, "b")
        await found.stop(AT_ONCE)
        second.close()
