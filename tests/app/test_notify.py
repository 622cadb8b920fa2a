import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_router.app.notify import Notifier, from_environment


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The end of the socket that systemd would read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(20)
        yield end


def address(end: socket.socket) -> str:
    return str(end.getsockname())


def heard(end: socket.socket) -> list[str]:
    return end.recv(4096).decode().split("\n")


def test_says_when_it_serves_reloads_and_stops(systemd: socket.socket) -> None:
    notifier = Notifier(address(systemd))
    notifier.ready("3 models")
    assert heard(systemd) == ["READY=1", "STATUS=3 models"]
    notifier.reloading()
    first, second, _ = heard(systemd)
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    notifier.stopping()
    assert heard(systemd)[0] == "STOPPING=1"


async def test_gives_signs_of_life_while_the_loop_runs(systemd: socket.socket) -> None:
    task = asyncio.get_running_loop().create_task(Notifier(address(systemd), watchdog_s=0.02).keep_alive())
    for _ in range(3):
        assert await asyncio.to_thread(heard, systemd) == ["WATCHDOG=1"]
    task.cancel()


async def test_without_a_watchdog_there_is_nothing_to_keep_alive(systemd: socket.socket) -> None:
    await Notifier(address(systemd)).keep_alive()
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(1)


def test_a_socket_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).ready("")
    Notifier().ready("")


def test_takes_what_systemd_sets(systemd: socket.socket) -> None:
    from_environment({"NOTIFY_SOCKET": address(systemd)}).stopping()
    assert heard(systemd)[0] == "STOPPING=1"


async def test_a_watchdog_of_another_process_is_not_ours(systemd: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": address(systemd), "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}
    async with asyncio.timeout(20):
        await from_environment(environment).keep_alive()
