"""What a new router finds of an old one: adopted, ended, or none of its business."""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from launching import AT_ONCE, FAKE, fake_spec, identity, is_alive, line_of, python_spec

from llm_router.backends.base import StopPlan
from llm_router.launchers import procfs
from llm_router.launchers.base import Identity
from llm_router.launchers.instance import Process
from llm_router.launchers.process import ProcessLauncher
from llm_router.launchers.state import _substitute_for

Inherit = Callable[..., Awaitable[tuple[ProcessLauncher, list[Process]]]]

# A router that starts what it is told and then dies of SIGKILL, as an out-of-memory killer would have it.
DYING_ROUTER = """
import asyncio, os, signal, sys
from pathlib import Path
from llm_router.backends.base import Address, LaunchSpec
from llm_router.launchers import procfs
from llm_router.launchers.base import Identity
from llm_router.launchers.process import ProcessLauncher

async def main(state, when, *argv):
    launcher = ProcessLauncher(Path(state))
    if when == "before_the_second_write":
        remember = launcher._remember
        launcher._remember = lambda entry: os.kill(os.getpid(), signal.SIGKILL) if entry.pid else remember(entry)
    spec = LaunchSpec(argv=argv, address=Address(host="127.0.0.1", port=1))
    process = await launcher.start(spec, Identity(instance=5, model="m", launch_key="k", port=1))
    async for line in process.output.follow():
        if line.startswith("listening"):
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


def killed_router(state: Path, *options: str, when: str = "while_serving") -> None:
    command = [sys.executable, "-c", DYING_ROUTER, str(state), when, sys.executable, "-IS", str(FAKE), "--port", "0"]
    assert subprocess.run([*command, *options]).returncode == -signal.SIGKILL


def reap(pid: int) -> None:
    """Both routers are this process, so the one it let go is still its child."""
    os.waitpid(pid, 0)


async def killed(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    await procfs.wait_gone(pidfd)
    os.close(pidfd)


async def successor(state: Path) -> tuple[ProcessLauncher, list[Process]]:
    launcher = ProcessLauncher(state)
    return launcher, list(await launcher.survivors())


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the folders in the place of those that can't be used."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))


@pytest.fixture
async def inherit(tmp_path: Path) -> AsyncIterator[Inherit]:
    """A router is killed; returns its successor and what that one adopted."""
    launchers: list[ProcessLauncher] = []

    async def inherit(*options: str, when: str = "while_serving") -> tuple[ProcessLauncher, list[Process]]:
        killed_router(tmp_path, *options, when=when)
        launcher, found = await successor(tmp_path)
        launchers.append(launcher)
        return launcher, found

    yield inherit
    for launcher in launchers:
        for process in list(launcher.running):
            await process.stop(AT_ONCE)
        launcher.close()


@pytest.mark.parametrize("when", ["while_serving", "before_the_second_write"])
async def test_what_a_killed_router_left_is_adopted(inherit: Inherit, when: str) -> None:
    _, found = await inherit("--exit-on-stdin-eof", when=when)
    (process,) = found
    assert process.identity == Identity(instance=5, model="m", launch_key="k", port=1)
    await line_of(process, "listening")  # what it wrote before
    assert not process.exited.done()


async def test_an_adopted_process_is_stopped_like_any_other(inherit: Inherit, tmp_path: Path) -> None:
    _, (process,) = await inherit("--ignore-term", "--spawn-child", "session")
    child = int((await line_of(process, "child")).split()[1])
    await process.stop(StopPlan(grace_s=0.1, kill_after_s=0.1))
    assert not is_alive(process.pid)
    assert not is_alive(child)
    assert process.exited.result() is None  # only a parent learns the status
    assert await line_of(process, "SIGTERM 1")
    assert list((tmp_path / "instances").iterdir()) == []


async def test_the_end_of_an_adopted_process_is_noticed(inherit: Inherit) -> None:
    _, (process,) = await inherit()
    os.kill(process.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        await process.exited


async def test_new_output_of_an_adopted_process_is_heard(inherit: Inherit, tmp_path: Path) -> None:
    _, (process,) = await inherit("--exit-on-stdin-eof")
    (fifo,) = (tmp_path / "instances").glob("*.stdin")
    fifo.write_text("hello\n")
    await line_of(process, "stdin: hello")


async def test_a_dead_leaders_children_are_ended(tmp_path: Path) -> None:
    killed_router(tmp_path, "--spawn-child", "group")
    (entry,) = (json.loads(path.read_text()) for path in (tmp_path / "instances").glob("*.json"))
    (log,) = (tmp_path / "logs").iterdir()
    child = int(log.read_text().split()[1])
    await killed(entry["pid"])
    launcher, found = await successor(tmp_path)
    launcher.close()
    assert found == []
    assert not is_alive(child)
    assert list((tmp_path / "instances").iterdir()) == []


async def test_what_has_no_usable_entry_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed_router(tmp_path)
    (path,) = (tmp_path / "instances").glob("*.json")
    pid = json.loads(path.read_text())["pid"]
    path.write_text('{"format": 1, "identity"')
    launcher, found = await successor(tmp_path)
    launcher.close()
    assert found == []
    assert not is_alive(pid)
    assert path.with_suffix(".bad").exists()
    assert "set aside" in caplog.text
    assert "doesn't know" in caplog.text


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    code = "import signal; signal.pause()"
    with subprocess.Popen([sys.executable, "-IS", "-c", code], start_new_session=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    "change", [{"started": 1}, {"boot": "another"}, {"pid": 999999999}], ids=lambda change: next(iter(change))
)
async def test_a_stranger_with_the_same_number_is_not_touched(
    tmp_path: Path, stranger: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    ProcessLauncher(tmp_path).close()
    entry = {
        "format": 1,
        "identity": {"instance": 1, "model": "m", "launch_key": "k", "port": 1},
        "token": "of-nobody:1:x",
        "log": str(tmp_path / "log"),
        "boot": procfs.boot_id(),
        "pid": stranger.pid,
        "started": procfs.read_stat(stranger.pid).started,
    }
    path = tmp_path / "instances" / "1-x.json"
    path.write_text(json.dumps(entry | change))
    launcher, found = await successor(tmp_path)
    launcher.close()
    assert found == []
    assert stranger.poll() is None
    assert not path.exists()


async def test_what_was_told_to_leave_is_ended_and_not_adopted(tmp_path: Path) -> None:
    first = ProcessLauncher(tmp_path)
    started = await first.start(fake_spec("--ignore-term"), identity())
    await line_of(started, "listening")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await started.stop(StopPlan(grace_s=60))
    first.close()
    second, found = await successor(tmp_path)
    second.close()
    assert found == []
    assert not is_alive(started.pid)
    assert list((tmp_path / "instances").iterdir()) == []
    reap(started.pid)


async def test_instances_of_another_state_folder_are_not_touched(launcher: ProcessLauncher, tmp_path: Path) -> None:
    process = await launcher.start(fake_spec(), identity())
    other, found = await successor(tmp_path / "other")
    other.close()
    assert found == []
    assert not process.exited.done()


async def test_a_second_router_on_the_same_folder_adopts_nothing(
    launcher: ProcessLauncher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = await launcher.start(fake_spec(), identity())
    second, found = await successor(tmp_path / "state")
    assert found == []
    assert "another router is using it" in caplog.text
    own = await second.start(python_spec("print('works')"), identity())
    assert await own.exited == 0
    await own.stop(AT_ONCE)
    second.close()
    assert not process.exited.done()


async def test_a_second_routers_models_are_kept_for_its_successor(launcher: ProcessLauncher, tmp_path: Path) -> None:
    second = ProcessLauncher(tmp_path / "state")
    started = await second.start(fake_spec(), identity())
    await line_of(started, "listening")
    second.close()
    third, (adopted,) = await successor(tmp_path / "state")
    assert adopted.pid == started.pid
    await adopted.stop(AT_ONCE)
    third.close()
    reap(started.pid)


async def test_a_second_routers_models_are_ended_by_the_next_first_one(tmp_path: Path) -> None:
    first, second = ProcessLauncher(tmp_path), ProcessLauncher(tmp_path)
    kept = await first.start(fake_spec(), identity())
    orphan = await second.start(fake_spec("--spawn-child", "session"), identity())
    child = int((await line_of(orphan, "child")).split()[1])
    await line_of(kept, "listening")
    second.close()
    first.close()
    third, (adopted,) = await successor(tmp_path)
    assert adopted.pid == kept.pid
    assert not is_alive(orphan.pid)
    assert not is_alive(child)
    assert list((tmp_path / "2" / "instances").iterdir()) == []
    await adopted.stop(AT_ONCE)
    third.close()
    reap(kept.pid)
    reap(orphan.pid)


async def test_a_folder_whose_name_is_a_number_is_no_part_of_another(tmp_path: Path) -> None:
    first = ProcessLauncher(tmp_path)
    started = await first.start(fake_spec(), identity())
    first.close()
    other, found = await successor(tmp_path / "2")
    other.close()
    assert found == []
    assert is_alive(started.pid)
    first, (adopted,) = await successor(tmp_path)
    await adopted.stop(AT_ONCE)
    first.close()
    reap(started.pid)


async def test_a_second_router_that_runs_is_left_alone(launcher: ProcessLauncher, tmp_path: Path) -> None:
    second = ProcessLauncher(tmp_path / "state")
    process = await second.start(fake_spec(), identity())
    third, found = await successor(tmp_path / "state")
    third.close()
    assert found == []
    assert not process.exited.done()
    await process.stop(AT_ONCE)
    second.close()


async def test_a_folder_that_cannot_be_used_has_the_same_substitute_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    first = ProcessLauncher(tmp_path / "file" / "state")
    started = await first.start(fake_spec(), identity())
    await line_of(started, "listening")
    first.close()
    second, (adopted,) = await successor(tmp_path / "file" / "state")
    assert adopted.pid == started.pid
    await adopted.stop(AT_ONCE)
    second.close()
    reap(started.pid)


@pytest.mark.parametrize("what", ["became a file", "is empty"])
async def test_of_a_lost_folder_what_still_runs_is_ended_rather_than_loaded_a_second_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    folder = tmp_path / "state"
    killed_router(folder)
    (entry,) = (json.loads(path.read_text()) for path in (folder / "instances").glob("*.json"))
    shutil.rmtree(folder)
    if what == "became a file":
        folder.write_text("")
    launcher, found = await successor(folder)
    launcher.close()
    assert found == []
    assert not is_alive(entry["pid"])
    assert "the state folder that knew it is gone" in caplog.text


@pytest.mark.parametrize("what", ["became a file", "is empty"])
async def test_of_a_lost_folder_nothing_is_ended_while_its_router_runs(
    launcher: ProcessLauncher, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "state"
    process = await launcher.start(fake_spec(), identity())
    shutil.rmtree(folder)
    if what == "became a file":
        folder.write_text("")
    second, found = await successor(folder)
    second.close()
    assert found == []
    assert not process.exited.done()


async def test_a_substitute_that_others_can_write_is_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    wanted = tmp_path / "file" / "state"
    substitute = Path(tempfile.gettempdir()) / _substitute_for(wanted).name
    substitute.mkdir()
    substitute.chmod(0o777)
    launcher = ProcessLauncher(wanted)
    launcher.close()
    assert "is someone else's" in caplog.text
    assert list(substitute.iterdir()) == []


async def test_a_folder_that_cannot_be_used_costs_a_warning_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        launcher = ProcessLauncher(tmp_path / "file" / "state")
    assert "give the router one that it may write" in caplog.text
    process = await launcher.start(python_spec("print('works')"), identity())
    assert await process.exited == 0
    assert process.output.tail() == ["works"]
    await process.stop(AT_ONCE)
    launcher.close()


async def test_letting_go_leaves_it_running_for_the_next_one(tmp_path: Path) -> None:
    first = ProcessLauncher(tmp_path)
    started = await first.start(fake_spec(), identity())
    await line_of(started, "listening")
    first.close()
    second, (adopted,) = await successor(tmp_path)
    assert adopted.pid == started.pid
    await adopted.stop(AT_ONCE)
    second.close()
    reap(started.pid)


async def test_what_became_another_instance_is_adopted_as_that_one(tmp_path: Path) -> None:
    first = ProcessLauncher(tmp_path)
    started = await first.start(fake_spec("--exit-on-stdin-eof"), identity(instance=1, model="a"))
    await line_of(started, "listening")
    first.hand_over(started, identity(instance=2, model="b"))
    assert started.identity.model == "b"
    first.close()
    second, (adopted,) = await successor(tmp_path)
    assert adopted.identity == identity(instance=2, model="b")
    assert adopted.pid == started.pid
    (fifo,) = (tmp_path / "instances").glob("*.stdin")
    fifo.write_text("hello\n")
    await line_of(adopted, "stdin: hello")
    await adopted.stop(AT_ONCE)
    assert list((tmp_path / "instances").iterdir()) == []
    second.close()
    reap(started.pid)
