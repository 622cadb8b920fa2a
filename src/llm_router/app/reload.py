"""Takes another configuration over while the router runs: all of it, or nothing.

Counterparts: `config.watch`, which notices a changed file; `config.reload`, which says what it changes; `serve`, which
made everything that is changed here.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llm_router.api.admin import Reloaded
from llm_router.api.catalog import Catalog, Entry
from llm_router.app import parts, remote
from llm_router.app.notify import Notifier
from llm_router.backends.base import Backend
from llm_router.config import Problem, examine, room, specs
from llm_router.config.load import ConfigUnreadable, Examined
from llm_router.config.reload import NEEDS_RESTART, Difference, difference
from llm_router.config.schema import Config
from llm_router.config.watch import FileWatch
from llm_router.core.specs import ANY_DEVICE, ModelSpec, PolicySpec
from llm_router.errors import ConfigError
from llm_router.hardware.base import DeviceReading
from llm_router.history.base import History
from llm_router.relay.request import Model
from llm_router.relay.services import Services
from llm_router.runtime.endpoints import Endpoint, Endpoints
from llm_router.runtime.instances import Launch
from llm_router.runtime.supervisor import Supervisor

_log = logging.getLogger("llm_router")


@dataclass(slots=True, kw_only=True)
class Running:
    """What runs by a configuration, and what of it can be changed. `config`: the one in force. `launches`, `relayed`,
    `reserve_mib`: shared with those who use them, who see every change."""

    config: Config
    devices: Mapping[str, DeviceReading]
    history: History
    backends: dict[str, Backend]
    launches: MutableMapping[str, Launch]
    relayed: MutableMapping[str, Model]
    reserve_mib: MutableMapping[str, int]
    specs: Mapping[str, ModelSpec]
    policy: PolicySpec
    services: Services
    catalog: Catalog
    supervisor: Supervisor
    merging: remote.Merging
    elsewhere: Endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """All that can fail is done; what follows only assigns."""

    config: Config
    launches: Mapping[str, Launch]
    specs: dict[str, ModelSpec]
    policy: PolicySpec
    relayed: Mapping[str, Model]
    entries: list[Entry]
    endpoints: list[Endpoint]
    difference: Difference


class Reloader:
    """Implements `api.admin.Reloading`. `path`: the file; `overrides`: as at the start, they go on to hold. `check`:
    raises ConfigError for a configuration that must not be taken over; `follow`: what else follows it. `notifier`:
    hears of each reload."""

    def __init__(
        self,
        path: Path,
        running: Running,
        *,
        overrides: Mapping[str, object],
        check: Callable[[Config], None],
        follow: Callable[[Config], None],
        notifier: Notifier,
    ) -> None:
        self._path = path
        self._running = running
        self._overrides = overrides
        self._check = check
        self._follow = follow
        self._notifier = notifier
        self._started_with = running.config
        self._busy = asyncio.Lock()
        self._is_asked = False
        self._watch: FileWatch | None = None
        self.problems: list[Problem] = []
        self.needs_restart: tuple[str, ...] = ()

    @property
    def is_in_force(self) -> bool:
        """Whether the file, as it was read last, could be used."""
        return not any(problem.fatal for problem in self.problems)

    def ask(self) -> None:
        """Reload soon; asked several times meanwhile, once more."""
        if not self._is_asked:
            self._is_asked = True
            self._running.supervisor.tasks.spawn("reload", self._answer())

    async def _answer(self) -> None:
        async with self._busy:
            self._is_asked = False
            await self._reload()

    async def reload(self) -> Reloaded:
        """Read the file and do what it says. Waits for a reload that runs already, and for the reading; what has to
        leave leaves later. Cancelling leaves the configuration as it was, or as it is now, whole."""
        self._by_hand()
        async with self._busy:
            return await self._reload()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Reloads on SIGHUP and when the file has changed."""
        loop = asyncio.get_running_loop()
        try:
            self._watch = FileWatch(self._path, self.ask)
        except OSError as error:
            _log.warning("cannot watch %s: %s; after a change run `llm-router reload`", self._path, error.strerror)
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        try:
            yield
        finally:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            if is_main:
                loop.remove_signal_handler(signal.SIGHUP)

    def _hang_up(self) -> None:
        self._by_hand()
        self.ask()

    def _by_hand(self) -> None:
        if self._watch is not None:
            self._watch.forget()

    async def _reload(self) -> Reloaded:
        self._notifier.reloading()
        try:
            return await self._try()
        finally:
            count = len(self._running.config.models)
            self._notifier.ready(f"{count} models" if self.is_in_force else "the configuration file has mistakes")

    async def _try(self) -> Reloaded:
        examined = await asyncio.to_thread(self._examine)
        prepared: _Prepared | None = None
        if examined.config is not None:
            try:
                self._check(examined.config)
                prepared = await asyncio.to_thread(self._prepare, examined.config)
            except ConfigError as error:
                examined = Examined(config=None, problems=[_whole(self._path, error)])
        self._tell(examined)
        self.problems = examined.problems
        if prepared is None:
            return Reloaded(difference=None, problems=examined.problems)
        self._apply(prepared)
        self.needs_restart = prepared.difference.needs_restart
        if words := str(prepared.difference):
            _log.info("configuration reloaded: %s", words)
        return Reloaded(difference=prepared.difference, problems=examined.problems)

    def _examine(self) -> Examined:
        running = self._running
        try:
            return examine(self._path, overrides=self._overrides, kinds=running.backends, devices=running.devices)
        except ConfigUnreadable as error:
            return Examined(config=None, problems=[_whole(self._path, error)])

    def _tell(self, examined: Examined) -> None:
        """Each state of the file once, however often it is read."""
        if examined.problems == self.problems:
            return
        if examined.config is None:
            _log.error("cannot use the changed configuration, so the one before stays in force:")
        for problem in examined.problems:
            if problem not in self.problems:
                _log.log(logging.ERROR if problem.fatal else logging.WARNING, "%s", problem)

    def _prepare(self, config: Config) -> _Prepared:
        """Raises: ConfigError."""
        running = self._running
        launches = parts.launches(config, running.backends)
        policy, is_new_room = specs.policy(config, running.devices), False
        if (ANY_DEVICE in policy.budgets) != (ANY_DEVICE in running.policy.budgets):
            # What runs was placed on other devices, by other names.
            policy, is_new_room = specs.policy(config, running.devices, running.policy.budgets), True
        changed = difference(
            running.config,
            config,
            launched={name: running.launches[name].key for name in running.config.models},
            launching={name: launch.key for name, launch in launches.items()},
            running=self._started_with,
            needs_restart=NEEDS_RESTART | {"memory"} if is_new_room else NEEDS_RESTART,
        )
        return _Prepared(
            config=config,
            launches=launches,
            specs=parts.specs(config, launches, running.devices, running.history, running.specs),
            policy=policy,
            relayed=parts.models(config),
            entries=[parts.entry(config, name) for name in config.models],
            endpoints=remote.endpoints(config, running.backends["openai"]),
            difference=changed,
        )

    def _apply(self, new: _Prepared) -> None:
        """In one go: no request comes in between."""
        running, config = self._running, new.config
        running.config, running.specs, running.policy = config, new.specs, new.policy
        running.launches.update(new.launches)  # those of the removed stay: their instances may still be leaving
        running.relayed.clear()
        running.relayed.update(new.relayed)
        running.reserve_mib.update(room.reserves(config, running.devices))
        running.catalog.configure(new.entries)
        running.services.preferences = parts.preferences(config)
        running.supervisor.leave_on_exit = config.on_exit == "leave"
        running.supervisor.pool.timeout_s = config.response_timeout
        self._follow(config)
        running.merging.configure(config, new.specs, new.policy, running.elsewhere.configure(new.endpoints))
        running.supervisor.exchange(new.difference.restarted)
        for name in new.difference.added:
            if config.models[name].preload:
                running.supervisor.load(name)


def _whole(path: Path, error: ConfigError) -> Problem:
    """A mistake that belongs to no line."""
    message, _, remedy = error.message.partition("; ")
    return Problem(file=path, line=0, key="", message=message, remedy=remedy or "correct the file")
