"""What the runtime knows of an instance beyond the scheduler's view: its process, address, and how far its load is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Protocol

from llm_router.backends.base import Backend, LaunchRequest, LaunchSpec, Loading
from llm_router.launchers.base import RunningProcess
from llm_router.relay.lease import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How one model is started. `fixed_port`: from the configuration; None: a free one is chosen for each start.

    `load_timeout_s`: how long a load may take altogether; `stall_timeout_s`: without a line, a sign of progress or a
    growth of its memory; None: no limit.
    """

    backend: Backend
    request: LaunchRequest
    fixed_port: int | None
    load_timeout_s: float
    stall_timeout_s: float | None = None

    @property
    def key(self) -> str:
        """A hash of all that shapes the start, but for the port: a running instance of another key is outdated."""
        shape = asdict(replace(self.request, port=0, env=dict(self.request.env)))
        text = json.dumps([self.backend.kind, self.fixed_port, shape], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Watch(Protocol):
    """Knows the memory of the devices while instances come and go. Counterpart: `effects`, which tells it what runs.

    `devices` are named as the scheduler names them ("0", "1", "cpu", or the one device of an unknown machine);
    `reserved_mib` is what is kept for the instance on each of them; one that isn't in it is the instance's alone.
    """

    async def room(self, instance: int, model: str, devices: tuple[str, ...], reserved_mib: Mapping[str, int]) -> None:
        """Wait until that much memory is really free: what was stopped gives it back later than it ends.

        Has a deadline of its own; cancelling leaves nothing behind. Raises: LaunchError, naming who holds the memory.
        """
        ...

    def began(self, instance: int, pid: int, devices: tuple[str, ...]) -> None:
        """From now on the process `pid`, its group and its children are the instance's. `pid` may have been another
        instance's before: its memory counts for this one now."""
        ...

    def ended(self, instance: int) -> None:
        """Nothing of it is left, or its server serves nobody now. Safe for what never began."""
        ...

    def grew(self, instance: int) -> float:
        """When its memory last grew: monotonic seconds; -inf where nothing is known."""
        ...

    def peak_mib(self, instance: int) -> Mapping[str, int]:
        """The most it held since it began, by device; empty where nothing is known. Answers until `ended`."""
        ...


class Unwatched:
    """The `Watch` of a machine whose memory nobody can read: there is always room, and nothing is known."""

    async def room(self, instance: int, model: str, devices: tuple[str, ...], reserved_mib: Mapping[str, int]) -> None:
        return

    def began(self, instance: int, pid: int, devices: tuple[str, ...]) -> None: ...

    def ended(self, instance: int) -> None: ...

    def grew(self, instance: int) -> float:
        return -math.inf

    def peak_mib(self, instance: int) -> Mapping[str, int]:
        return {}


@dataclass(slots=True, kw_only=True)
class Instance:
    """One instance, from the command to start it until it is gone."""

    id: int
    model: str
    since: float
    port: int = 0
    process: RunningProcess | None = None
    spec: LaunchSpec | None = None
    upstream: Upstream | None = None
    starting: asyncio.Task[None] | None = None
    loading: Loading = field(default_factory=Loading)
    ready_at: float | None = None
    stopping: bool = False

    def note(self, loading: Loading) -> None:
        self.loading = loading


class LoadTimes:
    """How long each model's last loads took, in seconds: the estimate shown while the next one runs."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def add(self, model: str, seconds: float) -> None:
        self._times.setdefault(model, deque(maxlen=5)).append(seconds)

    def estimate(self, model: str) -> float | None:
        times = self._times.get(model)
        return median(times) if times else None


def upstream_for(instance: int, model: str, spec: LaunchSpec) -> Upstream:
    address = spec.address
    host = f"[{address.host}]" if ":" in address.host else address.host
    return Upstream(
        instance=instance,
        model=model,
        host=address.host,
        port=address.port,
        host_header=f"{host}:{address.port}".encode(),
        tls=address.tls,
        base_path=address.base_path.encode(),
        served_name=spec.served_name,
        credential=spec.credential,
    )


Launches = Mapping[str, Launch]
