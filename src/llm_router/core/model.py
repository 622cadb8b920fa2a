"""What the scheduler knows of one configured model: who wants it, what it needs, how its loads went.

Counterparts: `lanes`, in which its requests wait; `instance`, the server that serves it. Nothing is decided here:
properties say what is, never what should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_router.core.device import Reserved
from llm_router.core.instance import Instance
from llm_router.core.lanes import Lanes
from llm_router.core.specs import ModelSpec

# After this long without requests, a model is half as likely to be needed again.
_HALF_LIFE_S = 600.0


@dataclass(slots=True, eq=False)
class Failure:
    """`retry_at`: until then (seconds, monotonic) the model isn't started again."""

    error: str
    retry_at: float


@dataclass(slots=True, eq=False)
class Wish:
    """Someone wants a model ready without sending a request; waits like one."""

    at: float
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a model can't be placed, for people, with what to do. `may_pass`: only because other programs hold memory."""

    detail: str
    may_pass: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """What holds for a model until `State.rooms` changes. `placements`: each way to place it, whoever else is there.
    `never`: why no eviction could make room for it; None: it can be placed."""

    rooms: int
    placements: Sequence[Reserved]
    never: Verdict | None


@dataclass(slots=True, eq=False)
class ModelState:
    """One configured model.

    `load_wish`: someone wants it ready without a request. `failure`: why its last load failed, until a load works.
    `failed_loads`: in a row, without a served request. `crashed_at`: its last crash that no served request has made
    good. `load_s`: how long a load takes, learned; `wake_s`: being woken. `footprint_mib`: what its next start
    reserves, over all devices: declared, estimated or learned; None: unknown. `measured_mib`: the same by device, as it
    was measured. `ran_out`: its last start failed for want of memory, so that the next one is given more room.
    `short_since`: since when other programs have held the memory it needs. `uses`: requests granted since `rate` was
    last brought up to date. `obstacle`: what it was last said to wait for. `names`: the devices that it may use.
    `prospects`: where there could be room for it, as found out last.
    """

    spec: ModelSpec
    queue: Lanes
    instance: Instance | None = None
    load_wish: Wish | None = None
    failure: Failure | None = None
    failed_loads: int = 0
    crashed_at: float | None = None
    load_s: float | None = None
    wake_s: float | None = None
    footprint_mib: int | None = None
    measured_mib: dict[str, int] = field(default_factory=dict)
    ran_out: bool = False
    short_since: float | None = None
    rate: float = 0.0
    rate_at: float = 0.0
    uses: int = 0
    obstacle: object = None
    names: frozenset[str] = frozenset()
    prospects: Prospects | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def competes(self) -> bool:
        """Whether it takes anything at all that another could want: memory or a seat."""
        return self.footprint_mib != 0 or bool(self.spec.seats)

    @property
    def is_wanted(self) -> bool:
        return bool(self.queue.requests) or self.load_wish is not None

    @property
    def needs_start(self) -> bool:
        """Someone wants it, and no instance is there or on its way. One that drains has not left yet, so it doesn't
        count: a model that was told to make room can't come back before it did."""
        return (self.instance is None or self.instance.is_away) and self.is_wanted

    @property
    def sleeper(self) -> Instance | None:
        """Its parked instance, if that is what a request for it would wake."""
        instance = self.instance
        return instance if instance is not None and instance.is_wakeable else None

    @property
    def ready_in_s(self) -> float | None:
        """How long it takes to make it ready from where it is, learned; of one that was never woken, like a load."""
        instance = self.instance
        is_wake = instance is not None and (instance.is_waking or instance.is_wakeable)
        return self.wake_s if is_wake and self.wake_s is not None else self.load_s

    def requests_lately(self, at: float) -> float:
        """How many requests it was granted, older ones counting less: what its likelihood of need is judged by."""
        if not self.rate:
            return float(self.uses)
        faded: float = 0.5 ** ((at - self.rate_at) / _HALF_LIFE_S)
        return self.rate * faded + self.uses

    def update_rate(self, at: float) -> None:
        if self.uses:
            self.rate = self.requests_lately(at)
            self.rate_at, self.uses = at, 0
