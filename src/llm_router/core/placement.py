"""What fits together on the device, and who leaves so that something fits. Pure functions over `state`.

Counterpart: `policy`, which says for whom and when. A footprint of None means the whole device, 0 means none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_router.core.state import Instance, ModelState

Footprint = int | None


def fits(footprints: Iterable[Footprint], budget_mib: int | None) -> bool:
    """Whether all of these (MiB) may be on the device at the same time.

    Sharing needs knowledge: with an unknown footprint or an unknown budget, one model has the device for itself.
    """
    competing = [footprint for footprint in footprints if footprint != 0]
    known = [footprint for footprint in competing if footprint is not None]
    if len(competing) > 1 and (budget_mib is None or len(known) < len(competing)):
        return False
    return budget_mib is None or sum(known) <= budget_mib


def cheapest_eviction(
    residents: Sequence[Instance], newcomers: tuple[Footprint, ...], budget_mib: int | None
) -> tuple[Instance, ...]:
    """Who must leave so that the other residents and the newcomers fit; none when that can't be reached.

    Never a pinned one, idle ones first, then those already draining, then the least recently used; never more than
    needed. Without newcomers: who is too many.
    """

    def enough(leaving: Sequence[Instance]) -> bool:
        staying = [resident.model.spec.footprint_mib for resident in residents if resident not in leaving]
        return fits([*staying, *newcomers], budget_mib)

    leaving: list[Instance] = []
    for resident in sorted((r for r in residents if r.model.competes and not r.model.spec.pinned), key=_cost):
        if enough(leaving):
            break
        leaving.append(resident)
    if not enough(leaving):
        return ()
    for resident in reversed(leaving.copy()):
        fewer = [other for other in leaving if other is not resident]
        if enough(fewer):
            leaving = fewer
    return tuple(leaving)


def _cost(resident: Instance) -> tuple[bool, bool, bool, float, int]:
    is_draining = resident.drain_until is not None
    return resident.is_starting, resident.is_busy, not is_draining, resident.last_used_at, resident.id


def why_never(model: ModelState, residents: Iterable[Instance], budget_mib: int | None) -> str | None:
    """Why no eviction could ever make room for the model, for people, with what to do; None: it can be placed."""
    footprint = model.spec.footprint_mib
    if not fits([footprint], budget_mib):
        return (
            f"cannot load {model.name}: it needs {footprint} MiB and the device has {budget_mib} MiB; "
            "correct the model's memory or choose a smaller one"
        )
    pinned = [r for r in residents if r.model.spec.pinned and r.model.competes and not r.is_leaving_anyway]
    if fits([footprint, *(r.model.spec.footprint_mib for r in pinned)], budget_mib):
        return None
    names = " and ".join(sorted(r.model.name for r in pinned))
    return (
        f"cannot load {model.name}: {names} {'is' if len(pinned) == 1 else 'are'} pinned, "
        f"and there is no room beside; unload {names} or remove the pin from the configuration"
    )
