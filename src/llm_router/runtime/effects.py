"""Carries out what the scheduler asks for about instances: start, stop, check. Each effect is idempotent and reports
back with exactly one event. Counterpart: `leases`, which does the same for requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from llm_router.backends.base import LaunchSpec, Loading, StopPlan
from llm_router.core.events import Event, InstanceAdopted, InstanceGone, InstanceReady
from llm_router.errors import LaunchError, LlmRouterError
from llm_router.launchers import probe
from llm_router.launchers.base import Identity, Launcher, RunningProcess
from llm_router.launchers.excerpt import meaningful_tail
from llm_router.launchers.ports import Ports, ensure_free
from llm_router.relay.client import Pool
from llm_router.relay.lease import Upstream
from llm_router.runtime.instances import Instance, Launch, Launches, LoadTimes, upstream_for
from llm_router.runtime.tasks import Tasks

_log = logging.getLogger(__name__)

_CHECK_S = 2.0  # an engine that still lives answers its health check within this, even a busy one


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
        self._ports = Ports()
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
        record.starting = self._tasks.spawn(f"start-{model}-{instance}", self._start(record))

    async def _start(self, record: Instance) -> None:
        launch = self._launches[record.model]
        try:
            record.port = self._port(launch)
            spec = record.spec = await self._describe(launch, record.port)
            if spec.argv:
                identity = Identity(
                    instance=record.id, model=record.model, launch_key=launch.key, port=spec.address.port
                )
                self._own(record, await self._launcher.start(spec, identity))
            left_s = launch.load_timeout_s - (self._now() - record.since)
            await self._until_ready(record, spec, left_s)
        except LlmRouterError as error:
            await self._bury(record, error.message)
        except Exception as error:  # noqa: BLE001 -- whatever it was, the scheduler must hear of it
            _log.exception("cannot start %s", record.model)
            await self._bury(record, f"cannot start {record.model}: {error}")
        else:
            self._ready(record)

    def _port(self, launch: Launch) -> int:
        if launch.request.url is not None:
            return 0
        if launch.fixed_port is None:
            return self._ports.take()
        ensure_free(launch.fixed_port)
        return launch.fixed_port

    async def _describe(self, launch: Launch, port: int) -> LaunchSpec:
        if launch.unusable is not None:
            raise LaunchError(launch.unusable)
        request = replace(launch.request, port=port)
        command = launch.backend.probe(request)
        output = "" if command is None else await probe.help_text(command)
        return launch.backend.launch(request, output)

    async def _until_ready(self, record: Instance, spec: LaunchSpec, deadline_s: float) -> None:
        def loading(progress: Loading) -> None:
            record.loading = progress

        if record.process is not None:
            await probe.wait_ready(record.process, spec, deadline_s=deadline_s, on_loading=loading)
        elif not await probe.is_serving(spec, min(_CHECK_S, deadline_s)):
            address = spec.address
            raise LaunchError(
                f"cannot reach {record.model} at {address.host}:{address.port}: check that its server runs"
            )

    def _own(self, record: Instance, process: RunningProcess) -> None:
        record.process = process
        self._outputs[record.model] = process
        process.exited.add_done_callback(lambda _: self._exited(record))

    def _ready(self, record: Instance) -> None:
        record.starting = None
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
        self._tasks.spawn(f"stop-{record.model}-{instance}", self._stop(record))

    async def _stop(self, record: Instance) -> None:
        if record.starting is not None:
            record.starting.cancel()
            await asyncio.gather(record.starting, return_exceptions=True)
        await self._bury(record, None)

    def _exited(self, record: Instance) -> None:
        """The process ended. Whoever starts or stops it sees that himself; here it ended by its own will."""
        if record.stopping or record.ready_at is None or record.process is None:
            return
        words = meaningful_tail(record.process.output.tail())
        how = probe.exit_in_words(record.process.exited.result())
        error = f"cannot use {record.model} any more: {how}" + (f": {' | '.join(words)}" if words else "")
        self._tasks.spawn(f"bury-{record.model}-{record.id}", self._bury(record, error))

    async def _bury(self, record: Instance, error: str | None) -> None:
        """Nothing of the instance is left afterwards: its children may still hold the memory when it has ended."""
        record.stopping = True
        # Servers wait for their open connections before they exit, so these go first.
        self._pool.drop(record.id)
        if record.process is not None and record.spec is not None:
            await record.process.stop(record.spec.stop)
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
            self._tasks.spawn(f"check-{record.model}-{instance}", self._check(record))

    async def _check(self, record: Instance) -> None:
        """A connection broke. Either the process is ending, which its exit will say within moments, or it answers."""
        assert record.spec is not None
        serving = await probe.is_serving(record.spec, _CHECK_S)
        if record.stopping:
            return
        if serving:
            self._post(InstanceReady(at=self._now(), instance=record.id))
            return
        await self._bury(
            record, f"cannot use {record.model} any more: its server closed a connection and no longer answers"
        )

    # -- adoption

    async def adopt(self) -> None:
        """Take over what an earlier router left running: what serves a configured model stays, the rest is ended."""
        for process in await self._launcher.survivors():
            identity = process.identity
            launch = self._launches.get(identity.model)
            if launch is None or launch.key != identity.launch_key or identity.instance in self.instances:
                await self._end_survivor(process)
                continue
            try:
                spec = await self._describe(launch, identity.port)
            except LlmRouterError:
                await self._end_survivor(process)
                continue
            record = Instance(
                id=identity.instance, model=identity.model, since=self._now(), spec=spec, port=identity.port
            )
            self.instances[record.id] = record
            self._ports.hold(identity.port)
            self._own(record, process)
            _log.info("taking over %s, which still runs as pid %d", record.model, process.pid)
            self._post(InstanceAdopted(at=self._now(), instance=record.id, model=record.model))
            record.starting = self._tasks.spawn(f"adopt-{record.model}", self._resume(record, spec))

    async def _resume(self, record: Instance, spec: LaunchSpec) -> None:
        try:
            if not await probe.is_serving(spec, _CHECK_S):
                launch = self._launches[record.model]
                await self._until_ready(record, spec, launch.load_timeout_s)
        except LlmRouterError as error:
            await self._bury(record, error.message)
        else:
            self._ready(record)

    async def _end_survivor(self, process: RunningProcess) -> None:
        _log.info("ending pid %d, left over from an earlier run", process.pid)
        await process.stop(StopPlan())
