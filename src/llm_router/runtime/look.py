"""One look at the memory: what each device has, and what each instance holds of it. Counterpart: `memory`, which draws
the conclusions.

Runs on a thread of its own and touches nothing that the event loop changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llm_router.hardware.base import CPU, DeviceReading, Reader
from llm_router.launchers import procfs
from llm_router.launchers.container import container_of
from llm_router.launchers.instance import TOKEN_VARIABLE

Readings = Mapping[str, DeviceReading]
Family = Callable[[int], frozenset[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An instance to look at. `pid`: of its first process. `devices`: where it was placed."""

    pid: int
    devices: tuple[str, ...]
    is_loading: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look has seen, begun at `at` (monotonic seconds). By instance: `pids`; `held_mib` by device, only where
    something was seen; `moved_mib`, host and devices together."""

    at: float
    readings: Readings
    pids: Mapping[int, frozenset[int]]
    held_mib: Mapping[int, Mapping[str, int]]
    moved_mib: Mapping[int, int]


def is_alive(pid: int) -> bool:
    stat = procfs.read_stat(pid)
    return stat is not None and stat.is_alive


def family(pid: int) -> frozenset[int]:
    """The process, its group, and its children wherever they moved; empty when it is gone. A container's client holds
    nothing of the model: of one it is what runs in the container, empty where that can't be told."""
    stat = procfs.read_stat(pid)
    if stat is None or not stat.is_alive:
        return frozenset()
    token = procfs.environment_value(pid, TOKEN_VARIABLE) or "\0"  # which no environment can hold
    group = pid if stat.group == pid else 0
    found = procfs.members(group, stat.started, TOKEN_VARIABLE, token)
    if container_of(procfs.command_line(pid)) is not None:
        return frozenset(other.pid for other in found if other.session != stat.session)
    return frozenset({pid, *(other.pid for other in found)})


def look(reader: Reader, family: Family, subjects: Mapping[int, Subject], at: float) -> Seen:
    readings = reader.read()
    has_gpus = any(name != CPU for name in readings)
    pids: dict[int, frozenset[int]] = {}
    held: dict[int, Mapping[str, int]] = {}
    moved: dict[int, int] = {}
    for instance, subject in subjects.items():
        own = pids[instance] = family(subject.pid)
        on_gpus = {
            name: mib for name, reading in readings.items() if (mib := sum(reading.held_mib.get(pid, 0) for pid in own))
        }
        is_on_host = CPU in subject.devices or not has_gpus
        # Weights often pass through the host's memory, so that is progress too, on whatever device they end.
        resident = reader.resident_mib(own) if is_on_host or subject.is_loading else 0
        held[instance] = on_gpus | ({CPU: resident} if is_on_host and resident else {})
        moved[instance] = sum(on_gpus.values()) + resident
    return Seen(at=at, readings=readings, pids=pids, held_mib=held, moved_mib=moved)
