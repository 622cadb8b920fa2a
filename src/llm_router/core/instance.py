"""What the scheduler knows of one running server. Counterpart: `model`, which it serves.

Nothing is decided here: properties say what is, never what should be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from llm_router.core.device import Reserved
from llm_router.core.events import TimerKind

if TYPE_CHECKING:
    from llm_router.core.model import ModelState


class Lifecycle(Enum):
    """STARTING: between the start (or adoption, or being woken) and the next `InstanceReady`. PARKING: it was told to
    give its memory back, which still counts. PARKED: it has; what it still holds counts. STOPPING: its stop was
    ordered, its memory still counts. GONE: forgotten, except by the leases that the relay hasn't closed yet."""

    STARTING = "starting"
    READY = "ready"
    PARKING = "parking"
    PARKED = "parked"
    STOPPING = "stopping"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Instance:
    """One server, from its start, adoption or last being woken (`since`) until it is gone.

    `reserved`: what is kept for it by device; None for a whole one. `measured_mib`: what it was seen to hold. `home`:
    the devices it was placed on. `is_waking`: it was parked before it became STARTING. `slots`: leases it may have
    open. `promised_until`: requests up to this order found it ready when they waited, so it serves them before it
    leaves. `had_company`: somebody else was on one of its devices when it started; they may leave meanwhile, but nobody
    joins before it is ready. `unload_wanted`: someone wants it gone; `is_outdated`: because the configuration changed.
    `drain_until`: it grants nothing more and leaves by then. `turn_ends_at`: someone wants its room, and from then on
    it grants only what it promised. `keep_s`: how long it stays when nobody uses it, as a client wished; infinity: for
    ever; None: as configured. `timers`: those pending, with their time.
    """

    id: int
    model: ModelState
    since: float
    slots: int
    last_used_at: float
    reserved: Reserved
    seats: frozenset[str] = frozenset()
    launch_key: str = ""
    measured_mib: dict[str, int] = field(default_factory=dict)
    home: frozenset[str] = frozenset()
    is_adopted: bool = False
    is_waking: bool = False
    had_company: bool = False
    lifecycle: Lifecycle = Lifecycle.STARTING
    leases: dict[int, None] = field(default_factory=dict)
    ready_at: float | None = None
    is_suspect: bool = False
    has_served: bool = False
    promised_until: int = 0
    unload_wanted: bool = False
    is_outdated: bool = False
    drain_until: float | None = None
    turn_ends_at: float | None = None
    keep_s: float | None = None
    timers: dict[TimerKind, float] = field(default_factory=dict)

    @property
    def is_starting(self) -> bool:
        return self.lifecycle is Lifecycle.STARTING

    @property
    def is_away(self) -> bool:
        """It serves nobody before it has been started again or woken."""
        lifecycle = self.lifecycle
        return lifecycle is Lifecycle.STOPPING or lifecycle is Lifecycle.PARKED or lifecycle is Lifecycle.PARKING

    @property
    def is_wakeable(self) -> bool:
        return self.lifecycle is Lifecycle.PARKED and not self.unload_wanted

    @property
    def competes(self) -> bool:
        return bool(self.reserved or self.seats)

    @property
    def is_serving(self) -> bool:
        """Ready, trusted and not on its way out: the only state in which it may grant."""
        return self.lifecycle is Lifecycle.READY and not self.is_suspect and self.drain_until is None

    @property
    def is_leaving_anyway(self) -> bool:
        """Its room becomes free without evicting it."""
        return self.lifecycle in (Lifecycle.STOPPING, Lifecycle.PARKING) or self.unload_wanted

    @property
    def idle_timeout_s(self) -> float | None:
        """It is unloaded after this long without a request; None: never. Who pins a model has the last word on it."""
        spec = self.model.spec
        if self.keep_s is None or spec.pinned:
            return spec.idle_timeout_s
        return None if self.keep_s == math.inf else self.keep_s

    @property
    def park_after_s(self) -> float | None:
        """It is parked after this long without a request; None: never. What a client wants to keep, he wants ready."""
        spec = self.model.spec
        return spec.park_after_s if self.keep_s is None or spec.pinned else None

    @property
    def leaves_when_idle(self) -> bool:
        """Whether it is ever parked or unloaded for want of requests."""
        return self.idle_timeout_s is not None or self.park_after_s is not None

    @property
    def is_busy(self) -> bool:
        return bool(self.leases) or bool(self.model.queue.requests)

    @property
    def has_promises(self) -> bool:
        return self.model.queue.first(until_order=self.promised_until) is not None

    def is_in_turn(self, at: float) -> bool:
        return not self.unload_wanted and (self.turn_ends_at is None or at < self.turn_ends_at)

    def can_grant(self, at: float) -> bool:
        """Whether a request that arrives now can be served without waiting."""
        return (
            self.is_serving and len(self.leases) < self.slots and not self.model.queue.requests and self.is_in_turn(at)
        )

    @property
    def is_undisputed(self) -> bool:
        """Serving, with nothing of its own waiting, and nobody wants it gone."""
        return (
            self.is_serving and not self.model.queue.requests and not self.unload_wanted and self.turn_ends_at is None
        )
