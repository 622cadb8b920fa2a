"""What becomes of a router on a machine that has a bad day: it serves, or says exactly why not, and loses nothing.

A full disk, one that can only be read, a clock that is set, a port that is taken, too few open files, files of its own
that are damaged. Beside it: `tests/history` for each way in which its file can be spoilt, `tests/box` for the whole
machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from nursery import Child, run
from own_disk import DiskRouter, needs_mounts
from routing import RouterProcess, Start, fake, is_alive, leftovers, numbers

MODELS = {"a": fake(), "b": fake()}
SAID = {name: numbers(name, 30) for name in MODELS}


async def says(router: RouterProcess, model: str) -> str:
    return (await router.chat(model)).text


async def pid_of(router: RouterProcess, model: str) -> int:
    pid = (await router.status())[model]["pid"]
    assert isinstance(pid, int)
    return pid


def warnings(router: RouterProcess) -> list[str]:
    return [line.split(" WARNING ", 1)[1] for line in router.log.read_text().splitlines() if " WARNING " in line]


def history_told(router: RouterProcess) -> list[str]:
    """What was said of the history's file, in its order."""
    return re.findall("cannot write history|history is written to", router.log.read_text())


def known_loads(folder: Path) -> list[str]:
    """Of a copy: SQLite doesn't follow a path into another process's disk."""
    with TemporaryDirectory() as copy:
        for path in folder.glob("history.sqlite*"):
            shutil.copy(path, copy)
        with closing(sqlite3.connect(f"{copy}/history.sqlite")) as database:
            return [model for (model,) in database.execute("SELECT model FROM loads ORDER BY id")]


# -- the disk


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[DiskRouter]:
    """Its state folder is a disk of 3 MB."""
    router = DiskRouter(tmp_path / "router", MODELS, patience="0s")
    await router.start()
    yield router
    assert await router.stop() == 0
    assert leftovers(router) == []
    assert "Traceback" not in router.log.read_text(), router.log.read_text()


@needs_mounts()
async def test_a_full_disk_stops_no_model_and_what_it_refused_is_written_when_there_is_room(router: DiskRouter) -> None:
    assert await says(router, "a") == SAID["a"]
    router.fill()
    for model in ("a", "b", "a", "b"):  # one that runs already, and new ones
        assert await says(router, model) == SAID[model]
    found = " ".join(warnings(router))
    assert "No space left on device; what starts now is kept in /dev/shm/" in found
    assert "make room on its disk" in found

    router.make_room()
    assert await says(router, "a") == SAID["a"]
    async with asyncio.timeout(5):
        # Its writer is a thread.
        while history_told(router)[-1] != "history is written to" or len(known_loads(router.disk)) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    told = history_told(router)
    # More than once where a server that leaves gives a block of the disk back, and a write gets through.
    assert told == ["cannot write history", "history is written to"] * (len(told) // 2), "each change once"
    assert known_loads(router.disk) == ["a", "b", "a", "b", "a"]

    router.fill()
    assert await says(router, "b") == SAID["b"]
    held = await pid_of(router, "b")
    router.stay(held)
    await router.kill()
    await router.start()
    assert await pid_of(router, "b") == held
    assert await says(router, "a") == SAID["a"]
    assert not is_alive(held)


@needs_mounts()
async def test_a_disk_that_can_only_be_read_stops_no_model_and_a_new_router_takes_over_what_runs(
    router: DiskRouter,
) -> None:
    assert await says(router, "a") == SAID["a"]
    held = await pid_of(router, "a")
    router.make_read_only()
    router.stay(held)
    await router.kill()
    await router.start()
    assert await pid_of(router, "a") == held
    for model in ("a", "b", "a"):
        assert await says(router, model) == SAID[model]
    assert not is_alive(held)
    found = " ".join(warnings(router))
    assert "Read-only file system; what starts now is kept in" in found
    assert "mount -o remount,rw" in found
    assert "what is learned now will be forgotten" in found


# -- what it wrote itself


async def test_damaged_files_of_its_own_cost_a_warning_each_and_no_process_is_left(start: Start) -> None:
    router = await start(MODELS)
    assert await says(router, "a") == SAID["a"]
    held = await pid_of(router, "a")
    await router.kill()
    state = router.folder / "state"
    (entry,) = (state / "instances").glob("*.json")
    entry.write_bytes(b"\xff\x00 half a line")
    (state / "history.sqlite-wal").unlink()
    (state / "history.sqlite").write_bytes(os.urandom(8192))
    await router.start()
    assert not is_alive(held)
    assert await says(router, "a") == SAID["a"]
    found = warnings(router)
    assert any("it is set aside as" in line for line in found)
    assert any("is damaged" in line and "history.sqlite.bad" in line for line in found)
    assert (state / "history.sqlite.bad").exists()


# -- the clock


def _run_with_a_clock(argv: list[str], output: Connection, log: str) -> None:
    shift, right = Path(argv[-1]).parent / "clock", time.time
    time.time = lambda: right() + float(shift.read_text() or 0)
    run(argv, output, log)


class ClockRouter(RouterProcess):
    """`shift`: a file with the seconds by which its clock is wrong."""

    run = staticmethod(_run_with_a_clock)

    @property
    def shift(self) -> Path:
        return self.folder / "clock"

    def spawn(self) -> None:
        if not self.shift.exists():
            self.shift.write_text("0")
        super().spawn()


async def test_a_clock_that_is_set_changes_no_answer_no_order_and_no_figure(tmp_path: Path) -> None:
    router = ClockRouter(tmp_path / "router", {**MODELS, "a": fake("--token-ms", "5")}, patience="0s")
    await router.start()
    for days in (0, 10, -20):
        async with asyncio.TaskGroup() as group:
            running = group.create_task(router.chat("a"))
            await router.until_running("a", 1)
            router.shift.write_text(str(days * 24 * 3600))
        events = running.result()
        assert (events.text, events.error, events.done) == (SAID["a"], None, True)
        timings = next(chunk["timings"] for chunk in events.chunks if chunk.get("timings"))
        assert 0 < timings["predicted_ms"] < 10_000
        assert await says(router, "b") == SAID["b"]
    ages = [model.get("since_s") for model in (await router.status()).values()]
    assert all(age is None or 0 <= age < 60 for age in ages)
    assert await router.stop() == 0
    assert known_loads(router.folder / "state") == ["a", "b"] * 3
    assert leftovers(router) == []


def test_the_wall_clock_is_asked_only_for_what_is_shown_or_written_down() -> None:
    """Every duration, deadline and order must come from a clock that nobody sets."""
    source = Path(__file__).parents[2] / "src" / "llm_router"
    asked = re.compile(r"\btime\.time(_ns)?\b|datetime\.now|utcnow|CLOCK_REALTIME|from time import .*\btime\b")
    found = {str(path.relative_to(source)) for path in source.rglob("*.py") if asked.search(path.read_text())}
    assert found <= {
        "api/admin.py",  # when, in replies
        "api/further.py",
        "api/ollama.py",
        "api/ollama_models.py",
        "api/timer.py",
        "app/serve.py",  # `created` of models
        "history/store.py",  # how old is too old to be remembered: 90 days
        "relay/exchange.py",  # `created` of answers
        "runtime/learning.py",  # records
        "runtime/supervisor.py",
        "runtime/traces.py",  # when a span began, for a collector
    }


# -- ports


async def test_a_port_that_is_taken_is_told_with_who_has_it(tmp_path: Path, start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        router = await start({**MODELS, "fixed": {**fake(), "port": port}})
        refused = await router.chat("fixed")
        assert f"cannot use port {port}: " in refused.error["message"]
        assert f"pid {os.getpid()}" in refused.error["message"]
        assert await says(router, "a") == SAID["a"]

        (tmp_path / "second.json").write_text(json.dumps({"router_port": port, "models": MODELS}))
        second = Child(["serve", "--config", str(tmp_path / "second.json")], tmp_path / "second.log")
        assert await second.wait() == 1
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in (tmp_path / "second.log").read_text()


# -- open files


@contextmanager
def open_files(router: RouterProcess, limit: int) -> Iterator[None]:
    before = resource.prlimit(router.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(router.pid, resource.RLIMIT_NOFILE, before)


async def test_too_few_open_files_cut_no_stream_and_what_waits_for_them_goes_on(
    start: Start,
) -> None:
    router = await start({**MODELS, "a": fake("--token-ms", "10")}, patience="0s")
    await says(router, "a")
    async with router.client() as client, asyncio.TaskGroup() as group:
        running = group.create_task(router.chat("a"))
        await router.until_running("a", 1)
        await client.get("/v1/models")  # a connection for later
        with open_files(router, highest(router) + 3):
            await crowd(router, 30)
        with open_files(router, 10):  # it has more than that already
            body = {"model": "b", "messages": [{"role": "user", "content": "x"}]}
            waiting = group.create_task(client.post("/v1/chat/completions", json=body))
            async with asyncio.timeout(5):
                while "cannot see whether all processes" not in router.log.read_text():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
    assert running.result().text == SAID["a"]
    assert waiting.result().json()["choices"][0]["message"]["content"] == SAID["b"]
    assert any("Too many open files" in line and "LimitNOFILE" in line for line in warnings(router))


def highest(router: RouterProcess) -> int:
    return max(int(path.name) for path in Path(f"/proc/{router.pid}/fd").iterdir())


async def crowd(router: RouterProcess, count: int) -> None:
    """More connections than it can take: the last is closed at once rather than left hanging."""
    port = int(router.url.rpartition(":")[2])
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    try:
        async with asyncio.timeout(5):
            assert await connections[-1][0].read() == b""
    finally:
        for _, writer in connections:
            writer.close()
