"""When an instance counts as ready, and what is said when it never does."""

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest
from launching import fake_spec, identity, line_of, python_spec

from llm_router.backends.base import Address, LaunchSpec, Loading, Readiness
from llm_router.backends.signals import read_llamacpp
from llm_router.errors import LaunchError
from llm_router.launchers import probe
from llm_router.launchers.ports import Ports
from llm_router.launchers.probe import help_text, is_serving, wait_ready, wait_resumed
from llm_router.launchers.process import ProcessLauncher
from llm_router.launchers.waiting import exit_in_words


async def ready(launcher: ProcessLauncher, *options: str, deadline_s: float = 10, **readiness: object) -> list[Loading]:
    """Start the fake and wait; returns the progress that was heard."""
    spec = fake_spec(*options, port=Ports().take())
    spec = dataclasses.replace(spec, readiness=Readiness(**readiness))  # type: ignore[arg-type]
    process = await launcher.start(spec, identity(model="tiny-a"))
    heard: list[Loading] = []
    await wait_ready(process, spec, deadline_s=deadline_s, on_loading=heard.append)
    assert await is_serving(spec, 5) == ("--push-only" not in options)
    return heard


@pytest.mark.parametrize("options", [(), ("--startup-s", "0.1"), ("--startup-s", "0.1", "--refuse-until-ready")])
async def test_a_poll_that_answers_200_is_ready(launcher: ProcessLauncher, options: tuple[str, ...]) -> None:
    assert await ready(launcher, *options) == []


async def test_a_pushed_line_is_ready_and_tells_how_far_it_is(launcher: ProcessLauncher) -> None:
    heard = await ready(launcher, "--push-lines", "--push-only", "--startup-s", "0.1", read_line=read_llamacpp)
    assert [loading.fraction for loading in heard] == [0.0, 0.5, 1.0]


async def test_lines_alone_can_tell(launcher: ProcessLauncher) -> None:
    await ready(launcher, "--push-lines", path=None, read_line=read_llamacpp)


async def test_what_was_pushed_before_we_listened_counts(launcher: ProcessLauncher) -> None:
    spec = dataclasses.replace(
        fake_spec("--push-lines", "--push-only", port=Ports().take()), readiness=Readiness(read_line=read_llamacpp)
    )
    process = await launcher.start(spec, identity())
    await line_of(process, 'cmd_child_to_router:state:{"state":"ready"')
    await wait_ready(process, spec, deadline_s=5, on_loading=lambda _: None)


async def test_an_exit_while_loading_is_told_at_once_with_its_cause(launcher: ProcessLauncher) -> None:
    began = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        await ready(launcher, "--say", "CUDA error: out of memory", "--exit-at-start", "1", deadline_s=60)
    assert caught.value.message == (
        "cannot use tiny-a: it exited with status 1 while loading: CUDA error: out of memory; "
        "`llm-router logs tiny-a` has more"
    )
    assert time.monotonic() - began < 5


async def test_an_exit_is_told_while_an_answer_is_awaited(launcher: ProcessLauncher) -> None:
    """SGLang's health answer takes a second; an engine may also die without giving one."""
    port = Ports().take()
    code = f"""
import os, socket
server = socket.create_server(("127.0.0.1", {port}))
connection, _ = server.accept()
connection.recv(1)
if os.fork() == 0:  # holds the connection open, so that no answer comes and no end of it either
    while connection.recv(1000):
        pass
os._exit(7)
"""
    spec = dataclasses.replace(python_spec(code), address=Address(host="127.0.0.1", port=port))
    process = await launcher.start(spec, identity(model="m"))
    async with asyncio.timeout(5):
        with pytest.raises(LaunchError, match="cannot use m: it exited with status 7 while loading"):
            await wait_ready(process, spec, deadline_s=60, on_loading=lambda _: None)


async def resumed(launcher: ProcessLauncher, spec: LaunchSpec, *, port: int | None = None) -> None:
    """Wait for it as after an adoption; `port`: where it is thought to answer."""
    process = await launcher.start(spec, identity(model="m"))
    await line_of(process, "listening")
    spec = dataclasses.replace(
        spec,
        readiness=Readiness(read_line=read_llamacpp),
        address=dataclasses.replace(spec.address, port=port or spec.address.port),
    )
    await wait_resumed(process, spec, deadline_s=0.5 if port is None else 5, on_loading=lambda _: None)


async def test_an_adopted_one_is_ready_when_it_answers(launcher: ProcessLauncher) -> None:
    await resumed(launcher, fake_spec(port=Ports().take()))


async def test_an_adopted_one_may_answer_by_a_child_of_its_own(launcher: ProcessLauncher) -> None:
    spec = fake_spec(port=Ports().take())
    wrapped = ("/bin/sh", "-c", '"$@"; exit', "sh", *spec.argv)
    await resumed(launcher, dataclasses.replace(spec, argv=wrapped))


async def test_the_old_lines_of_an_adopted_one_prove_nothing(launcher: ProcessLauncher) -> None:
    with pytest.raises(LaunchError, match=r"/health on port [0-9]+ answers HTTP 503"):
        await resumed(launcher, fake_spec("--push-lines", "--push-only", port=Ports().take()))


async def test_a_stranger_on_the_port_of_an_adopted_one_is_not_taken_for_it(launcher: ProcessLauncher) -> None:
    stranger = fake_spec(port=Ports().take())
    process = await launcher.start(stranger, identity(instance=2))
    await line_of(process, "listening")
    port = stranger.address.port
    with pytest.raises(LaunchError, match=rf"cannot use m: pid {process.pid} \(.*\) has taken its port {port}"):
        await resumed(launcher, fake_spec(port=Ports().take()), port=port)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (("--never-ready",), "/health on port PORT answers HTTP 503"),
        (("--never-ready", "--refuse-until-ready"), "port PORT refuses connections"),
    ],
)
async def test_the_deadline_says_what_was_seen_last(
    launcher: ProcessLauncher, options: tuple[str, ...], seen: str
) -> None:
    spec = fake_spec(*options, "--say", "waiting for a lock", port=Ports().take())
    process = await launcher.start(spec, identity(model="m"))
    with pytest.raises(LaunchError) as caught:
        await wait_ready(process, spec, deadline_s=0.8, on_loading=lambda _: None)
    assert f"not ready after 0.8 s ({seen.replace('PORT', str(spec.address.port))})" in caught.value.message
    assert "waiting for a lock" in caught.value.message
    assert not process.exited.done()


async def test_giving_up_the_wait_leaves_the_process_alone(launcher: ProcessLauncher) -> None:
    spec = fake_spec("--never-ready", port=Ports().take())
    process = await launcher.start(spec, identity())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await wait_ready(process, spec, deadline_s=60, on_loading=lambda _: None)
    await line_of(process, "listening")
    assert not process.exited.cancelled()


async def test_the_key_is_sent_where_readiness_needs_it(launcher: ProcessLauncher) -> None:
    spec = fake_spec("--api-key", "k", port=Ports().take())
    process = await launcher.start(spec, identity())
    await wait_ready(process, spec, deadline_s=10, on_loading=lambda _: None)
    keyed = Readiness(path="/v1/model", headers=(("Authorization", "Bearer k"),))
    assert await is_serving(dataclasses.replace(spec, readiness=keyed), 5)
    assert not await is_serving(dataclasses.replace(spec, readiness=Readiness(path="/v1/model")), 5)


async def answering(data: bytes) -> bool:
    """Whether a server that answers this counts as serving."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await is_serving(LaunchSpec(argv=(), address=Address(host="127.0.0.1", port=port)), 5)


@pytest.mark.parametrize(
    ("data", "serves"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 200\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 \r\n\r\n", False),
        (b"", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"\xff" * 100_000, False),
    ],
)
async def test_only_an_http_200_is_serving(data: bytes, serves: bool) -> None:
    assert await answering(data) is serves


async def test_nobody_there_is_not_serving() -> None:
    assert not await is_serving(LaunchSpec(argv=(), address=Address(host="127.0.0.1", port=Ports().take())), 5)


def program(path: Path, body: str) -> tuple[str, ...]:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return (str(path), "--help")


async def test_help_is_asked_once_for_each_version_of_a_program(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    argv = program(tmp_path / "server", f'echo x >> {asked}; echo "one $1"; echo two >&2; exit 1')
    assert await help_text(argv) == "one --help\ntwo\n"
    assert await help_text(argv) == "one --help\ntwo\n"
    assert asked.read_text() == "x\n"
    assert await help_text(program(tmp_path / "server", "echo new")) == "new\n"


async def test_a_program_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "HELP_S", 0.2)
    assert await help_text(program(tmp_path / "server", "echo begun; sleep 60")) == "begun\n"


@pytest.mark.parametrize("name", ["no-such-program-here", "/no/such/file"])
async def test_a_missing_program_is_named(name: str) -> None:
    with pytest.raises(LaunchError, match=f"cannot find {name}: "):
        await help_text((name, "--help"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "it exited with status 0"),
        (3, "it exited with status 3"),
        (-9, "it was killed by SIGKILL"),
        (-4, "it was killed by SIGILL"),
        (-99, "it was killed by signal 99"),
        (None, "it ended"),
    ],
)
def test_an_end_in_words(status: int | None, words: str) -> None:
    assert exit_in_words(status) == words
