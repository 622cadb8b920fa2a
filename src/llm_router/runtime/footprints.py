"""What a model will take, where the user doesn't say it: as measured, as its server always takes, as its files say.

Counterparts: `history`, `backends` and `models`, which are asked in this order; `core.specs`, where the answer goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path

from llm_router.hardware.base import CPU, DeviceReading
from llm_router.history.base import History
from llm_router.models.footprint import estimate
from llm_router.runtime.instances import Launch


def footprint_mib(
    launch: Launch, places: tuple[str, ...] | None, devices: Mapping[str, DeviceReading], history: History
) -> int | None:
    """Over all devices that it uses together, in MiB; None: nobody knows. Reads the heads of the model's files.

    `places`: the devices it is told to use, None: one that suits.
    """
    request = launch.request
    gpus = [name for name in devices if name != CPU and (places is None or name in places)]
    learned = history.footprint_mib(request.model, launch.key) or {}
    counted = [mib for name, mib in learned.items() if _is_meant(name, places, bool(gpus) or not devices)]
    if counted:
        return sum(counted)
    claimed = _claimed_mib(launch, [devices[name].total_mib for name in gpus], is_spread=places is not None)
    if claimed is not None or request.path is None:
        return claimed
    return estimate(Path(request.path), context_length=request.context_length, args=request.args, gpu=bool(gpus))


def _is_meant(name: str, places: tuple[str, ...] | None, has_gpus: bool) -> bool:
    """Whether what was measured on a device says something of this placement. What it held of the host is no part of
    what it needs on GPUs: it was placed there in an earlier life of the machine, or told to use both."""
    return (not has_gpus or CPU in (places or ())) if name == CPU else has_gpus


def _claimed_mib(launch: Launch, sizes: list[int], *, is_spread: bool) -> int | None:
    """What its server takes whatever the model: of each device it is told to use, else of the largest."""
    if not sizes:
        return None
    chosen = sizes if is_spread else [max(sizes)]
    share = launch.backend.claim(replace(launch.request, device_mib=min(chosen)))
    return None if share is None else ceil(sum(share * size for size in chosen))
