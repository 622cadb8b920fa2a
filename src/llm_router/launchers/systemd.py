"""Starts instances as systemd units, and finds those that an earlier router, or somebody else, left running.

Counterparts: `manager`, which asks systemd; `active`, which says what a unit runs; `unit`, which is one of them while
it runs. A unit is started and stopped, never edited: what belongs into its file is its owner's business.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_router.backends.base import LaunchSpec
from llm_router.errors import LaunchError
from llm_router.launchers import procfs
from llm_router.launchers.active import Active
from llm_router.launchers.base import Identity, RunningProcess
from llm_router.launchers.excerpt import meaningful_tail
from llm_router.launchers.journal import Journal
from llm_router.launchers.ledger import Entry, Ledger
from llm_router.launchers.unit import Unit, UnitManager, UnitState, unit_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A model of the configuration that runs in a unit. `script`: what the unit is to run for it; None: whatever the
    unit runs. `identity`: as it would be if it ran now; its number isn't given to anyone else."""

    service: str
    script: str | None
    identity: Identity


class SystemdLauncher:
    """Implements `launchers.base.Launcher` for specs that name a `service`. Use it on one event loop; `close` it.

    `known`: the models that run in units, asked once by `survivors`. A unit of the user's own manager goes before one
    of the machine's with the same name.
    """

    def __init__(
        self,
        state_dir: Path,
        known: Callable[[], Iterable[Known]] = tuple,
        managers: Sequence[UnitManager] | None = None,
    ) -> None:
        self._known = known
        self._managers = managers
        self._active = Active(state_dir / "active")
        self._folder = state_dir / "units"
        self._ledger = Ledger(self._folder)
        self.running: dict[Unit, Entry] = {}

    async def start(self, spec: LaunchSpec, identity: Identity) -> Unit:
        """See `launchers.base`. A unit that runs this very script already is taken as it is. Waits until the unit has a
        main process; a cancelled start stops the unit first."""
        assert spec.service is not None
        name = unit_name(spec.service)
        manager, before = await self._find(name)
        entry = self._remember(_entry(name, identity))
        try:
            if spec.argv and not self._active.is_current(name, spec.argv[0], spec.env):
                # Stopped before: what runs is always what the link says, whenever a router is killed in between.
                if before.is_up:
                    await asyncio.wait([await manager.begin("Stop", name)])
                self._active.point(name, spec.argv[0], spec.env)
            state = await self._started(manager, name, before)
            return await self._own(name, manager, state, entry)
        except BaseException:
            await self._undo(manager, name, entry)
            raise

    def hand_over(self, process: RunningProcess, identity: Identity) -> None:
        """See `launchers.base`."""
        assert isinstance(process, Unit)
        process.identity = identity
        self.running[process] = self._remember(self.running[process].handed_over(identity))

    async def survivors(self) -> Sequence[Unit]:
        """See `launchers.base`: every unit of the configuration that runs. Whose instance it is says the ledger, else
        the script that it runs; of a unit whose model can't be told, the identity names none."""
        known: dict[str, list[Known]] = {}
        for one in self._known():
            known.setdefault(unit_name(one.service), []).append(one)
        entries = {entry.log: entry for entry in self._ledger.entries()}
        found = []
        for name in known:
            try:
                unit = await self._adopted(name, entries.pop(name, None), known[name])
            except LaunchError as error:
                log.warning("%s", error)
                continue
            found += [] if unit is None else [unit]
        for entry in entries.values():
            self._ledger.remove(entry)
        return found

    def close(self) -> None:
        """Let go of what still runs, without stopping it. Idempotent."""
        for unit in list(self.running):
            unit.detach()
        self.running.clear()
        for manager in self._managers or ():
            manager.close()

    # -- start

    async def _find(self, name: str) -> tuple[UnitManager, UnitState]:
        """Raises: LaunchError for a unit that doesn't exist or can't be started."""
        if self._managers is None:
            self._managers = _managers()
        failure: LaunchError | None = None
        for manager in self._managers:
            try:
                state = await manager.state(name)
            except LaunchError as error:
                failure = error
                continue
            if state.load != "not-found":
                _refuse_unusable(name, state)
                return manager, state
        raise failure or LaunchError(await self._no_such_unit(name))

    async def _no_such_unit(self, name: str) -> str:
        for manager in self._managers or ():
            if (like := await manager.like(name)) is not None:
                return f'cannot start {name}: systemd has no such unit; did you mean "{like}"?'
        return f"cannot start {name}: systemd has no such unit; `llm-router install` makes one, or correct the name"

    async def _started(self, manager: UnitManager, name: str, before: UnitState) -> UnitState:
        changed = asyncio.Event()
        end_watch = await manager.watch(name, changed.set)
        try:
            if before.active == "failed":
                await _forgiven(manager, name)
            job = await manager.begin("Start", name)
            while True:
                changed.clear()
                is_over = job.done()
                state = await manager.state(name)
                if state.pid and (is_over or (state.pid, state.started_us) != (before.pid, before.started_us)):
                    return state
                if is_over:
                    raise LaunchError(await self._why_not(manager, name, job.result(), state))
                await _first_of(job, changed)
        finally:
            end_watch()

    async def _own(self, name: str, manager: UnitManager, state: UnitState, entry: Entry) -> Unit:
        stat = procfs.read_stat(state.pid)
        entry = self._remember(entry.completed(state.pid, stat.started if stat else 0))
        return await self._followed(name, manager, state, entry)

    async def _followed(self, name: str, manager: UnitManager, state: UnitState, entry: Entry) -> Unit:
        output = Journal(name, is_own=manager.is_own, since_us=state.started_us)
        try:
            unit = Unit(
                name=name,
                identity=entry.identity,
                pid=state.pid,
                manager=manager,
                output=output,
                on_told=self._on_told,
                on_gone=self._on_gone,
            )
        except ProcessLookupError as error:
            await output.last_words()
            lines = _words(output.tail())
            output.detach()
            raise LaunchError(f"cannot start {name}: it ended at once{lines}; see `journalctl -u {name}`") from error
        self.running[unit] = entry
        unit.unwatch = await manager.watch(name, unit.look)
        unit.look()  # what happened before we watched
        return unit

    async def _undo(self, manager: UnitManager, name: str, entry: Entry) -> None:
        try:
            await asyncio.wait([await manager.begin("Stop", name)])
        except LaunchError as error:
            log.warning("%s", error)
        self._ledger.remove(entry)

    async def _why_not(self, manager: UnitManager, name: str, result: str, state: UnitState) -> str:
        option = "--user " if manager.is_own else ""
        if result == "done":
            return (
                f"cannot start {name}: it has no main process, so that its end couldn't be noticed; "
                'give it "Type=exec" and a command that stays in the foreground'
            )
        journal = Journal(name, is_own=manager.is_own, since_us=state.started_us)
        await journal.last_words()
        lines = _words(journal.tail())
        journal.detach()
        how = f"systemd says “{result}” ({state.result}){lines}"
        return f"cannot start {name}: {how}; see `systemctl {option}status {name}`"

    # -- adoption

    async def _adopted(self, name: str, entry: Entry | None, known: Sequence[Known]) -> Unit | None:
        manager, state = await self._find(name)
        if not state.is_up or not state.pid:
            if entry is not None:
                self._ledger.remove(entry)
            return None
        stat = procfs.read_stat(state.pid)
        started = stat.started if stat else 0
        # The unit may have been started anew, by systemd or somebody else, and may run something else now.
        is_ours = entry is not None and not entry.leaving and entry.boot == procfs.boot_id()
        if entry is None or not is_ours or (entry.pid and (entry.pid, entry.started) != (state.pid, started)):
            if entry is not None:
                self._ledger.remove(entry)
            entry = _entry(name, self._recognised(name, known))
        entry = self._remember(entry.completed(state.pid, started))
        return await self._followed(name, manager, state, entry)

    def _recognised(self, name: str, known: Sequence[Known]) -> Identity:
        """By the script that it runs; a unit that runs its own command can only be told where one model has it."""
        target = self._active.target(name)
        fitting = [one for one in known if one.script == target] if target is not None else list(known)
        if len(fitting) == 1 and (target is None) == (fitting[0].script is None):
            identity = fitting[0].identity
            port = identity.port or self._active.port(name)
            if port:
                return replace(identity, port=port)
        return replace(known[0].identity, model="", launch_key="")

    # -- the ledger

    def _remember(self, entry: Entry) -> Entry:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._ledger.write(entry)
        except OSError as error:
            log.warning("cannot write the ledger in %s: %s; a restarted router must recognise %s by its script",
                        self._folder, error, entry.identity.model)  # fmt: skip
        return entry

    def _on_told(self, unit: Unit) -> None:
        self.running[unit] = self._remember(self.running[unit].told_to_leave())

    def _on_gone(self, unit: Unit) -> None:
        self._ledger.remove(self.running.pop(unit))


def _managers() -> list[UnitManager]:
    """Imported only where units are used: reading D-Bus takes a tenth of a second to learn."""
    from llm_router.launchers.manager import Manager, has_own_manager

    return [*([Manager(is_own=True)] if has_own_manager() else []), Manager()]


def _entry(name: str, identity: Identity) -> Entry:
    """Its `log` is the unit, whose journal has the lines."""
    token = f"unit:{identity.instance}:{secrets.token_hex(8)}"
    return Entry(identity=identity, token=token, log=name, boot=procfs.boot_id())


def _refuse_unusable(name: str, state: UnitState) -> None:
    if state.load == "masked":
        raise LaunchError(f"cannot start {name}: it is masked; run `systemctl unmask {name}`")
    if state.load != "loaded":
        raise LaunchError(
            f"cannot start {name}: systemd can't use its file ({state.load}); `systemd-analyze verify {name}` says why"
        )


async def _forgiven(manager: UnitManager, name: str) -> None:
    """What has failed too often in a short time systemd doesn't start; how often is too often, the router decides."""
    try:
        await manager.forgive(name)
    except LaunchError as error:
        log.debug("%s", error)


async def _first_of(job: asyncio.Future[str], changed: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(changed.wait())
        waits: list[asyncio.Future[Any]] = [job, waiting]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


def _words(lines: Sequence[str]) -> str:
    useful = meaningful_tail(lines)
    return ": " + " | ".join(useful) if useful else ""
