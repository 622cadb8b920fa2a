"""A systemd that isn't one: units are real processes of the test's, and their journal is a file that a stand-in for
`journalctl` on PATH follows. Follows systemd 252 in what a launcher can see of it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llm_router.errors import LaunchError
from llm_router.launchers.unit import UnitState

_JOURNALCTL = """#!{python} -IS
import json, os, sys, time
unit = sys.argv[sys.argv.index("--unit") + 1]
with open(os.path.join({folder!r}, unit)) as lines:
    rest = ""
    while True:
        rest += lines.readline()
        if rest.endswith("\\n"):
            print(json.dumps({{"__REALTIME_TIMESTAMP": "9", "MESSAGE": rest[:-1]}}), flush=True)
            rest = ""
        else:
            time.sleep(0.005)
"""


@dataclass
class FakeUnit:
    """`runs`: the command; None: the link in the folder of active scripts. `is_slow`: its start job goes on for ever,
    as with Type=notify. `restarts`: systemd starts it again when it crashes. `deaf`: only KILL ends it."""

    runs: list[str] | None = None
    is_slow: bool = False
    restarts: bool = False
    active: str = "inactive"
    result: str = "success"
    status: int | None = None
    started_us: int = 0
    child: subprocess.Popen[bytes] | None = None
    stop_job: asyncio.Future[str] | None = None
    watchers: set[Callable[[], None]] = field(default_factory=set)


class FakeSystemd:
    """Implements `launchers.unit.UnitManager`. `asked`: verbs and units in order. `refuses`: every job."""

    is_own = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.mkdir(parents=True)
        self.active = folder / "state" / "active"
        self.units: dict[str, FakeUnit] = {}
        self.asked: list[str] = []
        self.refuses = False

    def add(self, name: str, unit: FakeUnit | None = None) -> FakeUnit:
        self.units[name] = unit or FakeUnit()
        (self.journal / name).touch()
        return self.units[name]

    def install_journalctl(self, folder: Path) -> None:
        folder.mkdir()
        program = folder / "journalctl"
        program.write_text(_JOURNALCTL.format(python=sys.executable, folder=str(self.journal)))
        program.chmod(0o755)

    def running(self) -> list[str]:
        return [name for name, unit in self.units.items() if unit.child is not None]

    # -- what the launcher asks

    async def state(self, unit: str) -> UnitState:
        if unit not in self.units:
            return UnitState(load="not-found", active="inactive")
        one = self.units[unit]
        return UnitState(
            load="loaded",
            active=one.active,
            pid=0 if one.child is None else one.child.pid,
            started_us=one.started_us,
            status=one.status if one.child is None else None,
            result=one.result,
        )

    async def begin(self, verb: str, unit: str) -> asyncio.Future[str]:
        self.asked.append(f"{verb} {unit}")
        if self.refuses:
            raise LaunchError(f"cannot {verb.lower()} {unit}: systemd refuses it")
        one, job = self.units[unit], asyncio.get_running_loop().create_future()
        if verb == "Stop":
            self._stop(one, job)
        elif one.child is not None:
            job.set_result("done")
        else:
            self._start(unit, one, job)
        return job

    async def kill(self, unit: str, number: int) -> None:
        self.asked.append(f"{signal.Signals(number).name} {unit}")
        if (child := self.units[unit].child) is not None:
            os.kill(child.pid, number)

    async def forgive(self, unit: str) -> None:
        self.asked.append(f"Forgive {unit}")
        self.units[unit].active = "inactive"

    async def watch(self, unit: str, on_change: Callable[[], None]) -> Callable[[], None]:
        self.units[unit].watchers.add(on_change)
        return lambda: self.units[unit].watchers.discard(on_change)

    async def like(self, unit: str) -> str | None:
        return next((name for name in self.units if name[:3] == unit[:3]), None)

    def close(self) -> None: ...

    # -- what it does

    def _start(self, name: str, unit: FakeUnit, job: asyncio.Future[str]) -> None:
        command = unit.runs or [str(self.active / name)]
        try:
            with (self.journal / name).open("ab") as out:
                unit.child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        except OSError as error:
            (self.journal / name).write_text(f"{name}: Failed to execute {command[0]}: {error.strerror}\n")
            unit.active, unit.result = "failed", "exit-code"
            job.set_result("failed")
            return
        unit.started_us += 1
        unit.active = "activating" if unit.is_slow else "active"
        if not unit.is_slow:
            job.set_result("done")
        pidfd = os.pidfd_open(unit.child.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._on_end, name, unit, pidfd)
        _tell(unit)

    def _stop(self, unit: FakeUnit, job: asyncio.Future[str]) -> None:
        if unit.child is None:
            unit.active = "inactive"
            job.set_result("done")
            return
        unit.active = "deactivating"
        unit.stop_job = job
        os.kill(unit.child.pid, signal.SIGTERM)
        _tell(unit)

    def _on_end(self, name: str, unit: FakeUnit, pidfd: int) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        assert unit.child is not None
        unit.status = unit.child.wait()
        unit.child = None
        job, unit.stop_job = unit.stop_job, None
        is_failure = unit.status != 0 and job is None
        unit.active, unit.result = ("failed", "exit-code") if is_failure else ("inactive", "success")
        _tell(unit)
        if job is not None:
            job.set_result("done")
        elif unit.restarts:
            loop.call_soon(self._start, name, unit, loop.create_future())


def _tell(unit: FakeUnit) -> None:
    for on_change in tuple(unit.watchers):
        on_change()


def script(path: Path, *options: str) -> str:
    """An executable that starts the fake server with these options."""
    fake = Path(__file__).parents[1] / "programs" / "fake_backend.py"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {fake} {" ".join(options)} "$@"\n')
    path.chmod(0o755)
    return str(path)
