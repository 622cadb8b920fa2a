"""Everything the scheduler can ask for, in the imperative. Counterpart: `events`. The runtime obeys, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from llm_router.core.events import TimerKey


class Refusal(Enum):
    """Why a request is refused or cut; the runtime makes an error of it."""

    QUEUE_FULL = "queue_full"
    LOAD_FAILED = "load_failed"
    NO_ROOM = "no_room"
    NOT_READY = "not_ready"
    SHUTTING_DOWN = "shutting_down"
    PREEMPTED = "preempted"


class GrantRequest(NamedTuple):
    """The request holds a lease on `instance` until its `RequestClosed`. The instance is ready."""

    request: int
    instance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectRequest:
    """The request is closed without ever having had a lease. `detail`: for people. `retry_after_s`: an honest guess."""

    request: int
    refusal: Refusal
    detail: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CutRequest:
    """End a running request: its drain deadline passed. `RequestClosed` still follows, from the relay."""

    request: int
    refusal: Refusal
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartInstance:
    """Make `model` ready as `instance` on `devices`, where `reserved_mib` (by device) is kept for it; a device that
    isn't in it is the model's alone. Answered by `InstanceReady` or `InstanceGone`."""

    instance: int
    model: str
    devices: tuple[str, ...]
    reserved_mib: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkInstance:
    """Have `instance`, which is ready and serves nobody, give its memory back and stay. Answered by `InstanceParked`,
    or by `InstanceGone` where that fails."""

    instance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeInstance:
    """Make a parked instance ready again where it is, with as much memory as a start of it would get. Answered by
    `InstanceReady`, or by `InstanceGone` where that fails."""

    instance: int
    model: str
    devices: tuple[str, ...]
    reserved_mib: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopInstance:
    """End `instance`, whatever state it is in; answered by `InstanceGone`. Safe to repeat."""

    instance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInstance:
    """Find out whether a suspect instance still serves; answered by `InstanceReady` or `InstanceGone`."""

    instance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """Post `TimerFired(timer)` at `at` (monotonic seconds). Replaces a timer of the same key."""

    timer: TimerKey
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTimer:
    timer: TimerKey


Command = (
    GrantRequest
    | RejectRequest
    | CutRequest
    | StartInstance
    | ParkInstance
    | WakeInstance
    | StopInstance
    | CheckInstance
    | SetTimer
    | CancelTimer
)
