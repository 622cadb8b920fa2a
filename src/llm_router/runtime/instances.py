"""What the runtime knows of an instance beyond the scheduler's view: its process, address, and how far its load is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from llm_router.backends.base import Backend, Facts, LaunchRequest, LaunchSpec, Loading
from llm_router.core.specs import ANY_DEVICE
from llm_router.hardware.base import CPU
from llm_router.launchers.base import RunningProcess
from llm_router.relay.lease import Upstream

# The memory of a device in MiB, by its name; None: unknown.
DeviceSize = Callable[[str], int | None]


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

    def request_on(
        self, port: int, devices: tuple[str, ...], reserved_mib: Mapping[str, int], device_mib: DeviceSize
    ) -> LaunchRequest:
        """For a start on these devices. What the host's memory or an unknown device would say is left as configured.

        A reservation limits the server only where the user said how much it may have: one that was learned or guessed
        would keep it from what it needs.
        """
        chosen = tuple(device for device in devices if device not in (CPU, ANY_DEVICE))
        request = replace(self.request, port=port)
        if not chosen:
            return request
        reserved = [reserved_mib[device] for device in chosen if device in reserved_mib]
        sizes = [size for device in chosen if (size := device_mib(device)) is not None]
        declared = request.memory_mib is not None and reserved
        return replace(
            request,
            devices=chosen,
            memory_mib=max(reserved) if declared else request.memory_mib,
            device_mib=min(sizes) if len(sizes) == len(chosen) else None,
        )

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
        """Wait until that much memory is really free: what was stopped gives it back later than it ends. What a server
        of ours without a model still holds counts as free: the instance takes it over, else it has been ended.

        Has a deadline of its own; cancelling leaves nothing behind. Raises: LaunchError, naming who holds the memory.
        """
        ...

    def began(self, instance: int, pid: int, devices: tuple[str, ...]) -> None:
        """From now on the process `pid`, its group and its children are the instance's. `pid` may have been another
        instance's before: its memory counts for this one now."""
        ...

    async def host_room(self, instance: int, model: str, weights_mib: int | None) -> None:
        """Returns if the host's memory can take now what the instance has on its devices: its weights, where it is
        known how large they are. Raises: LaunchError."""
        ...

    async def parked(self, instance: int) -> Mapping[str, int] | None:
        """It has given its memory back. Returns what it still holds, by device, from a look that began afterwards;
        None where nothing is known."""
        ...

    def waking(self, instance: int, reserved_mib: Mapping[str, int]) -> None:
        """It takes its memory again, as if it were loading."""
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

    async def host_room(self, instance: int, model: str, weights_mib: int | None) -> None:
        return

    def began(self, instance: int, pid: int, devices: tuple[str, ...]) -> None: ...

    async def parked(self, instance: int) -> Mapping[str, int] | None:
        return None

    def waking(self, instance: int, reserved_mib: Mapping[str, int]) -> None: ...

    def ended(self, instance: int) -> None: ...

    def grew(self, instance: int) -> float:
        return -math.inf

    def peak_mib(self, instance: int) -> Mapping[str, int]:
        return {}


@dataclass(slots=True, kw_only=True)
class Instance:
    """One instance, from the command to start it until it is gone.

    `since`: its start, or when it was last woken. `starting`: the start, the park or the wake that runs, or the last.
    `ready_at`: when it was last ready; None: it never was. `parked_at`: None: it isn't parked.
    `launch_key`: of its start, whatever the configuration says by now.
    `devices`, `reserved_mib`: where the scheduler placed it. `port`: held for it; 0: none. `warm`: its files were in
    the page cache when its load began; None: it isn't a load of ours. `room_s`: how long it waited for free memory.
    `checking`: the last look at whether it still serves. `is_up`: its server answers, with or without its model.
    `is_loading`: its server was told to load and hasn't said how that ended. `facts`: what the server says of itself,
    soon after it is ready. `oom_kills`: of the kernel, when the process became the instance's.
    """

    id: int
    model: str
    since: float
    launch_key: str = ""
    devices: tuple[str, ...] = ()
    reserved_mib: Mapping[str, int] = field(default_factory=dict)
    port: int = 0
    process: RunningProcess | None = None
    spec: LaunchSpec | None = None
    upstream: Upstream | None = None
    starting: asyncio.Task[None] | None = None
    checking: asyncio.Task[None] | None = None
    loading: Loading = field(default_factory=Loading)
    facts: Facts = field(default_factory=Facts)
    warm: bool | None = None
    room_s: float = 0.0
    oom_kills: int | None = None
    ready_at: float | None = None
    parked_at: float | None = None
    is_up: bool = False
    is_loading: bool = False
    stopping: bool = False

    def note(self, loading: Loading) -> None:
        self.loading = loading


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
        usage_on_request=spec.wants_usage_asked,
        last_words=spec.last_words,
    )


Launches = Mapping[str, Launch]
