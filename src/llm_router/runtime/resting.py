"""Servers that are parked: sent to rest, brought back, recognised.

Counterparts: `effects`, which says when and reports what became of it; `hosts`, for all else about servers. Starts and
ends nothing, and posts no events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from llm_router.backends.base import LaunchRequest
from llm_router.errors import LaunchError
from llm_router.launchers import parking
from llm_router.launchers.base import Launcher
from llm_router.models.footprint import measure
from llm_router.runtime.instances import Instance, Launch, Watch
from llm_router.units import mib


class Resting:
    """`now`: monotonic seconds."""

    def __init__(self, launcher: Launcher, watch: Watch, now: Callable[[], float]) -> None:
        self._launcher = launcher
        self._watch = watch
        self._now = now

    async def park(self, record: Instance, launch: Launch) -> Mapping[str, int] | None:
        """Returns when the server has given its memory back, with what it still holds by device; None: nobody knows.
        At most as long as the backend's calls may take. Cancelling leaves it open whether it has. Raises: LaunchError,
        also where the host's memory can't take the weights: nothing has been asked of the server then.
        """
        assert record.spec is not None
        if record.spec.parking is None:
            raise LaunchError(f"cannot park {record.model}: its server can't be; take park_after out of its section")
        weights_mib = await asyncio.to_thread(_weights_mib, launch.request)
        await self._watch.host_room(record.id, record.model, weights_mib)
        self._mark(record, is_parked=True)  # before: a router that dies in between must not take it for ready
        await parking.ensure_parked(record.model, record.spec.address, record.spec.parking)
        return await self._watch.parked(record.id)

    async def wake(self, record: Instance, launch: Launch) -> None:
        """Returns when a parked server serves its model again, at most the launch's time limit after `record.since`;
        first it waits for the memory. Cancelling leaves it open whether it does. Raises: LaunchError."""
        assert record.spec is not None and record.spec.parking is not None
        began = self._now()
        await self._watch.room(record.id, record.model, record.devices, record.reserved_mib)
        record.room_s += self._now() - began
        self._watch.waking(record.id, record.reserved_mib)
        left_s = max(0.0, launch.load_timeout_s - (self._now() - record.since))
        await parking.ensure_awake(record.model, record.spec, record.spec.parking, deadline_s=left_s)
        self._mark(record, is_parked=False)

    async def is_parked(self, record: Instance) -> bool:
        """Whether an adopted server is; it answers already. Raises: LaunchError where that can't be told."""
        assert record.spec is not None and record.process is not None
        was_told = record.process.identity.is_parked
        found = await parking.is_parked(record.model, record.spec, was_told=was_told)
        if found != was_told:
            self._mark(record, is_parked=found)
        return found

    async def held_mib(self, record: Instance) -> Mapping[str, int] | None:
        """What one that was found parked holds, by device; None: nobody knows."""
        return await self._watch.parked(record.id)

    def _mark(self, record: Instance, *, is_parked: bool) -> None:
        if record.process is not None:
            self._launcher.hand_over(record.process, replace(record.process.identity, is_parked=is_parked))


def _weights_mib(request: LaunchRequest) -> int | None:
    """As its files say; None: nobody knows."""
    if request.path is None:
        return None
    found = measure(Path(request.path), context_length=request.context_length, args=request.args)
    return None if found is None else mib(found.weights)
