"""How much memory models may use on each device, and who can never fit. Reads no hardware: it is passed in.

Counterparts: `groups`, which does the same for seats; `core.specs`, in whose words the answers are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Protocol

from llm_router.config.rules import Key, Mistake
from llm_router.config.schema import Config
from llm_router.config.seats import companions
from llm_router.core.specs import ANY_DEVICE

CPU = "cpu"

_GPU_RESERVE_MIB = 512  # a desktop's compositor, driver contexts
_HOST_RESERVE_MIB = 2048
_HOST_RESERVE_SHARE = 10  # a tenth


class Device(Protocol):
    """A device as the hardware says it is. `uuid`: how it may be named too; "" where it has none."""

    @property
    def total_mib(self) -> int: ...
    @property
    def uuid(self) -> str: ...


Devices = Mapping[str, Device]


def budgets(config: Config, devices: Devices) -> dict[str, int | None]:
    """What models may use of each device, in MiB, by its name. `devices`: what there is; empty: nobody can tell.

    1. One model at a time: one device of unknown size. 2. GPUs are what models compete for, where there are any; the
    host is among them only for those that are told to run there. 3. Without any it is the host. 4. Where nothing can
    be read, only the configuration's word counts.
    """
    if config.memory == "exclusive":  # 1
        return {ANY_DEVICE: None}
    gpus = _gpus(devices)
    if gpus:  # 2
        names = [*gpus, CPU] if CPU in devices and any(map(is_on_host, _device_lists(config))) else gpus
    elif CPU in devices:  # 3
        names = [CPU]
    elif isinstance(config.memory, dict):  # 4
        return {name: size for name, size in config.memory.items() if size > 0}
    else:
        return {ANY_DEVICE: config.memory}
    sizes = {name: _allowed_mib(config, name, devices) for name in names}
    return {name: size for name, size in sizes.items() if size > 0}


def reserves(config: Config, devices: Devices) -> dict[str, int]:
    """What is to stay free of each device, in MiB: none where the configuration says how much models may use."""
    unsaid = [name for name in devices if _said(config, name, devices) is None]
    return dict.fromkeys(devices, 0) | {name: _reserve(config, name, devices) for name in unsaid}


def placed_on(config: Config, name: str, devices: Devices) -> tuple[str, ...] | None:
    """The devices that the model is told to use, as `budgets` names them; None: whichever suits."""
    wanted = config.models[name].devices
    if wanted is None or config.memory == "exclusive" or not _gpus(devices):
        return None
    names = {device.uuid: known for known, device in devices.items() if device.uuid}
    return tuple(names.get(device, device) for device in wanted) or (CPU,)


def is_on_host(wanted: tuple[str, ...] | None) -> bool:
    """Whether a model with these `devices` runs on the CPU, though there may be GPUs."""
    return wanted is not None and (not wanted or CPU in wanted)


def _device_lists(config: Config) -> Iterator[tuple[str, ...] | None]:
    return (model.devices for model in config.models.values())


def _gpus(devices: Devices) -> list[str]:
    return [name for name in devices if name != CPU]


def _said(config: Config, name: str, devices: Devices) -> int | None:
    """What the configuration says about the device, in MiB."""
    match config.memory:
        case dict() as sizes:
            return sizes.get(name)
        case int() as size if name != CPU or not _gpus(devices):
            return size
    return None


def _reserve(config: Config, name: str, devices: Devices) -> int:
    if config.memory_reserve is not None:
        return config.memory_reserve
    if name != CPU:
        return _GPU_RESERVE_MIB
    return min(_HOST_RESERVE_MIB, devices[name].total_mib // _HOST_RESERVE_SHARE)


def _allowed_mib(config: Config, name: str, devices: Devices) -> int:
    said = _said(config, name, devices)
    return devices[name].total_mib - _reserve(config, name, devices) if said is None else said


# -- what can't be


def misfits(config: Config, devices: Devices | None) -> Iterator[Mistake]:
    """Everything that can't fit or isn't there. `devices` None: nobody looked, so only the configuration counts."""
    if devices:
        yield from _oversized_devices(config, devices)
        yield from _unknown_devices(config, devices)
    room = {name: size for name, size in budgets(config, devices or {}).items() if size is not None}
    yield from _oversized_models(config, devices or {}, room)
    # Without a look at the devices nobody knows how many there are, so nothing is said about the whole.
    yield from _oversized_pins(config, devices or {}, room if devices else {})


def _oversized_devices(config: Config, devices: Devices) -> Iterator[Mistake]:
    for name, device in devices.items():
        said = _said(config, name, devices)
        if said is not None and said > device.total_mib:
            key: Key = ("memory", name) if isinstance(config.memory, dict) else ("memory",)
            yield Mistake(
                key=key,
                message=f"{_shown(name)} has {device.total_mib} MiB, and models are allowed {said}",
                remedy=f'write "{max(0, device.total_mib - _reserve(config, name, devices))}MiB" or less',
            )


def _unknown_devices(config: Config, devices: Devices) -> Iterator[Mistake]:
    known = {*devices, *(device.uuid for device in devices.values() if device.uuid)}
    there = ", ".join(f'"{name}"' for name in devices)
    named: list[tuple[Key, str]] = []
    if isinstance(config.memory, dict):
        named += [(("memory", name), name) for name in config.memory]
    for model, section in config.models.items():
        named += [(("models", model, "devices", index), name) for index, name in enumerate(section.devices or ())]
    for key, name in named:
        if name not in known:
            yield Mistake(key=key, message=f'there is no device "{name}"', remedy=f"use one of {there}")


def _oversized_models(config: Config, devices: Devices, room: Mapping[str, int]) -> Iterator[Mistake]:
    for name, model in config.models.items():
        available = _available(config, name, devices, room)
        if model.memory is not None and available is not None and model.memory > available:
            yield Mistake(
                key=("models", name, "memory"),
                message=f"the model needs {model.memory} MiB, {_where(config, name)} may use {available} MiB",
                remedy='correct one of the two "memory" values',
            )


def _available(config: Config, name: str, devices: Devices, room: Mapping[str, int]) -> int | None:
    """What all the devices that the model may use have together, in MiB; None: nobody can tell."""
    if not devices:
        return _said_of(config, config.models[name].devices or ())
    places = placed_on(config, name, devices)
    if places is None:
        chosen: Iterable[str] = [device for device in room if device != CPU] or list(room)
    else:
        chosen = [device for device in places if device in room]
    sizes = [room[device] for device in chosen]
    return sum(sizes) if sizes else None


def _said_of(config: Config, wanted: tuple[str, ...]) -> int | None:
    """What the configuration alone says about these devices together."""
    said = config.memory
    if not wanted or said is None or said == "exclusive":
        return None
    if isinstance(said, int):
        return said * len(wanted)
    return sum(said[device] for device in wanted) if said.keys() >= set(wanted) else None


def _oversized_pins(config: Config, devices: Devices, room: Mapping[str, int]) -> Iterator[Mistake]:
    """All pinned models must have room at the same time: on each device those that must be there, and all on all. Where
    each may be beside each other one because a group says so, that is the user's word that they fit."""
    pinned = {name: model.memory for name, model in config.models.items() if model.pinned and model.memory}
    if config.memory == "exclusive":
        alone = [name for name, model in config.models.items() if model.pinned and not config.lives_beside(name)]
        apart = [pair for pair in combinations(alone, 2) if not _are_companions(config, pair)]
        if apart:
            yield _crowd(apart[0], "one model is loaded at a time")
        return
    for device, size in room.items():
        fixed = {name: need for name, need in pinned.items() if placed_on(config, name, devices) == (device,)}
        if len(fixed) > 1 and sum(fixed.values()) > size and not _are_companions(config, fixed):
            yield _crowd(fixed, f"they need {sum(fixed.values())} MiB of {_shown(device)}, which has {size} MiB")
            return
    chosen = {name: need for name, need in pinned.items() if not is_on_host(config.models[name].devices)}
    whole = sum(size for device, size in room.items() if device != CPU or len(room) == 1)
    if room and len(chosen) > 1 and sum(chosen.values()) > whole and not _are_companions(config, chosen):
        yield _crowd(chosen, f"they need {sum(chosen.values())} MiB together, and there are {whole} MiB")


def _are_companions(config: Config, names: Iterable[str]) -> bool:
    return all(other in companions(config, one) for one, other in combinations(names, 2))


def _crowd(names: Iterable[str], why: str) -> Mistake:
    listed = list(names)
    quoted = " and ".join(f'"{name}"' for name in listed)
    return Mistake(
        key=("models", listed[-1], "pinned"),
        message=f"{quoted} are pinned, but {why}",
        remedy='remove "pinned" from one of them',
    )


def _where(config: Config, name: str) -> str:
    wanted = config.models[name].devices
    if wanted:
        return "and on " + " and ".join(map(_shown, wanted)) + " models"
    return "and all models together"


def _shown(device: str) -> str:
    return "the host" if device == CPU else f"device {device}"
