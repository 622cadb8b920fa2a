"""Traces as files: JSON lines, the first one the machine and its models, each further one a request.

    {"devices": {"gpu0": "24GiB"}, "models": {"chat": {"memory": "6GiB", "load_s": 4}}}
    {"at": 0.0, "model": "chat", "prompt_tokens": 1200, "output_tokens": 250}
    {"client": "agent-1", "think_s": 2.0, "model": "chat", "prompt_tokens": 800, "output_tokens": 60}

Counterparts: `public` reads other people's formats, `trace` has the values. The first line may be missing, or be in a
file of its own; what it leaves out is as in `Profile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from llm_router.core.events import RequestClass
from llm_router.core.specs import ANY_DEVICE
from llm_router.errors import LlmRouterError
from llm_router.simulation.trace import Call, Profile, Trace
from llm_router.units import mib, size_bytes

_EXPECTED_CALL = '{"at": 0.0, "model": "NAME", "prompt_tokens": 1200, "output_tokens": 250}'
_EXPECTED_MACHINE = '{"devices": {"gpu0": "24GiB"}, "models": {"NAME": {"memory": "6GiB", "load_s": 4}}}'


class TraceError(LlmRouterError):
    """A trace that can't be read."""

    code = "invalid_trace"


class _Model(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    memory: str | None = None
    devices: list[str] | None = None
    load_s: float = msgspec.field(default=20.0)
    stop_s: float = 1.0
    prompt_tokens_s: float = 2000.0
    output_tokens_s: float = 50.0
    concurrency: int = 4


class _Machine(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    models: dict[str, _Model]
    devices: dict[str, str | None] = {}
    name: str = ""
    about: str = ""


class _Call(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    prompt_tokens: int
    output_tokens: int
    at: float = 0.0
    client: str | None = None
    think_s: float = 0.0
    request_class: str = msgspec.field(default="normal", name="class")


_read_machine = msgspec.json.Decoder(_Machine)
_read_call = msgspec.json.Decoder(_Call)


def read(path: Path, machine: Path | None = None) -> Trace:
    """The trace in a file, with the machine in another one if that is given. Raises: TraceError, OSError."""
    calls = []
    described = None if machine is None else read_machine(machine)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if number == 1 and b'"models"' in line:
                described = described or _machine(line, f"{path}:1")
                continue
            calls.append(_call(line, f"{path}:{number}"))
    return assemble(path.stem, calls, described, str(path))


def read_machine(path: Path) -> Trace:
    """Devices and models alone: a trace without calls. Raises: TraceError, OSError."""
    return _machine(path.read_bytes(), str(path))


def assemble(name: str, calls: list[Call], machine: Trace | None, where: str) -> Trace:
    """Calls and their machine; without one, each model named has one device of unknown size alone, in turn.

    Raises: TraceError: a call names a model that the machine lacks, or there are no calls.
    """
    if not calls:
        raise TraceError(f"cannot use {where}: it has no requests; each is a line such as {_EXPECTED_CALL}")
    named = dict.fromkeys(call.model for call in calls)
    if machine is None:
        models = {model: Profile() for model in named}
        return Trace(name=name, about=f"from {where}", devices={ANY_DEVICE: None}, models=models, calls=calls)
    unknown = [model for model in named if model not in machine.models]
    if unknown:
        known = ", ".join(machine.models)
        raise TraceError(
            f"cannot use {where}: it asks for {unknown[0]}, which isn't among its models ({known}); add it"
        )
    return Trace(
        name=machine.name or name,
        about=machine.about or f"from {where}",
        devices=machine.devices,
        models=machine.models,
        calls=calls,
    )


def lines(trace: Trace) -> Iterator[str]:
    """The trace as such a file, line by line, without line ends."""
    models = {
        name: {
            "memory": None if profile.footprint_mib is None else f"{profile.footprint_mib}MiB",
            "devices": profile.devices,
            "load_s": profile.load_s,
            "stop_s": profile.stop_s,
            "prompt_tokens_s": profile.prompt_tokens_s,
            "output_tokens_s": profile.output_tokens_s,
            "concurrency": profile.concurrency,
        }
        for name, profile in trace.models.items()
    }
    devices = {device: None if size is None else f"{size}MiB" for device, size in trace.devices.items()}
    machine = {"name": trace.name, "about": trace.about, "devices": devices, "models": models}
    yield msgspec.json.encode(machine).decode()
    for call in trace.calls:
        row: dict[str, object] = {} if call.client is None else {"client": call.client, "think_s": call.think_s}
        row |= {"at": call.at, "model": call.model}
        row |= {"prompt_tokens": call.prompt_tokens, "output_tokens": call.output_tokens}
        if call.request_class is not RequestClass.NORMAL:
            row["class"] = call.request_class.value
        yield msgspec.json.encode(row).decode()


def _call(line: bytes, where: str) -> Call:
    try:
        read = _read_call.decode(line)
        request_class = RequestClass(read.request_class)
    except (msgspec.DecodeError, ValueError) as error:
        raise TraceError(f"cannot read {where}: {error}; a request is written {_EXPECTED_CALL}") from error
    if min(read.at, read.think_s, read.prompt_tokens, read.output_tokens) < 0:
        raise TraceError(f"cannot read {where}: times and tokens are 0 or more; a request is written {_EXPECTED_CALL}")
    return Call(read.model, read.prompt_tokens, read.output_tokens, read.at, read.client, read.think_s, request_class)


def _machine(text: bytes, where: str) -> Trace:
    try:
        read = _read_machine.decode(text)
        devices = {name: _memory(size) for name, size in read.devices.items()} or {ANY_DEVICE: None}
        models = {name: _profile(model, devices) for name, model in read.models.items()}
    except (msgspec.DecodeError, ValueError) as error:
        raise TraceError(f"cannot read {where}: {error}; devices and models are written {_EXPECTED_MACHINE}") from error
    return Trace(name=read.name, about=read.about, devices=devices, models=models, calls=())


def _profile(model: _Model, devices: Mapping[str, int | None]) -> Profile:
    unknown: Iterable[str] = set(model.devices or ()) - set(devices)
    for device in unknown:
        raise ValueError(f'there is no device "{device}"')
    if min(model.prompt_tokens_s, model.output_tokens_s, model.concurrency) <= 0 or min(model.load_s, model.stop_s) < 0:
        raise ValueError("speeds and concurrency are above 0, times 0 or more")
    return Profile(
        load_s=model.load_s,
        stop_s=model.stop_s,
        prompt_tokens_s=model.prompt_tokens_s,
        output_tokens_s=model.output_tokens_s,
        concurrency=model.concurrency,
        footprint_mib=_memory(model.memory),
        devices=None if model.devices is None else tuple(model.devices),
    )


def _memory(size: str | None) -> int | None:
    return None if size is None else mib(size_bytes(size))
