"""Carries out what the scheduler asks for about instances: start, park, wake, stop, check. Each effect is idempotent
and reports back with exactly one event, whatever fails.

Counterparts: `hosts` and `resting`, which do the work with the servers; `adoption`, for what runs already; `learning`;
`leases`, which does the same for requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace

from llm_router.backends.base import Loading
from llm_router.core.commands import StartInstance, WakeInstance
from llm_router.core.events import Event, InstanceAdopted, InstanceGone, InstanceParked, InstanceReady, KeepRequested
from llm_router.errors import LlmRouterError
from llm_router.history.base import History
from llm_router.launchers.base import Launcher, RunningProcess
from llm_router.launchers.ports import Ports
from llm_router.launchers.waiting import exit_in_words, last_words_of
from llm_router.relay.lease import Upstream
from llm_router.relay.pool import Pool
from llm_router.runtime import adoption, hosts
from llm_router.runtime.endings import lacked_memory, told
from llm_router.runtime.hosts import AT_ONCE, Hosts
from llm_router.runtime.instances import DeviceSize, Instance, Launches, Unwatched, Watch, upstream_for
from llm_router.runtime.learning import Learning, RecentLoads
from llm_router.runtime.resting import Resting
from llm_router.runtime.tasks import Tasks

_log = logging.getLogger(__name__)

_EXIT_S = 0.5  # a crashing process closes its sockets this long before its exit is seen, at most


class Effects:
    """`post`: the handle's. `now`: monotonic seconds. `watch`, `history`: None where there is none. `is_warm`: whether
    a model's files are in memory already; it may take a while. `device_mib`: what a device has altogether."""

    def __init__(
        self,
        *,
        launches: Launches,
        launcher: Launcher,
        pool: Pool,
        tasks: Tasks,
        post: Callable[[Event], None],
        now: Callable[[], float],
        watch: Watch | None = None,
        history: History | None = None,
        is_warm: Callable[[str], bool] | None = None,
        device_mib: DeviceSize = lambda _: None,
    ) -> None:
        self._launches = launches
        self._launcher = launcher
        self._pool = pool
        self._tasks = tasks
        self._post = post
        self._now = now
        self._watch = watch or Unwatched()
        self._learning = Learning(history or RecentLoads(), self._watch, is_warm, now)
        self.instances: dict[int, Instance] = {}
        self._ports = Ports()
        self.launches_changed()
        self._resting = Resting(launcher, self._watch, now)
        self._hosts = Hosts(
            launcher=launcher,
            ports=self._ports,
            watch=self._watch,
            tasks=tasks,
            on_exit=self._exited,
            device_mib=device_mib,
            now=now,
        )

    def launches_changed(self) -> None:
        """A fixed port is for its own model alone."""
        launches = self._launches.values()
        self._ports.configure(launch.fixed_port for launch in launches if launch.fixed_port is not None)

    def upstream_of(self, instance: int) -> Upstream:
        upstream = self.instances[instance].upstream
        assert upstream is not None, "only a ready instance is granted"
        return upstream

    def last_process_of(self, model: str) -> RunningProcess | None:
        """The model's running or last process, for its log."""
        return self._hosts.last.get(model)

    def estimate_s(self, model: str) -> float | None:
        """How long it takes to make the model ready, from earlier times."""
        return self._learning.estimate_s(self._launches[model], self.instances.values())

    # -- start

    def start(self, command: StartInstance) -> None:
        record = self.instances[command.instance] = Instance(
            id=command.instance,
            model=command.model,
            since=self._now(),
            devices=command.devices,
            reserved_mib=command.reserved_mib,
        )
        _log.info("loading %s", record.model, extra=_about(record))
        record.starting = self._spawn("start", record, self._start)

    async def _start(self, record: Instance) -> None:
        launch = self._launches[record.model]
        record.launch_key = launch.key
        try:
            record.warm = await self._learning.warmth(launch)
            await self._hosts.open(record, launch)
        except Exception as error:
            self._learning.remember(record, str(error))
            raise
        self._learning.remember(record, None)
        self._ready(record)

    def _ready(self, record: Instance) -> None:
        if record.stopping:
            return
        assert record.spec is not None
        record.upstream = upstream_for(record.id, record.model, record.spec)
        record.ready_at = self._now()
        took_s = record.ready_at - record.since
        port = record.spec.address.port
        _log.info("%s is ready after %.1fs on port %d", record.model, took_s, port, extra=_about(record))
        self._post(InstanceReady(at=record.ready_at, instance=record.id))
        if record.spec.facts:
            self._tasks.spawn(f"learn-{record.model}-{record.id}", self._hosts.learn(record))

    # -- rest

    def park(self, instance: int) -> None:
        record = self.instances.get(instance)
        if record is None or record.stopping:
            return
        _log.info("parking %s", record.model, extra=_about(record))
        record.starting = self._spawn("park", record, self._park)

    async def _park(self, record: Instance) -> None:
        try:
            held_mib = await self._resting.park(record, self._launches[record.model])
        except LlmRouterError as error:
            await self._end_of_rest(record, error)
            return
        self._parked(record, held_mib)

    def _parked(self, record: Instance, held_mib: Mapping[str, int] | None) -> None:
        if record.stopping:
            return
        record.parked_at = self._now()
        held = "what it still holds isn't known" if held_mib is None else f"it still holds {sum(held_mib.values())} MiB"
        _log.info("%s is parked; %s", record.model, held, extra=_about(record))
        self._post(InstanceParked(at=record.parked_at, instance=record.id, held_mib=held_mib))

    def wake(self, command: WakeInstance) -> None:
        record = self.instances.get(command.instance)
        if record is None or record.stopping:
            return
        record.since, record.room_s, record.loading = self._now(), 0.0, Loading()
        record.devices, record.reserved_mib = command.devices, command.reserved_mib
        _log.info("waking %s", record.model, extra=_about(record))
        record.starting = self._spawn("wake", record, self._wake)

    async def _wake(self, record: Instance) -> None:
        try:
            await self._resting.wake(record, self._launches[record.model])
        except LlmRouterError as error:
            self._learning.remember(record, error.message)
            await self._end_of_rest(record, error)
            return
        self._learning.remember(record, None)
        record.parked_at = None
        self._ready(record)

    def keep(self, model: str, keep_s: float) -> None:
        """How long a client wants the model kept outlives the router, as its instance does."""
        for record in self.instances.values():
            process = record.process
            if record.model != model or record.stopping or process is None or process.exited.done():
                continue
            if process.identity.keep_s != keep_s:  # some clients say it with each request
                self._launcher.hand_over(process, replace(process.identity, keep_s=keep_s))

    async def _end_of_rest(self, record: Instance, error: LlmRouterError) -> None:
        """It can't be parked or woken, so it is stopped; unless it has ended, which its exit tells better."""
        if record.process is not None and not record.stopping:
            await asyncio.wait([record.process.exited], timeout=_EXIT_S)
        if not record.stopping:
            await self._bury(record, error.message)

    # -- end

    def stop(self, instance: int) -> None:
        record = self.instances.get(instance)
        if record is None or record.stopping:
            return
        record.stopping = True
        _log.info("stopping %s", record.model, extra=_about(record))
        self._spawn("stop", record, self._stop)

    def hurry(self) -> None:
        """End what is being stopped without waiting any longer for its grace."""
        leaving = [record.process for record in self.instances.values() if record.stopping]
        for process in (*leaving, *self._hosts.spares.processes()):
            if process is not None:
                self._tasks.spawn(f"hurry-{process.pid}", process.stop(AT_ONCE))

    async def end_spares(self) -> None:
        """End the servers that run without a model. Returns when they are gone; deadline: their stop plans."""
        await self._hosts.spares.end_all()

    async def _stop(self, record: Instance) -> None:
        if record.starting is not None:
            record.starting.cancel()
            await asyncio.wait([record.starting])
        await self._bury(record, None)

    def _exited(self, record: Instance) -> None:
        """The process ended. Whoever starts or stops it sees that himself; here it ended by its own will."""
        if record.stopping or record.ready_at is None:
            return
        record.stopping = True
        self._spawn("bury", record, self._mourn)

    async def _mourn(self, record: Instance) -> None:
        assert record.process is not None
        words = last_words_of(record.model, record.process.output.tail())
        how = exit_in_words(record.process.exited.result())
        await self._bury(record, f"cannot use {record.model} any more: {how}{words}")

    async def _bury(self, record: Instance, error: str | None, *, at_once: bool = False) -> None:
        """Nothing of the instance is left afterwards: its children may still hold the memory when it has ended."""
        record.stopping = True
        try:
            # Servers wait for their open connections before they exit, so these go first.
            self._pool.drop(record.id)
            await self._hosts.close(record, at_once=at_once)
        except Exception:  # noqa: BLE001 -- what can't be stopped must not stop everything else
            _log.exception("cannot stop %s", record.model, extra=_about(record))
        self._gone(record, error)

    def _gone(self, record: Instance, error: str | None) -> None:
        if self.instances.pop(record.id, None) is None:
            return
        if error is not None:
            error = told(record, error)
            _log.warning("%s", error, extra=_about(record))
        self._post(
            InstanceGone(at=self._now(), instance=record.id, error=error, out_of_memory=lacked_memory(record, error))
        )

    # -- check

    def check(self, instance: int) -> None:
        """A connection broke: see at once whether the instance still serves, and report it."""
        record = self.instances.get(instance)
        if record is None or record.stopping:
            return
        if record.checking is not None:
            record.checking.cancel()  # it would wait for longer than a broken connection allows
        record.checking = self._spawn("check", record, self._check)

    def suspect(self, instance: int) -> None:
        """It has owed bytes for long: see whether it lives, with the patience that a busy one needs. One that does
        goes on as it is, so only its end is reported. One look at a time."""
        record = self.instances.get(instance)
        if record is None or record.stopping or (record.checking is not None and not record.checking.done()):
            return
        record.checking = self._spawn("suspect", record, self._suspect)

    async def _check(self, record: Instance) -> None:
        """Either the process is ending, which its exit will say within moments, or it answers, or it hangs: then no
        grace will make it end."""
        if not await self._hosts.is_serving(record, hosts.CHECK_S):
            await self._give_up(record, "its server broke off a reply and no longer answers")
        elif not record.stopping:
            self._post(InstanceReady(at=self._now(), instance=record.id))

    async def _suspect(self, record: Instance) -> None:
        if not await self._hosts.is_serving(record, hosts.BUSY_CHECK_S):
            await self._give_up(record, "its server owes a reply and no longer answers")

    async def _give_up(self, record: Instance, why: str) -> None:
        if record.process is not None and not record.stopping:
            await asyncio.wait([record.process.exited], timeout=_EXIT_S)
        if not record.stopping:
            await self._bury(record, f"cannot use {record.model} any more: {why}", at_once=True)

    # -- adoption

    async def adopt(self) -> None:
        """Take over what an earlier router left running: what serves a configured model stays, the rest is ended."""
        found = await adoption.survivors(self._launcher, self._hosts, self._launches, self._now)
        for record in found.wanted.values():
            self._adopt(record)
        await asyncio.gather(*map(adoption.end, found.unwanted))

    def _adopt(self, record: Instance) -> None:
        assert record.process is not None
        self.instances[record.id] = record
        _log.info("taking over %s, which still runs as pid %d", record.model, record.process.pid, extra=_about(record))
        record.starting = self._spawn("adopt", record, self._resume)
        self._post(InstanceAdopted(at=self._now(), instance=record.id, model=record.model, devices=record.devices))
        keep_s = record.process.identity.keep_s
        if keep_s is not None:
            self._post(KeepRequested(at=self._now(), model=record.model, keep_s=keep_s))

    async def _resume(self, record: Instance) -> None:
        await self._hosts.resume(record, self._launches[record.model])
        if await self._resting.is_parked(record):
            record.ready_at = self._now()
            self._parked(record, await self._resting.held_mib(record))
        else:
            self._ready(record)

    # -- all of them

    def _spawn(
        self, name: str, record: Instance, work: Callable[[Instance], Coroutine[None, None, None]]
    ) -> asyncio.Task[None]:
        return self._tasks.spawn(f"{name}-{record.model}-{record.id}", self._guarded(record, work))

    async def _guarded(self, record: Instance, work: Callable[[Instance], Coroutine[None, None, None]]) -> None:
        """Whatever goes wrong, the scheduler hears that the instance is gone: it would wait for it for ever."""
        try:
            await work(record)
        except LlmRouterError as error:
            await self._bury(record, error.message)
        except Exception as error:  # noqa: BLE001
            _log.exception("cannot use %s", record.model, extra=_about(record))
            await self._bury(record, f"cannot use {record.model}: {error!r}; the router's log tells more")


def _about(record: Instance) -> dict[str, object]:
    """What a line of the log is about, for those who read it as JSON."""
    return {"model": record.model, "instance": record.id}
