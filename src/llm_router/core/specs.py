"""What the scheduler is told once: the models and the policy. Pure values; `config` makes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model, as far as deciding needs to know it.

    `footprint_mib`: memory the model needs while loaded, in MiB. None: unknown, so it takes the whole device.
    0: it lives beside everything else (embedding models on the CPU, remote endpoints).
    `idle_timeout_s`: unload after this long without a request; None: never.
    `concurrency`: leases open at the same time on its instance; None: no limit.
    `priority`: higher goes first among waiting models.
    `pinned`: never evicted to make room for another model.
    `load_timeout_s`: the limit shown to the user; the runtime enforces it.
    `unusable`: why it can't be started at all (its file is missing, say), for people: its requests are refused, and
    nothing is evicted for them. None: it can.
    """

    name: str
    footprint_mib: int | None = None
    idle_timeout_s: float | None = None
    concurrency: int | None = None
    priority: int = 0
    pinned: bool = False
    load_timeout_s: float = 180.0
    unusable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """The numbers behind the decisions. All durations in seconds, memory in MiB.

    `budget_mib`: memory of the device; None: unknown, so a model with an unknown footprint and a known one never share.
    `queue_limit`: requests waiting at the same time, over all models; one more is refused.
    `patience_s`: how long a busy resident keeps its turn while another model's request waits.
    `drain_timeout_s`: how long open requests may run on after their instance was told to leave.
    `backoff_base_s`, `backoff_max_s`: pause after the first failed load, doubled by each further one, capped.
    """

    budget_mib: int | None = None
    queue_limit: int = 256
    patience_s: float = 10.0
    drain_timeout_s: float = 120.0
    backoff_base_s: float = 2.0
    backoff_max_s: float = 120.0
