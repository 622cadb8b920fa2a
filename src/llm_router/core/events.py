"""Everything that can happen to the scheduler, in the past tense. Time arrives with the event: `at`, monotonic seconds.

Counterpart: `commands`. Ids are given out by the runtime (requests) and by the scheduler (instances), never reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from llm_router.core.specs import ModelSpec, PolicySpec


class RequestClass(Enum):
    """INTERACTIVE: somebody watches the answer come. NORMAL: a program waits for it. BACKGROUND: it can wait. All three
    may cause a switch; they differ in how urgent it is. TASK (a chat front end's title or tag request) is served by a
    ready instance with a free lease or refused at once: it never starts, delays or undoes a switch."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BACKGROUND = "background"
    TASK = "task"


class TimerKind(Enum):
    """PATIENCE: look again whether the resident's turn is over. DRAIN: the drain deadline of an instance.
    IDLE: the idle time-out of an instance. ROOM: other programs have held a device's memory for too long; its subject
    is 0. (A back-off needs none: nothing waits for its end.)"""

    PATIENCE = "patience"
    DRAIN = "drain"
    IDLE = "idle"
    ROOM = "room"


@dataclass(frozen=True, slots=True)
class TimerKey:
    """Names a timer: setting the same key again replaces it. `subject`: an instance id, or 0."""

    kind: TimerKind
    subject: int


class RequestArrived(NamedTuple):
    """A client asks for `model` (a canonical name). Granted or refused at once, or explained by `wait_of`."""

    at: float
    request: int
    model: str
    request_class: RequestClass = RequestClass.NORMAL


class RequestClosed(NamedTuple):
    """The one closing event of an admitted request: finished, failed, or its client left (also while it waited).

    `lost`: its instance broke the connection, so it is suspect until `InstanceReady` or `InstanceGone`.
    A request that was refused by `RejectRequest` is already closed and sends none.
    """

    at: float
    request: int
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReady:
    """An instance answers: after a start, an adoption, a check, or being woken."""

    at: float
    instance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceParked:
    """An instance has given its memory back and serves nobody until it is woken: after `ParkInstance`, or because it
    was adopted like that. `held_mib`: what it still holds, by device; None: nobody knows, so as much as before."""

    at: float
    instance: int
    held_mib: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceGone:
    """An instance is no more and its memory is free: its start failed, it exited by itself, or a stop is complete.
    One that can't be parked or woken is ended.

    `error`: why, for people, when it was not asked to stop; None after a wanted stop. `out_of_memory`: it failed for
    want of memory, so more room may help.
    """

    at: float
    instance: int
    error: str | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceAdopted:
    """At start-up: a process of an earlier router still runs and serves `model` on `devices`. Its id is `instance`;
    the scheduler gives out higher ones from now on. `InstanceReady`, `InstanceParked` or `InstanceGone` follows."""

    at: float
    instance: int
    model: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMeasured:
    """What an instance really holds, in MiB by device: the most seen since its start. Corrects its reservation."""

    at: float
    instance: int
    used_mib: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMeasured:
    """What our instances may use of a device altogether, now: what is free plus what they hold, in MiB. The budget is
    the smaller of this and the configured one. None: the device is gone."""

    at: float
    device: str
    available_mib: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsChanged:
    """The configuration changed: these are the models now. Instances of removed models and of changed launches drain
    and leave; requests that wait for a removed model are refused; all others keep what they have. `policy`: the numbers
    from now on; None: as before. A device that it names no more has no room for anyone."""

    at: float
    models: Mapping[str, ModelSpec]
    policy: PolicySpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequested:
    """Someone wants `model` loaded without sending a request yet (command line, preload). Waits like a request would;
    ends a back-off early."""

    at: float
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadRequested:
    """Someone wants `model` gone. It drains first; waiting requests for it stay and load it again."""

    at: float
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRequested:
    """A client of `model` wants its instance to stay for `keep_s` when nobody uses it, instead of the configured time:
    seconds; infinity: it isn't unloaded for want of use. Until the next word about it, or until the instance is gone.
    It says nothing about who leaves when another model needs the room."""

    at: float
    model: str
    keep_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    at: float
    timer: TimerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownRequested:
    """No new requests from now on; waiting ones are refused, running ones may finish. The runtime does the stopping."""

    at: float


Event = (
    RequestArrived
    | RequestClosed
    | InstanceReady
    | InstanceParked
    | InstanceGone
    | InstanceAdopted
    | MemoryMeasured
    | DeviceMeasured
    | ModelsChanged
    | LoadRequested
    | UnloadRequested
    | KeepRequested
    | TimerFired
    | ShutdownRequested
)
