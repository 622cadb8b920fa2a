"""What the scheduler is told once: the models and the policy. Pure values; `config` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ANY_DEVICE = "device"  # where nothing is known about the hardware, there is one device, which stands for all names
HOST = "cpu"  # the host's memory: for models that name it; the others use it only where there is no other device


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model, as far as deciding needs to know it.

    `footprint_mib`: memory the model needs while loaded, in MiB, over all devices it uses together. None: unknown, so
    it takes the whole of them. 0: it lives beside everything else (embedding models on the CPU, remote endpoints).
    `is_declared`: the footprint is the user's word, which a measurement corrects only upwards.
    `devices`: it uses all of these; None: the one it fits best on, or all of them where no single one is large enough
    or its footprint is unknown.
    `seats`: of all instances that hold the same seat only one may exist at a time: a fixed port, a server that holds
    one model, a group of models that are never together.
    `companions`: models that may share devices with it whatever their footprints say.
    `launch_key`: what shapes its start; an instance of another key is outdated when the models change.
    `idle_timeout_s`: unload after this long without a request; None: never. `park_after_s`: park it after this long
    without one, so that it gives its memory back and is woken faster than it starts; None: never, or it can't be.
    `concurrency`: leases open at the same time on its instance; None: no limit.
    `priority`: higher goes first among waiting models, within a bound (see `PolicySpec`).
    `pinned`: never evicted to make room for another model.
    `load_timeout_s`: the limit shown to the user; the runtime enforces it.
    `unusable`: why it can't be started at all (its file is missing, say), for people: its requests are refused, and
    nothing is evicted for them. None: it can.
    """

    name: str
    footprint_mib: int | None = None
    is_declared: bool = False
    devices: tuple[str, ...] | None = None
    seats: frozenset[str] = frozenset()
    companions: frozenset[str] = frozenset()
    launch_key: str = ""
    idle_timeout_s: float | None = None
    park_after_s: float | None = None
    concurrency: int | None = None
    priority: int = 0
    pinned: bool = False
    load_timeout_s: float = 180.0
    unusable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """The numbers behind the decisions. All durations in seconds, memory in MiB.

    `budgets`: memory of each device that models may use, by its name; None: unknown, so that one model has it alone.
    `concurrency`: leases open at the same time over all instances; None: no limit.
    `min_residency_s`: a model that became ready isn't evicted before this has passed, even when it is idle.
    `queue_limit`: requests waiting at the same time, over all models; one more is refused.
    `patience_s`: how long a busy resident keeps its turn while another model's request waits; `patience_per_load` times
    as long as the dearer of their two loads takes if that is longer, since a dear switch should be used for longer, but
    no more than `patience_most_s` (unless `patience_s` says so).
    `drain_timeout_s`: how long open requests may run on after their instance was told to leave.
    `normal_handicap_s`, `background_handicap_s`: normal and background requests queue as if they had arrived so much
    later than an interactive one.
    `priority_step_s`, `priority_most_s`: each step of a model's priority lets its requests queue as if they had arrived
    so much earlier, up to the most.
    `switch_share`, `switch_share_most_s`: this share of its load time, divided by the number that wait for it, is added
    too, up to the most: what is ready sooner, for more, goes first.
    `room_timeout_s`: how long a request waits for memory that other programs hold, before it is refused.
    `backoff_base_s`, `backoff_max_s`: pause after the first failed load, doubled by each further one, capped.
    """

    budgets: Mapping[str, int | None] = field(default_factory=lambda: {ANY_DEVICE: None})
    concurrency: int | None = None
    min_residency_s: float = 0.0
    queue_limit: int = 256
    patience_s: float = 10.0
    patience_per_load: float = 4.0
    patience_most_s: float = 60.0
    drain_timeout_s: float = 120.0
    normal_handicap_s: float = 5.0
    background_handicap_s: float = 60.0
    priority_step_s: float = 10.0
    priority_most_s: float = 60.0
    switch_share: float = 2.0
    switch_share_most_s: float = 60.0
    room_timeout_s: float = 30.0
    backoff_base_s: float = 2.0
    backoff_max_s: float = 120.0
