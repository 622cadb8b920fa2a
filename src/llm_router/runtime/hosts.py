"""The servers behind the instances: started, or taken over from the model before; given their model; at last stopped,
or kept for the next model.

Counterparts: `effects`, which says when and reports what became of it; `launchers`, which do it. Posts no events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from llm_router.backends.base import LaunchSpec, Load, StopPlan
from llm_router.errors import LaunchError
from llm_router.hardware.base import CPU
from llm_router.launchers import calls, probe, procfs
from llm_router.launchers.base import Identity, Launcher, RunningProcess
from llm_router.launchers.loading import LoadRefused, load_model, loaded_facts, unload_model
from llm_router.launchers.masking import secrets_of
from llm_router.launchers.ports import Ports
from llm_router.launchers.waiting import Stall
from llm_router.runtime.instances import DeviceSize, Instance, Launch, Watch
from llm_router.runtime.spares import Spare, Spares
from llm_router.runtime.tasks import Tasks

_log = logging.getLogger(__name__)

CHECK_S = 2.0  # an engine that still lives and has nothing else to do answers its health check within this
# … and one whose event loop reads a long prompt meanwhile, as TabbyAPI's does, within this.
BUSY_CHECK_S = 30.0
AT_ONCE = StopPlan(grace_s=0.0, kill_after_s=0.0)


class Hosts:
    """`on_exit`: called with an instance when its process has ended, whoever ended it. `device_mib`: what a device has.
    `now`: monotonic seconds."""

    def __init__(
        self,
        *,
        launcher: Launcher,
        ports: Ports,
        watch: Watch,
        tasks: Tasks,
        on_exit: Callable[[Instance], None],
        device_mib: DeviceSize,
        now: Callable[[], float],
    ) -> None:
        self._launcher = launcher
        self._ports = ports
        self._watch = watch
        self._on_exit = on_exit
        self._device_mib = device_mib
        self._now = now
        self.spares = Spares(ports, tasks)
        self.last: dict[str, RunningProcess] = {}

    # -- up

    async def open(self, record: Instance, launch: Launch) -> None:
        """Returns when the instance serves its model, at most the launch's time limits after `record.since`.
        Cancelling leaves what `close` has to end. Raises: LaunchError."""
        stall = Stall(launch.stall_timeout_s, partial(self._watch.grew, record.id))
        if launch.request.url is not None:
            await self._reach(record, launch)
        elif not await self._take_over(record, launch):
            await self._start(record, launch, stall)
        record.is_up = True
        assert record.spec is not None
        if record.spec.load is not None:
            await self._load(record, launch, record.spec.load, stall)

    async def describe(self, record: Instance, launch: Launch, port: int) -> LaunchSpec:
        """Raises: LaunchError, or whatever a backend's mistake raises."""
        request = launch.request_on(port, record.devices, record.reserved_mib, self._device_mib)
        command = launch.backend.probe(request)
        output = "" if command is None else await probe.help_text(command)
        return launch.backend.launch(request, output)

    async def _reach(self, record: Instance, launch: Launch) -> None:
        spec = record.spec = await self.describe(record, launch, 0)
        address = await probe.first_serving(spec, min(CHECK_S, launch.load_timeout_s))
        if address is None:
            places = ", ".join(f"{one.host}:{one.port}" for one in (spec.address, *spec.alternatives))
            raise LaunchError(f"cannot reach {record.model} at {places}: check that its server runs")
        record.spec = replace(spec, address=address)

    async def _take_over(self, record: Instance, launch: Launch) -> bool:
        """Use a server that has no model now, if it is of the right kind and still answers."""
        if not self.spares:
            return False
        load = (await self.describe(record, launch, launch.fixed_port or 0)).load
        spare = None if load is None else self.spares.find(load.shared_key)
        if spare is None:
            return False
        spec = await self.describe(record, launch, spare.port)
        try:
            if not await probe.is_serving(spec, CHECK_S):
                raise LaunchError(f"cannot use pid {spare.process.pid} again: it no longer answers")
            await self._make_room(record)
        except LaunchError as error:
            _log.info("%s; starting a new server for %s", error, record.model)
            await self.spares.end(spare, AT_ONCE)
            return False
        if not self.spares.take(spare):
            return False
        record.port, record.spec = spare.port, spec
        self._launcher.hand_over(spare.process, self._identity(record, launch, spec))
        self._own(record, spare.process)
        return True

    async def _make_room(self, record: Instance) -> None:
        began = self._now()
        await self._watch.room(record.id, record.model, record.devices, record.reserved_mib)
        record.room_s += self._now() - began

    async def _start(self, record: Instance, launch: Launch, stall: Stall) -> None:
        # An empty server still holds some hundred MiB of its device, which nobody has counted.
        await self.spares.make_way(port=launch.fixed_port, devices=[one for one in record.devices if one != CPU])
        await self._make_room(record)
        record.port = self._port(launch)
        spec = record.spec = await self.describe(record, launch, record.port)
        process = await self._launcher.start(spec, self._identity(record, launch, spec))
        self._own(record, process)
        left_s = self._left_s(record, launch)
        await probe.wait_ready(process, spec, deadline_s=left_s, on_loading=record.note, stall=stall)
        if launch.fixed_port is not None:
            await probe.refuse_squatter(process, launch.fixed_port)

    def _port(self, launch: Launch) -> int:
        if launch.fixed_port is None:
            return self._ports.take()
        return self._ports.claim(launch.fixed_port, of_unit=launch.request.service is not None)

    def _identity(self, record: Instance, launch: Launch, spec: LaunchSpec) -> Identity:
        return Identity(
            instance=record.id,
            model=record.model,
            launch_key=launch.key,
            port=spec.address.port,
            devices=record.devices,
        )

    def _own(self, record: Instance, process: RunningProcess) -> None:
        assert record.spec is not None
        record.process = process
        record.oom_kills = procfs.oom_kills()
        self.last[record.model] = process
        process.output.hide(secrets_of(record.spec))
        self._watch.began(record.id, process.pid, record.devices)
        process.exited.add_done_callback(lambda _: self._on_exit(record))

    def _left_s(self, record: Instance, launch: Launch) -> float:
        return max(0.0, launch.load_timeout_s - (self._now() - record.since))

    async def _load(self, record: Instance, launch: Launch, load: Load, stall: Stall) -> None:
        assert record.spec is not None
        address = record.spec.address
        # Somebody else's server may have kept it from an earlier run of ours; one of ours has nothing to keep.
        if record.process is None and (facts := await loaded_facts(address, load)) is not None:
            record.facts = facts
            return
        record.is_loading = True
        try:
            record.facts = await load_model(
                record.model,
                address,
                load,
                process=record.process,
                deadline_s=self._left_s(record, launch),
                stall=stall,
                on_loading=record.note,
            )
        except LoadRefused:
            record.is_loading = False
            raise
        record.is_loading = False

    # -- adoption

    async def adopt(self, record: Instance, launch: Launch, process: RunningProcess) -> None:
        """An earlier router's process becomes the instance's. Raises: as `describe`; then nothing has changed."""
        record.spec = await self.describe(record, launch, record.port)
        self._ports.hold(record.port)
        self._own(record, process)

    async def resume(self, record: Instance, launch: Launch) -> None:
        """Wait until an adopted server answers for its model. Raises: LaunchError."""
        assert record.process is not None and record.spec is not None
        spec, limit_s = record.spec, launch.load_timeout_s
        await probe.wait_resumed(record.process, spec, deadline_s=limit_s, on_loading=record.note)
        record.is_up = True
        if spec.load is not None and await loaded_facts(spec.address, spec.load) is None:
            record.is_loading = True  # for all we know: what it was told to load, it loads to the end
            raise LaunchError(f"cannot take over {record.model}: its server doesn't have it loaded; it is loaded again")

    # -- while it serves

    async def is_serving(self, record: Instance, limit_s: float) -> bool:
        """Whether it answers, and for its own model, within `limit_s`."""
        assert record.spec is not None
        spec = record.spec
        if spec.load is None:
            return await probe.is_serving(spec, limit_s)
        call = replace(spec.load.loaded.call, limit_s=limit_s)
        load = replace(spec.load, loaded=replace(spec.load.loaded, call=call))
        return await loaded_facts(spec.address, load) is not None

    async def learn(self, record: Instance) -> None:
        """Ask the server what it says of itself. What it doesn't answer stays unknown."""
        assert record.spec is not None
        for inquiry in record.spec.facts:
            try:
                facts = await calls.inquire(record.spec.address, inquiry)
            except LaunchError as error:
                _log.debug("%s", error)
            else:
                record.facts = calls.merged((record.facts, *(() if facts is None else (facts,))))

    # -- down

    async def close(self, record: Instance, *, at_once: bool = False) -> None:
        """Returns when the memory is free: the server has ended, or runs on without a model. Cancelling doesn't stop
        the stopping. `at_once`: it hangs, or nothing of it is worth waiting for."""
        try:
            await self._close(record, at_once)
        finally:
            self._ports.release(record.port)
            self._watch.ended(record.id)

    async def _close(self, record: Instance, at_once: bool) -> None:
        process, spec = record.process, record.spec
        if process is None:
            if spec is not None and spec.load is not None and record.is_up:
                await unload_model(spec.address, spec.load)  # somebody else's server: this is all we can do
        elif at_once or record.is_loading:  # a load can't be called off
            await process.stop(AT_ONCE)
        elif not await self._keep(record, process):
            assert spec is not None
            is_reachable = record.ready_at is not None and record.parked_at is None and not process.exited.done()
            if spec.stop.before is not None and is_reachable:
                await self._say(spec, spec.stop)
            await process.stop(spec.stop)

    async def _keep(self, record: Instance, process: RunningProcess) -> bool:
        """Whether it gave its model back and is a spare now."""
        spec = record.spec
        if spec is None or spec.load is None or not record.is_up or process.exited.done():
            return False
        if not await unload_model(spec.address, spec.load) or process.exited.done():
            return False
        # A later router must not take it for the instance that it was.
        self._launcher.hand_over(process, replace(process.identity, launch_key=""))
        port, record.port = record.port, 0
        self.spares.keep(
            Spare(key=spec.load.shared_key, process=process, port=port, devices=record.devices, stop=spec.stop)
        )
        return True

    async def _say(self, spec: LaunchSpec, plan: StopPlan) -> None:
        assert plan.before is not None
        try:
            await calls.ask(spec.address, plan.before)
        except LaunchError as error:
            _log.debug("%s", error)
