"""What the scheduler remembers: models with their waiting requests, devices, instances with their leases.

Counterpart: `scheduler`, the only one that changes any of this; `placement`, `policy` and `views` read it. Nothing is
decided here: methods and properties say what is, never what should be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from llm_router.core.events import RequestClass, TimerKind
from llm_router.core.lanes import Lanes
from llm_router.core.specs import ANY_DEVICE, HOST, ModelSpec, PolicySpec

_UNLIMITED = 1 << 60
# After this long without requests, a model is half as likely to be needed again.
_HALF_LIFE_S = 600.0

_LANES = {RequestClass.INTERACTIVE: 0, RequestClass.NORMAL: 1, RequestClass.BACKGROUND: 2}

# Memory by device, in MiB; None: all of that device, because nobody knows how much.
Reserved = Mapping[str, int | None]


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
class Device:
    """`configured_mib`: what models may use of it; None: nobody said. `available_mib`: what is really there for them,
    as measured last; None: never measured. `most_mib`: the most that was ever measured."""

    name: str
    configured_mib: int | None
    available_mib: int | None = None
    most_mib: int | None = None
    is_gone: bool = False

    @property
    def budget_mib(self) -> int | None:
        """What instances may use now; None: unknown."""
        if self.is_gone:
            return 0
        if self.configured_mib is None or self.available_mib is None:
            return self.available_mib if self.configured_mib is None else self.configured_mib
        return min(self.configured_mib, self.available_mib)

    @property
    def nominal_mib(self) -> int | None:
        """What instances may use while no other program holds anything; None: unknown."""
        return self.most_mib if self.configured_mib is None else self.configured_mib


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
        return self.is_wanted and (self.instance is None or self.instance.is_away)

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


def devices_for(spec: ModelSpec, devices: Mapping[str, Device]) -> tuple[str, ...]:
    """The devices for what takes memory at all, in order."""
    if ANY_DEVICE in devices:
        return (ANY_DEVICE,)
    if spec.devices is not None:
        return spec.devices
    return tuple(name for name in devices if name != HOST) or (HOST,)


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


def slots_of(spec: ModelSpec) -> int:
    return _UNLIMITED if spec.concurrency is None else spec.concurrency


class State:
    """Everything the scheduler knows.

    `places`: leases that may be open altogether. `live`: instances by id, until they are gone. `leased`: who serves a
    granted request, until it is closed, even if the instance is gone. `waiting`: the model of each waiting request.
    `wanted`: the models that somebody wants, so that nobody asks all the others. `hot`: instances by model whose grants
    and closes change nothing else. `evicted`: models that left to make room, and the model that it was for, until that
    one has used it. `room_timer`: when to look at `short_since` again.

    `changes` counts what a plan depends on: who is where, who is in need, who is idle, who drains, what time it is.
    While it stands still, the last plan still holds, but for who has come to wait since: `arrivals` counts those.
    `rooms` counts only what no eviction could change. `may_be_crowded`: residents that don't fit among themselves have
    to be looked for, since somebody came unplanned, grew, or lost room.
    """

    def __init__(self, specs: Iterable[ModelSpec], policy: PolicySpec) -> None:
        self._handicaps_s = (0.0, policy.normal_handicap_s, policy.background_handicap_s)
        self.devices: dict[str, Device] = {}
        self.use(policy)
        self.models = {spec.name: self.new_model(spec) for spec in specs}
        self.live: dict[int, Instance] = {}
        self.leased: dict[int, Instance] = {}
        self.waiting: dict[int, ModelState] = {}
        self.wanted: dict[ModelState, None] = {}
        self.hot: dict[str, Instance] = {}
        self.evicted: dict[str, ModelState] = {}
        self.room_timer: float | None = None
        self.changes = self.arrivals = self.rooms = 0
        self.may_be_crowded = False
        self.shutting_down = False
        self._last_instance = 0
        self._last_order = 0

    def use(self, policy: PolicySpec) -> None:
        """These numbers hold from now on. A device that isn't named any more stays for who is on it, without room."""
        self.places = _UNLIMITED if policy.concurrency is None else policy.concurrency
        for name, budget_mib in policy.budgets.items():
            self.devices.setdefault(name, Device(name, budget_mib)).configured_mib = budget_mib
        for name in self.devices.keys() - policy.budgets.keys():
            self.devices[name].configured_mib = 0

    def new_model(self, spec: ModelSpec) -> ModelState:
        model = ModelState(spec, Lanes(self._handicaps_s), footprint_mib=spec.footprint_mib)
        model.names = self.names_for(spec)
        return model

    def names_for(self, spec: ModelSpec) -> frozenset[str]:
        """The devices that a model may use, by name. Those it names itself may not exist."""
        return frozenset(devices_for(spec, self.devices)) if spec.footprint_mib != 0 else frozenset()

    def moved(self, model: ModelState) -> None:
        """An instance of it came, went, or was told to go or stay."""
        self.changes += 1
        if model.spec.pinned:
            self.rooms += 1

    def stays_unplanned(self, model: ModelState) -> None:
        """An instance of it is there, or needn't go after all, and nobody has looked whether there is room for it."""
        self.moved(model)
        self.may_be_crowded = True

    def remeasured(self) -> None:
        """Memory, devices or models aren't what they were."""
        self.changes += 1
        self.rooms += 1
        self.may_be_crowded = True

    def forget_shortage(self, model: ModelState) -> None:
        """It isn't given more room than others any longer."""
        if model.ran_out:
            model.ran_out = False
            self.remeasured()

    def next_order(self) -> int:
        self._last_order += 1
        return self._last_order

    @property
    def last_order(self) -> int:
        return self._last_order

    @property
    def has_place(self) -> bool:
        return len(self.leased) < self.places

    def wish_for(self, model: ModelState, at: float) -> None:
        if model.load_wish is None:
            model.load_wish = Wish(at, self.next_order())
            self.wanted[model] = None
            self.arrivals += 1

    def drop_wish(self, model: ModelState) -> None:
        if model.load_wish is not None:
            model.load_wish = None
            self._forget_unwanted(model)
            self.changes += 1

    def enqueue(self, model: ModelState, request: int, at: float, request_class: RequestClass) -> None:
        """Who is first and how many there are matters to a model in need; to one that serves, only whether anybody
        waits at all."""
        queue = model.queue
        magnitude = queue.magnitude
        is_first = queue.add(request, at, self.next_order(), _LANES[request_class])
        self.waiting[request] = model
        self.wanted[model] = None
        if model.needs_start:
            self.arrivals += is_first or queue.magnitude != magnitude
        elif not magnitude:
            self.changes += 1

    def dequeue(self, model: ModelState, request: int) -> None:
        """As `enqueue`."""
        queue = model.queue
        magnitude = queue.magnitude
        was_first = queue.remove(request)
        if not queue.requests or ((was_first or queue.magnitude != magnitude) and model.needs_start):
            self.changes += 1
        del self.waiting[request]
        self._forget_unwanted(model)

    def _forget_unwanted(self, model: ModelState) -> None:
        if not model.is_wanted:
            self.wanted.pop(model, None)

    def open_lease(self, instance: Instance, request: int, at: float) -> None:
        instance.leases[request] = None
        instance.last_used_at = at
        instance.model.uses += 1
        self.leased[request] = instance

    def close_lease(self, instance: Instance, request: int, at: float, *, lost: bool) -> None:
        del self.leased[request]
        del instance.leases[request]
        instance.last_used_at = at
        if not lost:
            instance.has_served = True

    def new_instance(self, model: ModelState, reserved: Reserved, at: float) -> Instance:
        return self.add_instance(self._last_instance + 1, model, reserved, at)

    def add_instance(self, id: int, model: ModelState, reserved: Reserved, at: float) -> Instance:  # noqa: A002
        """Remember an instance; it becomes its model's one unless that has one already."""
        self._last_instance = max(self._last_instance, id)
        spec = model.spec
        instance = Instance(
            id=id,
            model=model,
            since=at,
            slots=slots_of(spec),
            last_used_at=at,
            reserved=reserved,
            home=frozenset(reserved),
            seats=spec.seats,
            launch_key=spec.launch_key,
        )
        self.live[id] = instance
        self.moved(model)
        if model.instance is None:
            model.instance = instance
        return instance

    def in_need(self) -> list[ModelState]:
        """The models that someone waits for and that must be started: those of which `needs_start` is true."""
        return [model for model in self.wanted if model.needs_start]

    def tenants(self, device: str) -> list[Instance]:
        """Whoever has a reservation there, also while it starts or stops."""
        return [instance for instance in self.live.values() if device in instance.reserved]
