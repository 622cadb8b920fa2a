"""Servers that run without a model, kept for the next one that they can serve: that saves their start.

Counterpart: `hosts`, which gives them their models. One of each kind at most, and not for long: even an empty server
holds some memory of its device.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from llm_router.backends.base import StopPlan
from llm_router.launchers.base import RunningProcess
from llm_router.launchers.ports import Ports
from llm_router.runtime.tasks import Tasks

_log = logging.getLogger(__name__)

IDLE_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spare:
    """`key`: what it is good for (`Load.shared_key`). `port`: held for it. `devices`: where its last model was."""

    key: str
    process: RunningProcess
    port: int
    devices: tuple[str, ...]
    stop: StopPlan


class Spares:
    """`ports`: a spare's is released when it is gone. `tasks`: owns the work of ending one."""

    def __init__(self, ports: Ports, tasks: Tasks) -> None:
        self._ports = ports
        self._tasks = tasks
        self._kept: dict[str, Spare] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[Spare] = set()

    def keep(self, spare: Spare) -> None:
        """Until it is taken, exits, or has waited for `IDLE_S`. One of the same key that is there already is ended."""
        if (older := self._kept.get(spare.key)) is not None:
            self._end_soon(older)
        self._kept[spare.key] = spare
        self._timers[spare.key] = asyncio.get_running_loop().call_later(IDLE_S, self._end_soon, spare)
        spare.process.exited.add_done_callback(lambda _: self._end_soon(spare))

    def __bool__(self) -> bool:
        return bool(self._kept)

    def find(self, key: str) -> Spare | None:
        return self._kept.get(key)

    def take(self, spare: Spare) -> bool:
        """False: it isn't there any more."""
        return self._forget(spare) and not spare.process.exited.done()

    async def make_way(self, *, port: int | None, devices: Collection[str]) -> None:
        """End those that hold this port or are on one of these devices. Returns when nothing of them is left."""
        for spare in [*self._kept.values(), *self._ending]:
            if spare.port == port or not set(devices).isdisjoint(spare.devices):
                await self.end(spare)

    async def end(self, spare: Spare, plan: StopPlan | None = None) -> None:
        """By `plan`, else by its own. Returns when nothing of it is left. Safe to repeat; cancelling doesn't stop the
        stopping."""
        self._forget(spare)
        self._ending.add(spare)
        try:
            await spare.process.stop(plan or spare.stop)
        except Exception:  # noqa: BLE001 -- what can't be stopped must not stop everything else
            _log.exception("cannot stop a server without a model")
        if spare in self._ending:
            self._ending.discard(spare)
            self._ports.release(spare.port)

    async def end_all(self) -> None:
        for spare in [*self._kept.values(), *self._ending]:
            await self.end(spare)

    def processes(self) -> list[RunningProcess]:
        return [spare.process for spare in (*self._kept.values(), *self._ending)]

    def _end_soon(self, spare: Spare) -> None:
        if self._forget(spare):
            self._tasks.spawn(f"end-{spare.key}", self.end(spare))

    def _forget(self, spare: Spare) -> bool:
        """Whether it was there."""
        if self._kept.get(spare.key) is not spare:
            return False
        del self._kept[spare.key]
        self._timers.pop(spare.key).cancel()
        return True
