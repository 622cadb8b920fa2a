"""The runtime as one object: requests and instances go in, decisions come out and are carried out.

`api` and `app` talk to this; the parts are `loop` (the handle), `leases` (requests), `effects` (instances).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import assert_never

from llm_router.backends.base import Facts
from llm_router.core.commands import (
    CancelTimer,
    CheckInstance,
    Command,
    CutRequest,
    GrantRequest,
    ParkInstance,
    RejectRequest,
    SetTimer,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from llm_router.core.events import (
    Event,
    InstanceReady,
    KeepRequested,
    LoadRequested,
    ModelsChanged,
    ShutdownRequested,
    TimerFired,
    TimerKey,
    UnloadRequested,
)
from llm_router.core.reasons import WaitPhase
from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.core.views import InstanceState
from llm_router.hardware.base import Reader
from llm_router.history.base import History
from llm_router.launchers.base import Launcher
from llm_router.relay.pool import Pool
from llm_router.relay.status_text import Progress
from llm_router.runtime.effects import Effects
from llm_router.runtime.instances import DeviceSize, Launches
from llm_router.runtime.learning import RecentLoads
from llm_router.runtime.leases import Leases
from llm_router.runtime.loop import Handle
from llm_router.runtime.memory import MemoryWatch
from llm_router.runtime.patience import Outlook
from llm_router.runtime.status import DeviceStatus, device_statuses
from llm_router.runtime.switches import Switches
from llm_router.runtime.tally import Requests
from llm_router.runtime.tasks import Tasks

_log = logging.getLogger(__name__)

_WRITE_S = 10.0  # a request more or less in the history, after a crash


class Supervisor:
    """Must be made inside the running event loop.

    `leave_on_exit`: at shutdown leave loaded models running for the next router instead of stopping them.
    `response_timeout_s`: the longest silence of a server that owes us bytes. `reader`: None: nothing is measured; it is
    closed with the supervisor. `reserve_mib`: what is to stay free, by device. `device_mib`: what a device has.
    `is_warm`: whether a model's files are in memory already. `history`: None: only this run is remembered.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, ModelSpec],
        policy: PolicySpec,
        launches: Launches,
        launcher: Launcher,
        response_timeout_s: float,
        leave_on_exit: bool = False,
        reader: Reader | None = None,
        reserve_mib: Mapping[str, int] | None = None,
        device_mib: DeviceSize = lambda _: None,
        is_warm: Callable[[str], bool] | None = None,
        history: History | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._models = models
        self._launches = launches
        self._budgets = policy.budgets
        self._launcher = launcher
        self.leave_on_exit = leave_on_exit
        self._timers: dict[TimerKey, asyncio.TimerHandle] = {}
        self._changes: list[asyncio.Future[None]] = []
        self.is_leaving = False  # nothing new is taken: whoever only watches had better stop
        self.tasks = Tasks()
        self.pool = Pool(spawn=self.tasks.spawn, timeout_s=response_timeout_s)
        self.handle = Handle(Scheduler(models, policy), self._carry_out)
        self._history = history = history or RecentLoads()
        self.memory = None
        if reader is not None:
            self.memory = MemoryWatch(
                reader,
                history,
                devices=policy.budgets,
                reserve_mib=reserve_mib or {},
                load_of=self._load_of,
                post=self.handle.post,
                spawn=self.tasks.spawn,
            )
        self.effects = Effects(
            launches=launches,
            launcher=launcher,
            pool=self.pool,
            tasks=self.tasks,
            post=self._report,
            now=self._loop.time,
            watch=self.memory,
            history=history,
            is_warm=is_warm,
            device_mib=device_mib,
        )
        self.requests = Requests()
        self.switches = Switches(
            now=self._loop.time,
            decisions=self.handle.scheduler.decisions,
            room_s=lambda instance: self.effects.instances[instance].room_s,
        )
        self.leases = Leases(
            post=self.handle.post,
            now=self._loop.time,
            upstream_of=self.effects.upstream_of,
            progress_of=self.progress,
            suspect=self.effects.suspect,
            outlook=self._outlook,
            call_later=self._loop.call_later,
        )

    # -- what others ask for

    async def adopt(self) -> None:
        """Look at the memory, and take over what an earlier router left running. Returns when each is adopted or
        ended."""
        if self.memory is not None:
            await self.memory.start()
        self.tasks.spawn("requests", self._write_requests())
        await self.effects.adopt()

    def load(self, model: str) -> None:
        self.handle.post(LoadRequested(at=self._loop.time(), model=model))

    def unload(self, model: str) -> None:
        self.handle.post(UnloadRequested(at=self._loop.time(), model=model))

    def keep(self, model: str, keep_s: float) -> None:
        """The model stays so long (seconds; infinity: for ever) when nobody uses it, until the next word about it."""
        self.effects.keep(model, keep_s)
        self.handle.post(KeepRequested(at=self._loop.time(), model=model, keep_s=keep_s))

    def change_models(self, models: Mapping[str, ModelSpec], policy: PolicySpec | None = None) -> None:
        """These are the models from now on, and this the policy; None: as before. Each has its launch already."""
        self._models = models
        self.effects.launches_changed()
        if policy is not None:
            self._budgets = policy.budgets
            if self.memory is not None:
                self.memory.watch(policy.budgets)
        self.handle.post(ModelsChanged(at=self._loop.time(), models=models, policy=policy))

    def exchange(self, models: Iterable[str]) -> None:
        """Have these again as they are configured now, where they are loaded: for after `change_models`."""
        for model in models:
            if self.instance_of(model) is not None:
                self.load(model)

    def instance_of(self, model: str) -> int | None:
        """The id of the model's instance in whatever state, or None."""
        return next((record.id for record in self.effects.instances.values() if record.model == model), None)

    def facts_of(self, model: str) -> Facts:
        """What the model's server says of itself; nothing while it isn't loaded."""
        instance = self.instance_of(model)
        return Facts() if instance is None else self.effects.instances[instance].facts

    def devices(self) -> list[DeviceStatus]:
        """What models may use, have reserved and hold, by device."""
        views = [] if self.memory is None else self.memory.devices()
        reserved = {}
        for record in self.effects.instances.values():
            why = self.handle.scheduler.why(record.model)
            reserved[record.model] = {} if why is None else why.needs_mib
        return device_statuses(self._budgets, views, reserved)

    def held_mib(self, instance: int) -> Mapping[str, int]:
        """What an instance really holds, by device; empty where nothing is known."""
        return {} if self.memory is None else self.memory.held_mib(instance)

    async def changed(self) -> None:
        """Wait for the next instance to become ready or to go."""
        change: asyncio.Future[None] = self._loop.create_future()
        self._changes.append(change)
        await change

    def progress(self, request: int) -> Progress | None:
        """What a waiting request waits for; None when it doesn't wait."""
        wait = self.handle.scheduler.wait_of(request)
        if wait is None:
            return None
        now = self._loop.time()
        elapsed_s = now - (wait.since if wait.started_at is None else wait.started_at)
        estimate_s = self.effects.estimate_s(wait.model)
        if wait.phase not in (WaitPhase.STARTING, WaitPhase.WAKING):
            estimate_s = None if wait.expected_s is None else elapsed_s + wait.expected_s
        fraction = None
        if wait.started_at is not None and (instance := self.instance_of(wait.model)) is not None:
            fraction = self.effects.instances[instance].loading.fraction
        return Progress(
            phase=wait.phase.value,
            elapsed_s=elapsed_s,
            limit_s=self._models[wait.model].load_timeout_s,
            fraction=fraction,
            estimate_s=estimate_s,
            position=wait.position if wait.phase is WaitPhase.BUSY else wait.ahead,
        )

    def refuse_new(self) -> None:
        """First phase of a shutdown: what waits is refused, what runs may finish."""
        self.is_leaving = True
        self.handle.post(ShutdownRequested(at=self._loop.time()))
        self.leases.look()

    async def close(self) -> None:
        """Last phase: stop the instances (or leave all that nobody has told to go), then everything else.

        Waits until they are gone. Deadline: the longest stop plan; a signal to the router ends their grace at once.
        """
        self.refuse_new()
        with self._listening_to_signals():
            if not self.leave_on_exit:
                for instance in list(self.effects.instances):
                    self.effects.stop(instance)
            while any(record.stopping for record in self.effects.instances.values()):
                await self.changed()
            if not self.leave_on_exit:
                await self.effects.end_spares()
        for timer in self._timers.values():
            timer.cancel()
        self.pool.close()
        await self.tasks.close()
        self._history.add_requests(self.requests.taken(time.monotonic(), time.time()))
        if self.memory is not None:
            await self.memory.close()
        self._launcher.close()

    @contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        """The server has given its handlers back by now, and by default a signal would end us in the middle of it."""
        numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        for number in numbers:
            self._loop.add_signal_handler(number, self.effects.hurry)
        try:
            yield
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)

    async def _write_requests(self) -> None:
        """For ever. Cancelling leaves the last ones to `close`."""
        while True:
            await asyncio.sleep(_WRITE_S)
            if ended := self.requests.taken(time.monotonic(), time.time()):
                self._history.add_requests(ended)

    # -- what the scheduler asks for

    def _load_of(self, instance: int) -> tuple[str, str] | None:
        """Model and launch key."""
        record = self.effects.instances.get(instance)
        return None if record is None else (record.model, record.launch_key)

    def _outlook(self, model: str) -> Outlook:
        snapshot = self.handle.scheduler.snapshot()
        states = {instance.state for instance in snapshot.instances if instance.model == model}
        if states & {InstanceState.READY, InstanceState.SUSPECT, InstanceState.DRAINING}:
            return Outlook.THERE
        is_coming = bool(states & {InstanceState.STARTING, InstanceState.WAKING}) or snapshot.waiting.get(model, 0) > 0
        return Outlook.COMING if is_coming else Outlook.NONE

    def _report(self, event: Event) -> None:
        if isinstance(event, InstanceReady) and self.memory is not None:
            self.memory.ready(event.instance)
        self.switches.reported(event)
        self.handle.post(event)
        self.leases.look()
        changes, self._changes = self._changes, []
        for change in changes:
            if not change.done():
                change.set_result(None)

    def _carry_out(self, command: Command) -> None:
        match command:
            case GrantRequest():
                self.leases.granted(command)
            case RejectRequest():
                self.leases.rejected(command)
            case CutRequest():
                self.leases.cut(command)
            case StartInstance():
                self.switches.commanded(command)
                self.effects.start(command)
            case ParkInstance(instance=instance):
                self.effects.park(instance)
            case WakeInstance():
                self.switches.commanded(command)
                self.effects.wake(command)
            case StopInstance(instance=instance):
                self.switches.commanded(command)
                self.effects.stop(instance)
            case CheckInstance(instance=instance):
                self.effects.check(instance)
            case SetTimer(timer=timer, at=at):
                self._cancel(timer)
                self._timers[timer] = self._loop.call_at(at, self._fire, timer)
            case CancelTimer(timer=timer):
                self._cancel(timer)
            case _:
                assert_never(command)

    def _fire(self, timer: TimerKey) -> None:
        del self._timers[timer]
        self.handle.post(TimerFired(at=self._loop.time(), timer=timer))

    def _cancel(self, timer: TimerKey) -> None:
        handle = self._timers.pop(timer, None)
        if handle is not None:
            handle.cancel()
