"""Carries out what the scheduler asks for about instances: start, stop, check. Each effect is idempotent and reports
back with exactly one event, whatever fails. Counterpart: `leases`, which does the same for requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace

from llm_router.backends.base import LaunchSpec, StopPlan
from llm_router.core.events import Event, InstanceAdopted, InstanceGone, InstanceReady
from llm_router.errors import LaunchError, LlmRouterError
from llm_router.launchers import probe
from llm_router.launchers.base import Identity, Launcher, RunningProcess
from llm_router.launchers.excerpt import meaningful_tail
from llm_router.launchers.ports import Ports
from llm_router.relay.client import Pool
from llm_router.relay.lease import Upstream
from llm_router.runtime.instances import Instance, Launch, Launches, LoadTimes, upstream_for
from llm_router.runtime.tasks import Tasks

_log = logging.getLogger(__name__)

_CHECK_S = 2.0  # an engine that still lives answers its health check within this, even a busy one
_EXIT_S = 0.5  # a crashing process closes its sockets this long before its exit is seen, at most
_AT_ONCE = StopPlan(grace_s=0.0, kill_after_s=0.0)


class Effects:
    """`post`: the handle's. `now`: monotonic seconds."""

    def __init__(
        self,
        *,
        launches: Launches,
        launcher: Launcher,
        pool: Pool,
        tasks: Tasks,
        post: Callable[[Event], None],
        now: Callable[[], float],
    ) -> None:
        self._launches = launches
        self._launcher = launcher
        self._pool = pool
        self._tasks = tasks
        self._post = post
        self._now = now
        self.instances: dict[int, Instance] = {}
        self.load_times = LoadTimes()
        self._ports = Ports(launch.fixed_port for launch in launches.values() if launch.fixed_port is not None)
        self._outputs: dict[str, RunningProcess] = {}

    def upstream_of(self, instance: int) -> Upstream:
        upstream = self.instances[instance].upstream
        assert upstream is not None, "only a ready instance is granted"
        return upstream

    def last_process_of(self, model: str) -> RunningProcess | None:
        """The model's running or last process, for its log."""
        return self._outputs.get(model)

    # -- start

    def start(self, instance: int, model: str) -> None:
        record = self.instances[instance] = Instance(id=instance, model=model, since=self._now())
        _log.info("loading %s", model)
        record.starting = self._spawn("start", record, self._start)

    async def _start(self, record: Instance) -> None:
        launch = self._launches[record.model]
        record.port = self._port(launch)
        spec = record.spec = await self._describe(launch, record.port)
        if spec.argv:
            identity = Identity(instance=record.id, model=record.model, launch_key=launch.key, port=spec.address.port)
            process = await self._launcher.start(spec, identity)
            self._own(record, process)
            left_s = launch.load_timeout_s - (self._now() - record.since)
            await probe.wait_ready(process, spec, deadline_s=left_s, on_loading=record.note)
        elif not await probe.is_serving(spec, min(_CHECK_S, launch.load_timeout_s)):
            address = spec.address
            raise LaunchError(
                f"cannot reach {record.model} at {address.host}:{address.port}: check that its server runs"
            )
        self._ready(record)

    def _port(self, launch: Launch) -> int:
        if launch.request.url is not None:
            return 0
        return self._ports.take() if launch.fixed_port is None else self._ports.claim(launch.fixed_port)

    async def _describe(self, launch: Launch, port: int) -> LaunchSpec:
        request = replace(launch.request, port=port)
        command = launch.backend.probe(request)
        output = "" if command is None else await probe.help_text(command)
        return launch.backend.launch(request, output)

    def _own(self, record: Instance, process: RunningProcess) -> None:
        record.process = process
        self._outputs[record.model] = process
        process.exited.add_done_callback(lambda _: self._exited(record))

    def _ready(self, record: Instance) -> None:
        if record.stopping:
            return
        assert record.spec is not None
        record.upstream = upstream_for(record.id, record.model, record.spec)
        record.ready_at = self._now()
        took_s = record.ready_at - record.since
        self.load_times.add(record.model, took_s)
        _log.info("%s is ready after %.1fs on port %d", record.model, took_s, record.spec.address.port)
        self._post(InstanceReady(at=record.ready_at, instance=record.id))

    # -- end

    def stop(self, instance: int) -> None:
        record = self.instances.get(instance)
        if record is None or record.stopping:
            return
        record.stopping = True
        _log.info("stopping %s", record.model)
        self._spawn("stop", record, self._stop)

    def hurry(self) -> None:
        """End what is being stopped without waiting any longer for its grace."""
        for record in list(self.instances.values()):
            if record.stopping and record.process is not None:
                self._tasks.spawn(f"hurry-{record.model}-{record.id}", record.process.stop(_AT_ONCE))

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
        words = meaningful_tail(record.process.output.tail())
        how = probe.exit_in_words(record.process.exited.result())
        await self._bury(
            record, f"cannot use {record.model} any more: {how}" + (f": {' | '.join(words)}" if words else "")
        )

    async def _bury(self, record: Instance, error: str | None) -> None:
        """Nothing of the instance is left afterwards: its children may still hold the memory when it has ended."""
        record.stopping = True
        try:
            # Servers wait for their open connections before they exit, so these go first.
            self._pool.drop(record.id)
            if record.process is not None:
                await record.process.stop(StopPlan() if record.spec is None else record.spec.stop)
        except Exception:  # noqa: BLE001 -- what can't be stopped must not stop everything else
            _log.exception("cannot stop %s", record.model)
        self._gone(record, error)

    def _gone(self, record: Instance, error: str | None) -> None:
        if self.instances.pop(record.id, None) is None:
            return
        self._ports.release(record.port)
        if error is not None:
            _log.warning("%s", error)
        self._post(InstanceGone(at=self._now(), instance=record.id, error=error))

    # -- check

    def check(self, instance: int) -> None:
        record = self.instances.get(instance)
        if record is not None and not record.stopping:
            self._spawn("check", record, self._check)

    async def _check(self, record: Instance) -> None:
        """A connection broke. Either the process is ending, which its exit will say within moments, or it answers."""
        assert record.spec is not None
        if await probe.is_serving(record.spec, _CHECK_S):
            if not record.stopping:
                self._post(InstanceReady(at=self._now(), instance=record.id))
            return
        if record.process is not None and not record.stopping:
            await asyncio.wait([record.process.exited], timeout=_EXIT_S)
        if not record.stopping:
            raise LaunchError(
                f"cannot use {record.model} any more: its server closed a connection and no longer answers"
            )

    # -- adoption

    async def adopt(self) -> None:
        """Take over what an earlier router left running: what serves a configured model stays, the rest is ended."""
        unwanted = [process for process in await self._launcher.survivors() if not await self._adopt(process)]
        await asyncio.gather(*map(self._end_survivor, unwanted))

    async def _adopt(self, process: RunningProcess) -> bool:
        identity = process.identity
        launch = self._launches.get(identity.model)
        if launch is None or launch.key != identity.launch_key or identity.instance in self.instances:
            return False
        try:
            spec = await self._describe(launch, identity.port)
        except Exception as error:  # noqa: BLE001 -- a backend's mistake must not keep the router from starting
            _log.warning("cannot take over %s: %s", identity.model, error)
            return False
        record = Instance(id=identity.instance, model=identity.model, since=self._now(), spec=spec, port=identity.port)
        self.instances[record.id] = record
        self._ports.hold(identity.port)
        self._own(record, process)
        _log.info("taking over %s, which still runs as pid %d", record.model, process.pid)
        record.starting = self._spawn("adopt", record, self._resume)
        self._post(InstanceAdopted(at=self._now(), instance=record.id, model=record.model))
        return True

    async def _resume(self, record: Instance) -> None:
        assert record.process is not None and record.spec is not None
        limit_s = self._launches[record.model].load_timeout_s
        await probe.wait_resumed(record.process, record.spec, deadline_s=limit_s, on_loading=record.note)
        self._ready(record)

    async def _end_survivor(self, process: RunningProcess) -> None:
        _log.info("ending pid %d, left over from an earlier run", process.pid)
        try:
            await process.stop(StopPlan())
        except Exception:  # noqa: BLE001 -- the others are still to be ended
            _log.exception("cannot end pid %d", process.pid)

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
            _log.exception("cannot use %s", record.model)
            await self._bury(record, f"cannot use {record.model}: {error!r}; the router's log tells more")
