"""What the scheduler remembers: models with their waiting requests, instances with their leases.

Counterpart: `scheduler`, the only one that changes any of this; `placement`, `policy` and `views` read it. Nothing is
decided here: methods and properties say what is, never what should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from llm_router.core.events import TimerKind
from llm_router.core.specs import ModelSpec

# When something began to wait: seconds, then a running number, so that a burst at one instant keeps its order.
Age = tuple[float, int]

_UNLIMITED = 1 << 60


class Lifecycle(Enum):
    """STARTING: between the start (or adoption) and the first `InstanceReady`. STOPPING: its stop was ordered, its
    memory still counts. GONE: forgotten, except by the leases that the relay hasn't closed yet."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """`promised_by`: the instance that found it waiting when it became ready, and so serves it whatever else waits."""

    request: int
    age: Age
    promised_by: int | None = None


@dataclass(slots=True, eq=False)
class Failure:
    """`retry_at`: until then (seconds, monotonic) the model isn't started again."""

    error: str
    retry_at: float


@dataclass(slots=True, eq=False)
class ModelState:
    """One configured model.

    `queue`: by request id, first come first. `load_wish`: someone wants it ready without a request, since then.
    `failure`: why its last load failed, until a load works. `failed_loads`: in a row, without a served request.
    `crashed_at`: its last crash that no served request has made good. `load_s`: how long a load takes, learned.
    """

    spec: ModelSpec
    instance: Instance | None = None
    queue: dict[int, WaitingRequest] = field(default_factory=dict)
    load_wish: Age | None = None
    failure: Failure | None = None
    failed_loads: int = 0
    crashed_at: float | None = None
    load_s: float | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def competes(self) -> bool:
        """Whether it takes room on the device at all."""
        return self.spec.footprint_mib != 0

    @property
    def first_waiting(self) -> WaitingRequest | None:
        return next(iter(self.queue.values()), None)

    @property
    def wanted_since(self) -> Age | None:
        """The age of its oldest waiting request or load wish; None: nobody wants it."""
        first = self.first_waiting
        if first is None:
            return self.load_wish
        return first.age if self.load_wish is None else min(first.age, self.load_wish)

    @property
    def needs_start(self) -> bool:
        """Someone wants it, and no instance is there or on its way. One that drains has not left yet, so it doesn't
        count: a model that was told to make room can't come back before it did."""
        is_wanted = bool(self.queue) or self.load_wish is not None
        return is_wanted and (self.instance is None or self.instance.lifecycle is Lifecycle.STOPPING)


@dataclass(slots=True, eq=False)
class Instance:
    """One server, from its start or adoption (`since`) until it is gone.

    `slots`: leases it may have open. `drain_until`: it grants nothing more and leaves by then. `turn_ends_at`: someone
    wants its room, and from then on it grants only what it promised. `timers`: those pending, with their time.
    """

    id: int
    model: ModelState
    since: float
    slots: int
    last_used_at: float
    is_adopted: bool = False
    lifecycle: Lifecycle = Lifecycle.STARTING
    leases: dict[int, None] = field(default_factory=dict)
    ready_at: float | None = None
    is_suspect: bool = False
    has_served: bool = False
    unload_wanted: bool = False
    drain_until: float | None = None
    turn_ends_at: float | None = None
    timers: dict[TimerKind, float] = field(default_factory=dict)

    @property
    def is_starting(self) -> bool:
        return self.lifecycle is Lifecycle.STARTING

    @property
    def is_serving(self) -> bool:
        """Ready, trusted and not on its way out: the only state in which it may grant."""
        return self.lifecycle is Lifecycle.READY and not self.is_suspect and self.drain_until is None

    @property
    def is_leaving_anyway(self) -> bool:
        """Its room becomes free without evicting it."""
        return self.lifecycle is Lifecycle.STOPPING or self.unload_wanted

    @property
    def is_busy(self) -> bool:
        return bool(self.leases or self.model.queue)

    @property
    def has_promises(self) -> bool:
        """Promised requests are the front of the queue, so the first one tells."""
        first = self.model.first_waiting
        return first is not None and first.promised_by == self.id

    def is_in_turn(self, at: float) -> bool:
        return not self.unload_wanted and (self.turn_ends_at is None or at < self.turn_ends_at)

    def can_grant(self, at: float) -> bool:
        """Whether a request that arrives now can be served without waiting."""
        return self.is_serving and len(self.leases) < self.slots and not self.model.queue and self.is_in_turn(at)

    @property
    def is_undisputed(self) -> bool:
        """Serving, with nothing of its own waiting, and nobody wants it gone."""
        return self.is_serving and not self.model.queue and not self.unload_wanted and self.turn_ends_at is None


class State:
    """Everything the scheduler knows.

    `live`: instances by id, until they are gone. `leased`: who serves a granted request, until it is closed, even if
    the instance is gone. `waiting`: the model of each waiting request. `hot`: instances by model whose grants and
    closes change nothing else. `evicted`: models that left to make room which nobody has used yet.
    """

    def __init__(self, specs: Iterable[ModelSpec]) -> None:
        self.models = {spec.name: ModelState(spec) for spec in specs}
        self.live: dict[int, Instance] = {}
        self.leased: dict[int, Instance] = {}
        self.waiting: dict[int, ModelState] = {}
        self.hot: dict[str, Instance] = {}
        self.evicted: set[str] = set()
        self.shutting_down = False
        self._last_instance = 0
        self._last_order = 0

    def age(self, at: float) -> Age:
        self._last_order += 1
        return at, self._last_order

    def enqueue(self, model: ModelState, request: int, at: float) -> None:
        model.queue[request] = WaitingRequest(request, self.age(at))
        self.waiting[request] = model

    def dequeue(self, model: ModelState, request: int) -> None:
        del model.queue[request]
        del self.waiting[request]

    def open_lease(self, instance: Instance, request: int, at: float) -> None:
        instance.leases[request] = None
        instance.last_used_at = at
        self.leased[request] = instance

    def close_lease(self, instance: Instance, request: int, at: float, *, lost: bool) -> None:
        del self.leased[request]
        del instance.leases[request]
        instance.last_used_at = at
        if not lost:
            instance.has_served = True

    def new_instance(self, model: ModelState, at: float) -> Instance:
        return self.add_instance(self._last_instance + 1, model, at)

    def add_instance(self, id: int, model: ModelState, at: float) -> Instance:  # noqa: A002 (the field's name)
        """Remember an instance; it becomes its model's one unless that has one already."""
        self._last_instance = max(self._last_instance, id)
        slots = model.spec.concurrency or _UNLIMITED
        instance = Instance(id=id, model=model, since=at, slots=slots, last_used_at=at)
        self.live[id] = instance
        if model.instance is None:
            model.instance = instance
        return instance

    def in_need(self) -> Iterator[ModelState]:
        """The models that someone waits for and that must be started."""
        wanted = (model for model in self.models.values() if model.queue or model.load_wish is not None)
        return (model for model in wanted if model.needs_start)

    def switch_in_progress(self) -> Instance | None:
        """The instance that is starting on the device; there is one at most, adopted ones aside."""
        return next((i for i in self.live.values() if i.is_starting and i.model.competes), None)
