"""What is missing on a device before an instance can start, in words for people. Pure, but for the names of processes.

Counterpart: `memory`, which reads until nothing is missing any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from llm_router.hardware.base import CPU, DeviceReading
from llm_router.launchers import procfs
from llm_router.runtime.look import Readings

_MOST_NAMED = 3


def shortage(
    readings: Readings,
    *,
    reserved_mib: Mapping[str, int | None],
    known: Collection[str],
    former: frozenset[int],
    living: frozenset[int],
    is_alive: Callable[[int], bool],
) -> str | None:
    """The first device that has too little, with what to do; None: there is room.

    `reserved_mib`: what is needed of each device; None: all that there is. `known`: devices that could be read once.
    `former`, `living`: processes of our instances that have ended, and of those that run.
    """
    for device, needed in reserved_mib.items():
        reading = readings.get(device)
        if reading is None:
            if device in known:
                return f"{_shown(device)} can't be read any more; see what its driver says"
        elif needed is None:
            if any(pid in reading.held_mib and not is_alive(pid) for pid in former):
                return f"processes that have ended still hold memory of {_shown(device)}; see what its driver says"
        elif reading.free_mib < needed:
            return (
                f"it needs {needed} MiB of {_shown(device)}, and {reading.free_mib} MiB are free"
                f"{_holders(reading, living)}; end what uses the rest, or choose a smaller model"
            )
    return None


def _holders(reading: DeviceReading, living: frozenset[int]) -> str:
    others = sorted(reading.held_mib.keys() - living, key=lambda pid: -reading.held_mib[pid])[:_MOST_NAMED]
    named = ", ".join(f"{procfs.describe(pid)} holds {reading.held_mib[pid]} MiB" for pid in others)
    return f" ({named})" if named else ""


def _shown(device: str) -> str:
    return "the host" if device == CPU else f"device {device}"
