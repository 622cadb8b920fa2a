"""Everything that the scheduler remembers, in one place, and how it is kept consistent.

Counterparts: `device`, `instance` and `model`, of which it consists; `scheduler`, the only one that changes any of it.
`placement`, `policy` and `views` read it. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_router.core.device import Device, Reserved, devices_for
from llm_router.core.events import RequestClass
from llm_router.core.instance import Instance
from llm_router.core.lanes import Lanes
from llm_router.core.model import ModelState, Wish
from llm_router.core.specs import ModelSpec, PolicySpec

_UNLIMITED = 1 << 60

_LANES = {RequestClass.INTERACTIVE: 0, RequestClass.NORMAL: 1, RequestClass.BACKGROUND: 2}


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

    def still_leaving(self, name: str) -> ModelState | None:
        """A model that isn't configured (any more), and of which some instance hasn't left yet."""
        return next((one.model for one in self.live.values() if one.model.name == name), None)

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
        return [model for model in self.wanted if model.instance is None or model.instance.is_away]

    def tenants(self, device: str) -> list[Instance]:
        """Whoever has a reservation there, also while it starts or stops."""
        return [instance for instance in self.live.values() if device in instance.reserved]
