"""Starts instances in containers: a `docker run` in the foreground (or podman's), whose end takes the container along.

Counterpart: `process`, which runs the client. The client passes signals on and its output through, so the container
starts, says and ends what the client does; only a KILL, or a client that dies, would leave it running.
"""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath

from llm_router.backends.base import LaunchSpec, StopPlan
from llm_router.launchers import procfs
from llm_router.launchers.base import Identity, Launcher, Output, RunningProcess
from llm_router.launchers.instance import TOKEN_VARIABLE

log = logging.getLogger(__name__)

_PROGRAMS = ("docker", "podman", "nerdctl")
_DETACHED = ("-d", "--detach", "--detach=true")


def container_of(argv: Sequence[str]) -> str | None:
    """The name of the container that a command line runs, "" where it gives none; None: it runs no container."""
    if not argv or PurePath(argv[0]).name not in _PROGRAMS or "run" not in argv:
        return None
    for flag, value in zip(argv, (*argv[1:], ""), strict=True):
        if flag.startswith("--name="):
            return flag.removeprefix("--name=")
        if flag == "--name":
            return value
    return ""


class ContainerLauncher:
    """Implements `launchers.base.Launcher` with another, which starts the clients."""

    def __init__(self, processes: Launcher) -> None:
        self._processes = processes

    async def start(self, spec: LaunchSpec, identity: Identity) -> RunningProcess:
        """See `launchers.base`. A container without a name gets one; what still has its name from before is removed;
        "detached" is left out, since the client is what is watched. What runs in it gets our mark, by which it is known
        as this instance's, where its environment may be seen."""
        name = container_of(spec.argv)
        if name is None:
            return await self._processes.start(spec, identity)
        argv = tuple(item for item in spec.argv if item not in _DETACHED)
        more = [f"--env={TOKEN_VARIABLE}"]
        if name:
            await _removed(argv[0], name)
        else:
            name = f"llm-router-{re.sub(r'[^A-Za-z0-9_.-]+', '-', identity.model)}-{identity.instance}"
            more += ["--name", name]
        after_run = argv.index("run") + 1
        argv = (*argv[:after_run], *more, *argv[after_run:])
        return Container(await self._processes.start(replace(spec, argv=argv), identity), argv[0], name)

    def hand_over(self, process: RunningProcess, identity: Identity) -> None:
        """See `launchers.base`."""
        self._processes.hand_over(process.client if isinstance(process, Container) else process, identity)

    async def survivors(self) -> Sequence[RunningProcess]:
        """See `launchers.base`. A client whose router is gone still stands for its container; one that is ended now
        leaves it, and it is removed."""
        clients = list(_clients())
        found = [_as_started(process) for process in await self._processes.survivors()]
        await asyncio.gather(*(_removed(program, name) for client, program, name in clients if _is_over(client)))
        return found

    def close(self) -> None:
        """See `launchers.base`."""
        self._processes.close()


class Container:
    """Implements `launchers.base.RunningProcess`: the client, and behind it the container `name`."""

    def __init__(self, client: RunningProcess, program: str, name: str) -> None:
        self.client = client
        self._program = program
        self._name = name

    @property
    def identity(self) -> Identity:
        return self.client.identity

    @property
    def pid(self) -> int:
        """The client's: the container's own processes belong to the daemon."""
        return self.client.pid

    @property
    def output(self) -> Output:
        return self.client.output

    @property
    def exited(self) -> asyncio.Future[int | None]:
        return self.client.exited

    async def stop(self, plan: StopPlan) -> None:
        """See `launchers.base`. Whatever became of the client, the container is gone afterwards."""
        await self.client.stop(plan)
        await _removed(self._program, self._name)


def _clients() -> Iterator[tuple[procfs.Stat, str, str]]:
    """Those that run, of whichever router, each with its program and the container's name."""
    for pid in procfs.pids():
        argv = procfs.command_line(pid)
        name = container_of(argv)
        stat = procfs.read_stat(pid) if name and procfs.environment_value(pid, TOKEN_VARIABLE) else None
        if name and stat is not None:
            yield stat, argv[0], name


def _is_over(before: procfs.Stat) -> bool:
    now = procfs.read_stat(before.pid)
    return now is None or not now.is_alive or now.started != before.started


def _as_started(process: RunningProcess) -> RunningProcess:
    argv = procfs.command_line(process.pid)
    name = container_of(argv)
    return Container(process, argv[0], name) if name else process


async def _removed(program: str, name: str) -> None:
    """A client without a daemon, or without such a container, has nothing to remove."""
    argv = (program, "rm", "--force", name)
    try:
        result = await asyncio.to_thread(
            subprocess.run, argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("cannot remove the container %s: %s; run `%s`", name, error, " ".join(argv))
        return
    said = result.stderr.decode(errors="replace").strip()
    if result.returncode and "no such container" not in said.lower():
        log.warning("cannot remove the container %s: %s", name, said)
