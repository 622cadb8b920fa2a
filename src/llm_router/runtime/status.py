"""The devices as people want to see them: what models may use, who has reserved what, what is really held.

Counterpart: `api.admin`, which shows it. Read-only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llm_router.runtime.memory import DeviceView

# What a model has reserved, in MiB by device; None: all of it.
Reserved = Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """One device, in MiB. `budget_mib`: what models may use now; None: unknown. `reserved_mib`: by model; None: it has
    the device alone. `total_mib`, `free_mib`, `held_mib` (by our models): as measured last; None: not measured."""

    device: str
    title: str
    budget_mib: int | None
    reserved_mib: Mapping[str, int | None]
    total_mib: int | None
    free_mib: int | None
    held_mib: int | None
    is_there: bool


def device_statuses(
    budgets: Mapping[str, int | None], views: Iterable[DeviceView], reserved_mib: Mapping[str, Reserved]
) -> list[DeviceStatus]:
    """Of all devices that models may use, in the order of `budgets`. `reserved_mib`: by model and device."""
    known = {view.device: view for view in views}
    return [_status(name, budget, known.get(name), reserved_mib) for name, budget in budgets.items()]


def _status(
    name: str, budget_mib: int | None, view: DeviceView | None, reserved_mib: Mapping[str, Reserved]
) -> DeviceStatus:
    available = None if view is None else view.available_mib
    return DeviceStatus(
        device=name,
        title="" if view is None else view.title,
        budget_mib=min((size for size in (budget_mib, available) if size is not None), default=None),
        reserved_mib={model: reserved[name] for model, reserved in reserved_mib.items() if name in reserved},
        total_mib=None if view is None else view.total_mib,
        free_mib=None if view is None or not view.is_there else view.free_mib,
        held_mib=None if view is None else view.held_mib,
        is_there=view is None or view.is_there,
    )
