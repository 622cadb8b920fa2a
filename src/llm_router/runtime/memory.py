"""Watches the memory of the devices and of the instances on them, and tells the scheduler what it should know.

Owner of all readings: nobody else asks the hardware while the router runs. Implements `instances.Watch`. Counterparts:
`hardware`, which reads; `core.events`, where the conclusions go. Decides nothing, and reads on a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from llm_router.core.events import DeviceMeasured, Event, MemoryMeasured
from llm_router.errors import LaunchError
from llm_router.hardware.base import CPU, DeviceReading, Reader
from llm_router.history.base import History
from llm_router.runtime.look import Family, Readings, Seen, Subject, family, is_alive, look
from llm_router.runtime.shortage import shortage
from llm_router.runtime.watched import Watched, differs

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_ROOM_S = 15.0  # a driver gives memory back within a second or two; who takes longer doesn't give it back
_POLL_S = 0.05
_IDLE_S, _LIVE_S, _LOADING_S = 5.0, 1.0, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """A device as it was at the last look, in MiB. `held_mib`: by our instances together. `available_mib`: what models
    may use, as told last; None: never told, or it is gone. `is_there`: it could be read."""

    device: str
    title: str
    total_mib: int
    free_mib: int
    held_mib: int
    available_mib: int | None
    is_there: bool


class MemoryWatch:
    """Must be made inside the running event loop.

    `devices`: those that models may use, as the scheduler names them; `reserve_mib`: what must stay free on each.
    `load_of`: model and launch key of an instance; None: nobody knows it. `family`: the processes of an instance, from
    its first. `is_alive`: whether a process still runs.
    """

    def __init__(
        self,
        reader: Reader,
        history: History,
        *,
        devices: Iterable[str],
        reserve_mib: Mapping[str, int],
        load_of: Callable[[int], tuple[str, str] | None],
        post: Callable[[Event], None],
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
        family: Family = family,
        is_alive: Callable[[int], bool] = is_alive,
    ) -> None:
        self._reader = reader
        self._history = history
        self._devices = frozenset(devices)
        self._reserve_mib = reserve_mib
        self._load_of = load_of
        self._post = post
        self._spawn = spawn
        self._family = family
        self._is_alive = is_alive
        self._now = asyncio.get_running_loop().time
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memory")
        self._wake = asyncio.Event()
        self._watched: dict[int, Watched] = {}
        self._reserved: dict[int, Mapping[str, int]] = {}
        self._former: frozenset[int] = frozenset()
        self._readings: Readings = {}
        self._known: dict[str, DeviceReading] = {}
        self._told: dict[str, int | None] = {}

    async def start(self) -> None:
        """Look once, and from then on again and again until `close`."""
        await self.look()
        self._spawn("memory", self._look_on())

    async def close(self) -> None:
        """Let go of the devices. The caller has ended the tasks; a reading that runs is waited for."""
        await self._run(self._reader.close)
        self._thread.shutdown()

    def watch(self, devices: Iterable[str]) -> None:
        """These are for models from now on."""
        self._devices = frozenset(devices)
        self._told = {name: told for name, told in self._told.items() if name in self._devices}
        self._wake.set()

    # -- what instances say

    async def room(self, instance: int, model: str, devices: tuple[str, ...], reserved_mib: Mapping[str, int]) -> None:
        """Wait until the memory is really free, for 15 seconds at most. Cancelling leaves nothing behind.

        Where nothing is reserved, until processes of ours that have ended hold none of it any more.
        Raises: LaunchError, naming who holds it.
        """
        self._reserved[instance] = reserved_mib
        deadline = self._now() + _ROOM_S
        parked = self._watched.get(instance)
        if parked is not None:  # what it holds is a part of what it needs
            reserved_mib = {
                device: max(0, mib - parked.held_mib.get(device, 0)) for device, mib in reserved_mib.items()
            }
        while lack := self._lack(await self._run(self._reader.read), devices, reserved_mib):
            if self._now() >= deadline:
                raise LaunchError(f"cannot load {model}: {lack}")
            await asyncio.sleep(_POLL_S)

    def _lack(self, readings: Readings, devices: tuple[str, ...], reserved_mib: Mapping[str, int]) -> str | None:
        return shortage(
            {name: self._with_spares(reading) for name, reading in readings.items()},
            reserved_mib={device: self._due_mib(device, readings, reserved_mib.get(device)) for device in devices},
            known=self._known.keys(),
            former=self._former,
            living=self._living(),
            is_alive=self._is_alive,
        )

    def _with_spares(self, reading: DeviceReading) -> DeviceReading:
        """What a process holds that lives on after its instance is free for the next one: it is taken over with it."""
        spare_mib = sum(
            mib
            for pid, mib in reading.held_mib.items()
            if pid in self._former and pid not in self._living() and self._is_alive(pid)
        )
        return replace(reading, free_mib=reading.free_mib + spare_mib) if spare_mib else reading

    def _due_mib(self, device: str, readings: Readings, reserved_mib: int | None) -> int | None:
        """What must be free of a device. Companions may have reserved more of it together than there is: then no more
        than what the others leave."""
        if reserved_mib is None or device not in readings:
            return reserved_mib
        others = sum(
            (watched.told_mib if watched.told_as_ready else watched.reserved_mib).get(device, 0)
            for watched in self._watched.values()
        )
        return min(reserved_mib, max(0, readings[device].total_mib - others))

    def _living(self) -> frozenset[int]:
        return frozenset().union(*(watched.pids for watched in self._watched.values()))

    def began(self, instance: int, pid: int, devices: tuple[str, ...]) -> None:
        self._former -= {pid}
        self._watched[instance] = Watched(
            pid=pid,
            devices=devices,
            reserved_mib=self._reserved.pop(instance, {}),
            grew_at=self._now(),
        )
        self._wake.set()

    def ready(self, instance: int) -> None:
        """It answers from now on: what it holds is what its model needs."""
        watched = self._watched.get(instance)
        if watched is not None and watched.ready_at is None:
            watched.ready_at = self._now()
            self._wake.set()

    async def host_room(self, instance: int, model: str, weights_mib: int | None) -> None:
        """See `instances.Watch`."""
        watched, readings = self._watched.get(instance), await self._run(self._reader.read)
        if watched is None or CPU not in readings:
            return
        held_mib = sum(mib for device, mib in (watched.held_mib or watched.reserved_mib).items() if device != CPU)
        needed_mib = held_mib if weights_mib is None else min(held_mib, weights_mib)
        free_mib = readings[CPU].free_mib - self._reserve_mib.get(CPU, 0)
        if free_mib < needed_mib:
            raise LaunchError(
                f"cannot park {model}: its weights take {needed_mib} MiB of the host's memory, of which {free_mib} MiB "
                "are free; end what uses the rest, or take park_after out of its section"
            )

    async def parked(self, instance: int) -> Mapping[str, int] | None:
        """See `instances.Watch`."""
        watched = self._watched.get(instance)
        if watched is None:
            return None
        if watched.ready_at is not None:
            self._learn(instance, watched)
        await self.look()
        watched.park()
        return dict(watched.held_mib) or None

    def waking(self, instance: int, reserved_mib: Mapping[str, int]) -> None:
        watched = self._watched.get(instance)
        if watched is not None:
            watched.wake(reserved_mib)
            self._wake.set()

    def ended(self, instance: int) -> None:
        self._reserved.pop(instance, None)
        watched = self._watched.pop(instance, None)
        if watched is not None:
            self._former |= watched.pids | {watched.pid}
            if watched.ready_at is not None and not watched.is_parked:
                self._learn(instance, watched)
            self._wake.set()

    def grew(self, instance: int) -> float:
        watched = self._watched.get(instance)
        return -math.inf if watched is None else watched.grew_at

    def peak_mib(self, instance: int) -> Mapping[str, int]:
        watched = self._watched.get(instance)
        return {} if watched is None else dict(watched.peak_mib)

    # -- what people want to see

    def held_mib(self, instance: int) -> Mapping[str, int]:
        """What it held at the last look, by device; empty where nothing is known."""
        watched = self._watched.get(instance)
        return {} if watched is None else dict(watched.held_mib)

    def devices(self) -> list[DeviceView]:
        """Every device that was ever seen, as it was at the last look."""
        return [
            DeviceView(
                device=name,
                title=reading.title,
                total_mib=reading.total_mib,
                free_mib=reading.free_mib,
                held_mib=sum(watched.held_mib.get(name, 0) for watched in self._watched.values()),
                available_mib=self._told.get(name),
                is_there=name in self._readings,
            )
            for name, reading in self._known.items()
        ]

    # -- looking

    async def look(self) -> None:
        """Read everything once and say what is new. Waits for the reading; cancelling loses only this one."""
        subjects = {
            instance: Subject(pid=one.pid, devices=one.devices, is_loading=one.ready_at is None)
            for instance, one in self._watched.items()
        }
        self._conclude(await self._run(partial(look, self._reader, self._family, subjects, self._now())))

    async def _look_on(self) -> None:
        failed = ""  # why, the last time: told once, since it may go on for hours
        while True:
            self._wake.clear()
            is_loading = any(watched.ready_at is None for watched in self._watched.values())
            pause_s = _LOADING_S if is_loading else _LIVE_S if self._watched else _IDLE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            try:
                await self.look()
                failed = ""
            except Exception as error:  # noqa: BLE001 -- one look that fails must not be the last
                if failed != repr(error):
                    failed = repr(error)
                    _log.exception("cannot look at the memory")

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- drawing conclusions

    def _conclude(self, seen: Seen) -> None:
        self._readings = seen.readings
        self._known.update(seen.readings)
        holders = {pid for reading in seen.readings.values() for pid in reading.held_mib}
        self._former &= holders
        for instance, watched in list(self._watched.items()):
            if instance in seen.pids:
                held_mib, moved_mib = seen.held_mib[instance], seen.moved_mib[instance]
                watched.take_in(seen.pids[instance], held_mib, moved_mib, self._now())
                self._tell_instance(watched, seen.at, instance)
        for device in sorted(self._devices & self._known.keys()):
            self._tell_device(device, seen.readings.get(device))

    def _tell_instance(self, watched: Watched, looked_at: float, instance: int) -> None:
        held_mib = watched.news(looked_at, self._devices)
        if held_mib is None:
            return
        if watched.told_as_ready and not watched.is_parked:
            self._learn(instance, watched)
        used_mib = {device: mib for device, mib in held_mib.items() if device in self._devices}
        if used_mib:
            self._post(MemoryMeasured(at=self._now(), instance=instance, used_mib=used_mib))

    def _learn(self, instance: int, watched: Watched) -> None:
        load = self._load_of(instance)
        if watched.peak_mib and load is not None:
            self._history.note_peak(*load, dict(watched.peak_mib))

    def _tell_device(self, device: str, reading: DeviceReading | None) -> None:
        available = None
        if reading is not None:
            free_mib = reading.free_mib + self._ours_mib(device, reading)
            available = max(0, free_mib - self._reserve_mib.get(device, 0))
        if device in self._told:
            told = self._told[device]
            if (told is None) == (available is None) and (
                told is None or available is None or not differs(available, told)
            ):
                return
        self._told[device] = available
        self._post(DeviceMeasured(at=self._now(), device=device, available_mib=available))

    def _ours_mib(self, device: str, reading: DeviceReading) -> int:
        """What our instances hold of a device, and what ended ones haven't given back yet.

        Inside a container the driver may not know our processes by their numbers. A ready instance that seems to hold
        nothing then holds what is reserved for it, or else everything.
        """
        in_use = reading.total_mib - reading.free_mib
        ours = sum(watched.held_mib.get(device, 0) for watched in self._watched.values())
        ours += sum(reading.held_mib.get(pid, 0) for pid in self._former - self._living())
        for watched in self._watched.values():
            is_full = watched.ready_at is not None and not watched.is_parked
            if is_full and device in watched.devices and not watched.held_mib.get(device):
                ours += watched.reserved_mib.get(device, in_use)
        return min(ours, in_use)
