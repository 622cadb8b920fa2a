"""When a wait for a load is over though nobody said so; and which of equal endpoints is taken."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from launching import AT_ONCE, FAKE, fake_spec, identity, line_of, python_spec

from llm_router.backends.base import Address, Failed, LaunchSpec, Loading, Readiness, Signal
from llm_router.backends.signals import read_llamacpp
from llm_router.errors import LaunchError
from llm_router.launchers import probe
from llm_router.launchers.ports import Ports
from llm_router.launchers.probe import first_serving, is_serving, refuse_squatter, wait_ready
from llm_router.launchers.process import ProcessLauncher
from llm_router.launchers.waiting import Stall


def ignore(_: Loading) -> None:
    pass


# -- a stall


async def test_a_load_that_says_nothing_more_hangs(launcher: ProcessLauncher) -> None:
    spec = fake_spec("--never-ready", "--say", "waiting for a lock", port=Ports().take())
    process = await launcher.start(spec, identity(model="m"))
    await line_of(process, "waiting for a lock")  # on a busy machine its start alone takes longer than the stall
    with pytest.raises(LaunchError) as caught:
        await wait_ready(process, spec, deadline_s=60, on_loading=ignore, stall=Stall(0.3))
    assert "cannot use m: it hangs while loading" in caught.value.message
    assert "for 0.3 s" in caught.value.message
    assert "waiting for a lock" in caught.value.message


async def test_lines_keep_a_load_alive(launcher: ProcessLauncher) -> None:
    port = Ports().take()
    code = f"""
import socket, sys, time
for number in range(6):
    print("still", number, flush=True)
    time.sleep(0.15)
server = socket.create_server(("127.0.0.1", {port}))
while True:
    connection, _ = server.accept()
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    connection.close()
"""
    spec = dataclasses.replace(python_spec(code), address=Address(host="127.0.0.1", port=port))
    process = await launcher.start(spec, identity())
    await line_of(process, "still")
    await wait_ready(process, spec, deadline_s=60, on_loading=ignore, stall=Stall(0.5))


async def test_memory_that_grows_keeps_a_load_alive() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    stall = Stall(0.05, grew=lambda: began + 0.2)
    async with asyncio.timeout(5):
        await stall.over()
    assert loop.time() - began >= 0.25
    assert stall.is_over


async def test_without_a_limit_nothing_hangs() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await Stall().over()


# -- a server that says that it failed


def read_failure(line: str) -> Signal | None:
    return Failed(message="the file is broken") if line.startswith("FAILED") else read_llamacpp(line)


async def test_a_server_that_says_it_failed_is_not_waited_for(launcher: ProcessLauncher) -> None:
    spec = fake_spec("--never-ready", "--say", "FAILED", port=Ports().take())
    spec = dataclasses.replace(spec, readiness=Readiness(read_line=read_failure))
    process = await launcher.start(spec, identity(model="m"))
    with pytest.raises(LaunchError, match=r"^cannot use m: the file is broken$"):
        await wait_ready(process, spec, deadline_s=60, on_loading=ignore)
    assert not process.exited.done()


# -- builds without the newer path


@pytest.mark.parametrize("older_path", ["/health", None])
async def test_the_older_path_is_asked_where_the_newer_is_missing(
    launcher: ProcessLauncher, older_path: str | None
) -> None:
    port = Ports().take()
    argv = (sys.executable, "-IS", str(Path(FAKE).with_name("fake_sglang.py")), "serve", "--model-path", "p")
    spec = LaunchSpec(
        argv=(*argv, "--port", str(port), "--older", "--warmup-s", "0"),
        env={"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0"},
        address=Address(host="127.0.0.1", port=port),
        readiness=Readiness(path="/ready", older_path=older_path),
    )
    process = await launcher.start(spec, identity())
    up = dataclasses.replace(spec, readiness=Readiness(path="/health"))
    await wait_ready(process, up, deadline_s=10, on_loading=ignore)
    assert await is_serving(spec, 5) == (older_path is not None)
    if older_path is not None:
        await wait_ready(process, spec, deadline_s=10, on_loading=ignore)


# -- somebody else on a configured port


async def test_a_server_that_was_there_before_is_not_taken_for_ours(launcher: ProcessLauncher) -> None:
    port = Ports().take()
    stranger = await launcher.start(fake_spec(port=port), identity(instance=2))
    await line_of(stranger, "listening")
    # The time of a start is known to a hundredth of a second.
    ours = await launcher.start(
        python_spec("import signal; print('up', flush=True); signal.pause()"), identity(model="m")
    )
    await line_of(ours, "up")
    with pytest.raises(LaunchError, match=rf"cannot use m: pid {stranger.pid} \(.*\) has its port {port}; end it"):
        await refuse_squatter(ours, port)


async def test_a_server_that_came_later_may_be_its_own(launcher: ProcessLauncher) -> None:
    """A script may have a container or a service run its server."""
    port = Ports().take()
    ours = await launcher.start(
        python_spec("import signal; print('up', flush=True); signal.pause()"), identity(model="m")
    )
    await line_of(ours, "up")
    later = await launcher.start(fake_spec(port=port), identity(instance=2))
    await line_of(later, "listening")
    await refuse_squatter(ours, port)
    await later.stop(AT_ONCE)
    await refuse_squatter(ours, port)


# -- equal endpoints


@asynccontextmanager
async def endpoint(status: int | None = 200, *, after: asyncio.Event | None = None) -> AsyncIterator[Address]:
    """`status` None: it never answers. `after`: it answers when this is set."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if after is not None:
            await after.wait()
        if status is None:
            await reader.read()
        else:
            writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])


def nowhere() -> Address:
    return Address(host="127.0.0.1", port=Ports().take())


async def chosen(*addresses: Address, timeout_s: float = 5.0) -> Address | None:
    async with asyncio.timeout(5):
        return await first_serving(LaunchSpec(argv=(), address=addresses[0], alternatives=addresses[1:]), timeout_s)


async def test_the_first_that_answers_is_taken() -> None:
    async with endpoint() as first, endpoint() as second:
        assert await chosen(first, second) == first
        assert await chosen(nowhere(), second, first) == second


async def test_one_that_fails_is_passed_over() -> None:
    async with endpoint(503) as broken, endpoint() as second:
        assert await chosen(broken, second) == second


async def test_one_that_never_answers_holds_nobody_up() -> None:
    async with endpoint(None) as silent, endpoint() as second:
        assert await chosen(silent, second, timeout_s=60) == second


async def test_the_preferred_one_may_be_a_little_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PREFERENCE_S", 5.0)
    slow = asyncio.Event()
    async with endpoint(after=slow) as first, endpoint() as second:
        asyncio.get_running_loop().call_later(0.05, slow.set)
        assert await chosen(first, second) == first


async def test_where_nobody_answers_there_is_none() -> None:
    async with endpoint(None) as silent:
        assert await chosen(nowhere(), silent, timeout_s=0.1) is None
