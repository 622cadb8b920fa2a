"""Where instances keep their files when the state folder refuses them, and who finds them there."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import AT_ONCE, fake_spec, identity, is_alive, line_of

from llm_router.errors import LaunchError
from llm_router.launchers import state
from llm_router.launchers.output import RESERVED_BYTES, reserve
from llm_router.launchers.process import ProcessLauncher


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(state, "_MEMORY", folder)
    monkeypatch.setattr(state.tempfile, "gettempdir", lambda: str(folder))
    yield folder


def refuse(launcher_state: Path) -> None:
    """As a full disk does, for whoever may do everything: nothing can be made where the logs were."""
    (launcher_state / "logs").rename(launcher_state / "old-logs")
    (launcher_state / "logs").write_text("")


def refuse_all(memory: Path) -> None:
    memory.rmdir()
    memory.write_text("")


def relent(launcher_state: Path) -> None:
    (launcher_state / "logs").unlink()
    (launcher_state / "old-logs").rename(launcher_state / "logs")


async def test_what_starts_meanwhile_is_kept_in_memory_and_a_later_router_finds_it(
    tmp_path: Path, memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    first = ProcessLauncher(folder)
    before = await first.start(fake_spec(), identity(1, "before"))
    refuse(folder)
    with caplog.at_level(logging.INFO):
        meanwhile = await first.start(fake_spec(), identity(2, "meanwhile"))
        again = await first.start(fake_spec(), identity(3, "again"))
    await line_of(meanwhile, "listening")
    assert caplog.text.count("what starts now is kept in") == 1
    first.close()
    relent(folder)

    second = ProcessLauncher(folder)
    found = {process.identity.model: process for process in await second.survivors()}
    assert {model: process.pid for model, process in found.items()} == {
        "before": before.pid,
        "meanwhile": meanwhile.pid,
        "again": again.pid,
    }
    with caplog.at_level(logging.INFO):
        later = await second.start(fake_spec(), identity(4, "later"))
    assert (folder / "logs" / "later-4.log").exists()
    for process in (*found.values(), later):
        await process.stop(AT_ONCE)
    second.close()
    assert os.listdir(memory) == [], "what nothing uses takes no memory"  # noqa: PTH208


async def test_what_is_in_memory_is_found_even_where_the_state_folder_is_lost_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = ProcessLauncher(folder)
    before = await first.start(fake_spec(), identity(1, "before"))
    refuse(folder)
    meanwhile = await first.start(fake_spec(), identity(2, "meanwhile"))
    await line_of(meanwhile, "listening")
    first.close()
    shutil.rmtree(folder)
    folder.write_text("")
    second = ProcessLauncher(folder)
    (found,) = await second.survivors()
    assert found.pid == meanwhile.pid
    assert not is_alive(before.pid)
    await found.stop(AT_ONCE)
    second.close()


async def test_a_killed_routers_instances_in_memory_are_ended_when_they_were_told_to_leave(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = ProcessLauncher(folder)
    refuse(folder)
    process = await first.start(fake_spec("--ignore-term"), identity())
    await line_of(process, "listening")
    first._on_told(process)
    first.close()
    relent(folder)
    second = ProcessLauncher(folder)
    assert await second.survivors() == []
    second.close()
    assert not is_alive(process.pid)


async def test_where_there_is_no_memory_either_it_is_told(
    tmp_path: Path, memory: Path, launcher: ProcessLauncher
) -> None:
    refuse(tmp_path / "state")
    refuse_all(memory)
    with pytest.raises(LaunchError, match=r"cannot start .*: Not a directory; check the state folder"):
        await launcher.start(fake_spec(), identity())


def test_a_log_has_room_reserved_that_isnt_in_its_size(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        reserve(file.fileno())
        if os.fstat(file.fileno()).st_blocks == 0:
            pytest.skip("this file system reserves nothing")
        assert os.fstat(file.fileno()).st_size == 0
        assert os.fstat(file.fileno()).st_blocks * 512 >= RESERVED_BYTES
