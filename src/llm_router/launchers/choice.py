"""Sends each spec to the launcher that can start it. Counterparts: `container` (and `process`), `systemd`."""

from __future__ import annotations

from collections.abc import Sequence

from llm_router.backends.base import LaunchSpec
from llm_router.launchers.base import Identity, Launcher, RunningProcess


class Launchers:
    """Implements `launchers.base.Launcher` with others: `units` for specs that name a `service`, `processes` for the
    rest, containers among them."""

    def __init__(self, *, processes: Launcher, units: Launcher) -> None:
        self._processes = processes
        self._units = units
        self._theirs: dict[RunningProcess, Launcher] = {}

    async def start(self, spec: LaunchSpec, identity: Identity) -> RunningProcess:
        """See `launchers.base`."""
        launcher = self._processes if spec.service is None else self._units
        return self._note(await launcher.start(spec, identity), launcher)

    def hand_over(self, process: RunningProcess, identity: Identity) -> None:
        """See `launchers.base`."""
        self._theirs[process].hand_over(process, identity)

    async def survivors(self) -> Sequence[RunningProcess]:
        """See `launchers.base`."""
        launchers = (self._processes, self._units)
        return [self._note(process, launcher) for launcher in launchers for process in await launcher.survivors()]

    def close(self) -> None:
        """See `launchers.base`."""
        self._processes.close()
        self._units.close()

    def _note(self, process: RunningProcess, launcher: Launcher) -> RunningProcess:
        self._theirs[process] = launcher
        process.exited.add_done_callback(lambda _: self._theirs.pop(process, None))
        return process
