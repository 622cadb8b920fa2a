"""Starting, noticing the end, and ending processes: with a real child each time."""

import asyncio
import contextlib
import dataclasses
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from launching import AT_ONCE, fake_spec, identity, is_alive, line_of, python_spec

from llm_router.backends.base import Address, LaunchSpec, StopPlan
from llm_router.errors import LaunchError
from llm_router.launchers.ledger import Entry, Ledger
from llm_router.launchers.process import ProcessLauncher


async def test_an_exit_is_noticed_with_its_status_and_its_last_words(launcher: ProcessLauncher) -> None:
    process = await launcher.start(fake_spec("--say", "error: no", "--exit-at-start", "3"), identity())
    assert await process.exited == 3
    assert process.output.tail() == ["error: no"]


async def test_a_death_by_signal_is_a_negative_status(launcher: ProcessLauncher) -> None:
    process = await launcher.start(fake_spec("--crash-after-s", "0"), identity())
    assert await process.exited == -signal.SIGKILL


async def test_a_stop_ends_it_gently_and_leaves_no_trace(launcher: ProcessLauncher, tmp_path: Path) -> None:
    process = await launcher.start(fake_spec(), identity())
    await line_of(process, "listening")
    await process.stop(StopPlan())
    assert process.exited.result() == 0
    assert not is_alive(process.pid, zombie=True)
    assert list((tmp_path / "state" / "instances").iterdir()) == []
    await process.stop(StopPlan())  # after the end: nothing to do


async def test_what_ignores_term_is_killed_after_its_grace(launcher: ProcessLauncher) -> None:
    process = await launcher.start(fake_spec("--ignore-term"), identity())
    await line_of(process, "listening")
    began = time.monotonic()
    await process.stop(StopPlan(grace_s=0.2, kill_after_s=0.1))
    assert process.exited.result() == -signal.SIGKILL
    assert 0.25 < time.monotonic() - began < 2
    assert "SIGTERM 1" in process.output.tail()


async def test_a_second_term_is_sent_to_those_that_need_one(launcher: ProcessLauncher) -> None:
    process = await launcher.start(fake_spec("--second-term"), identity())
    await line_of(process, "listening")
    await process.stop(StopPlan(grace_s=0.1, second_term=True, kill_after_s=30))
    assert process.exited.result() == 1


async def test_a_server_that_waits_for_a_farewell_gets_it(launcher: ProcessLauncher) -> None:
    code = "import signal as s; s.signal(s.SIGTERM, s.SIG_IGN); print('up', flush=True); input(); raise SystemExit(3)"
    process = await launcher.start(python_spec(code), identity())
    await line_of(process, "up")
    await process.stop(StopPlan(grace_s=30, farewell="bye"))
    assert process.exited.result() == 3


async def test_a_farewell_to_a_server_that_is_gone_does_no_harm(launcher: ProcessLauncher) -> None:
    process = await launcher.start(python_spec("pass"), identity())
    await asyncio.wait([process.exited])
    await process.stop(StopPlan(farewell="bye"))
    assert process.exited.result() == 0


@pytest.mark.parametrize("kind", ["group", "session"])
@pytest.mark.parametrize("options", [(), ("--crash-after-s", "0")])
async def test_children_that_outlive_it_are_ended_too(
    launcher: ProcessLauncher, kind: str, options: tuple[str, ...]
) -> None:
    process = await launcher.start(fake_spec("--spawn-child", kind, *options), identity())
    child = int((await line_of(process, "child")).split()[1])
    await process.stop(StopPlan(grace_s=0.2, kill_after_s=0.1))
    assert not is_alive(child)


async def test_a_crash_takes_its_children_with_it_without_being_asked(launcher: ProcessLauncher) -> None:
    process = await launcher.start(fake_spec("--spawn-child", "group", "--crash-after-s", "0"), identity())
    child = int((await line_of(process, "child")).split()[1])
    await process.exited
    async with asyncio.timeout(5):
        async for _ in process.output.follow():  # ends when nothing of it is left
            pass
    assert not is_alive(child)


async def test_the_engine_behind_a_wrapper_script_gets_its_grace(launcher: ProcessLauncher, tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    engine = tmp_path / "engine.py"
    engine.write_text("""
import os, signal, sys, time
def save(*_):
    time.sleep(0.3)
    os.write(1, b"saved\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("up", flush=True)
signal.pause()
""")
    script.write_text(f"#!/bin/sh\npython3 -IS {engine}\nexit 0\n")
    script.chmod(0o755)
    spec = LaunchSpec(argv=(str(script),), address=Address(host="127.0.0.1", port=1))
    process = await launcher.start(spec, identity())
    await line_of(process, "up")
    await process.stop(StopPlan(grace_s=20, kill_after_s=1))
    assert "saved" in process.output.tail()


async def test_stopping_goes_on_when_the_caller_is_cancelled(launcher: ProcessLauncher) -> None:
    process = await launcher.start(fake_spec("--ignore-term"), identity())
    await line_of(process, "listening")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await process.stop(StopPlan(grace_s=0.1, kill_after_s=0.1))
    async with asyncio.timeout(5):
        assert await process.exited == -signal.SIGKILL


async def test_two_callers_share_one_stop_and_the_hastier_one_sets_the_pace(launcher: ProcessLauncher) -> None:
    process = await launcher.start(fake_spec("--ignore-term"), identity())
    await line_of(process, "listening")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(process.stop(StopPlan(grace_s=60)))
        group.create_task(process.stop(AT_ONCE))
    assert process.output.tail().count("SIGTERM 1") <= 1
    assert "SIGTERM 2" not in process.output.tail()


async def test_stdin_never_ends(launcher: ProcessLauncher, tmp_path: Path) -> None:
    process = await launcher.start(fake_spec("--exit-on-stdin-eof"), identity())
    await line_of(process, "listening")
    (fifo,) = (tmp_path / "state" / "instances").glob("*.stdin")
    for word in ("one", "two"):  # each writer comes and goes, as routers do
        fifo.write_text(f"{word}\n")
        assert await line_of(process, f"stdin: {word}")
    assert not process.exited.done()


async def test_its_entry_is_the_last_to_go(
    launcher: ProcessLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that is killed in between leaves nothing that the next one wouldn't find."""
    left: list[str] = []
    remove = Ledger.remove

    def removing(ledger: Ledger, entry: Entry) -> None:
        left.extend(path.suffix for path in (tmp_path / "state" / "instances").iterdir())
        remove(ledger, entry)

    monkeypatch.setattr(Ledger, "remove", removing)
    process = await launcher.start(fake_spec(), identity())
    await process.stop(AT_ONCE)
    assert left == [".json"]


async def test_it_inherits_no_open_file_of_ours(launcher: ProcessLauncher) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    process = await launcher.start(
        python_spec("import os;print(sorted(map(int,os.listdir('/proc/self/fd'))))"), identity()
    )
    assert await process.exited == 0
    os.close(reading)
    os.close(writing)
    assert process.output.tail() == ["[0, 1, 2, 3]"]  # 3: the folder it is listing


async def test_what_systemd_told_the_router_and_its_own_key_are_not_for_the_child(
    launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("LLM_ROUTER_KEY", "admin")
    spec = python_spec("import os;print('has', 'NOTIFY_SOCKET' in os.environ, 'LLM_ROUTER_KEY' in os.environ)")
    process = await launcher.start(spec, identity())
    assert await line_of(process, "has") == "has False False"


async def test_it_gets_our_environment_its_own_and_the_token(
    launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "1")
    monkeypatch.setenv("BOTH", "router")
    code = "import os;print(os.environ['OURS'],os.environ['BOTH'],os.environ['LLM_ROUTER_INSTANCE'].split(':')[1])"
    plain = python_spec(code)
    spec = LaunchSpec(argv=plain.argv, address=plain.address, env={"BOTH": "model"})
    process = await launcher.start(spec, identity(instance=7))
    await process.exited
    assert process.output.tail() == ["1 model 7"]


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (None, 0, "no such file"),
        ("#!/bin/sh\n", 0o644, "chmod +x"),
        ("#!/no/such/shell\n", 0o755, "the interpreter named in its first line doesn't exist"),
        ("echo\n", 0o755, 'begin it with "#!/bin/sh"'),
    ],
)
async def test_what_cannot_be_started_is_told_with_its_remedy(
    launcher: ProcessLauncher, tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    script = tmp_path / "start.sh"
    if content is not None:
        script.write_text(content)
        script.chmod(mode)
    with pytest.raises(LaunchError) as caught:
        await launcher.start(LaunchSpec(argv=(str(script),), address=Address(host="", port=0)), identity())
    assert caught.value.message.startswith(f"cannot start {script}: ")
    assert words in caught.value.message
    assert list((tmp_path / "state" / "instances").iterdir()) == []


async def test_too_few_open_files_are_told_with_where_to_raise_them(launcher: ProcessLauncher, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    used = []
    try:
        with contextlib.suppress(OSError):
            while True:
                used.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(LaunchError, match=r"Too many open files; .*LimitNOFILE"):
            await launcher.start(python_spec("input()"), identity())
    finally:
        for fd in used:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list((tmp_path / "state" / "instances").iterdir()) == []


async def test_old_logs_make_room(launcher: ProcessLauncher, tmp_path: Path) -> None:
    for instance in range(1, 9):
        process = await launcher.start(python_spec(""), identity(instance, model="org/model:tag"))
        await process.exited
    logs = sorted(path.name for path in (tmp_path / "state" / "logs").iterdir())
    assert logs == [f"org-model-tag-{number}.log" for number in (4, 5, 6, 7, 8)]


async def test_it_runs_in_its_folder(launcher: ProcessLauncher, tmp_path: Path) -> None:
    spec = dataclasses.replace(python_spec("import os; print(os.getcwd())"), directory=str(tmp_path))
    process = await launcher.start(spec, identity())
    await line_of(process, str(tmp_path))


async def test_a_missing_folder_is_named(launcher: ProcessLauncher, tmp_path: Path) -> None:
    spec = dataclasses.replace(python_spec("pass"), directory=str(tmp_path / "none"))
    with pytest.raises(LaunchError, match=r"in .*/none: No such file or directory; correct the folder"):
        await launcher.start(spec, identity())
