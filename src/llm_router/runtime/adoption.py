"""What an earlier router left running: what of it is an instance of a configured model, and the end of the rest.

Counterparts: `launchers`, which find it; `effects`, whose instances those become.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_router.backends.base import StopPlan
from llm_router.launchers.base import Launcher, RunningProcess
from llm_router.runtime.hosts import Hosts
from llm_router.runtime.instances import Instance, Launches

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors:
    """`wanted`: they serve a configured model as it would be started now. `unwanted`: all others."""

    wanted: dict[int, Instance] = field(default_factory=dict)
    unwanted: list[RunningProcess] = field(default_factory=list)


async def survivors(launcher: Launcher, hosts: Hosts, launches: Launches, now: Callable[[], float]) -> Survivors:
    """Call it once, before the first start. Waits for the launcher to find them, not for their answers."""
    found = Survivors()
    for process in await launcher.survivors():
        record = await _recognised(process, found, hosts, launches, now())
        if record is None:
            found.unwanted.append(process)
        else:
            found.wanted[record.id] = record
    return found


async def _recognised(
    process: RunningProcess, found: Survivors, hosts: Hosts, launches: Launches, at: float
) -> Instance | None:
    identity = process.identity
    launch = launches.get(identity.model)
    if launch is None or launch.key != identity.launch_key or identity.instance in found.wanted:
        return None
    record = Instance(
        id=identity.instance,
        model=identity.model,
        since=at,
        launch_key=identity.launch_key,
        devices=identity.devices,
        port=identity.port,
    )
    try:
        await hosts.adopt(record, launch, process)
    except Exception as error:  # noqa: BLE001 -- a backend's mistake must not keep the router from starting
        _log.warning("cannot take over %s: %s", identity.model, error)
        return None
    return record


async def end(process: RunningProcess) -> None:
    """Returns when it is gone, or can't be ended."""
    _log.info("ending pid %d, left over from an earlier run", process.pid)
    try:
        await process.stop(StopPlan())
    except Exception:  # noqa: BLE001 -- the others are still to be ended
        _log.exception("cannot end pid %d", process.pid)
