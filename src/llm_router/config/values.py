"""The kinds of value a key can have beyond plain JSON: durations, sizes, command lines, ports.

Each accepts what people write, and its error says what to write instead. Counterpart: `schema`, which uses them.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from llm_router import units


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('this is not a duration: write "90s", "3m" or a number of seconds')
    parsed = _number_or_text(value)
    if parsed < 0 or not math.isfinite(parsed):
        raise ValueError('a duration can\'t be negative or endless: write "90s", "3m" or a number of seconds')
    return parsed


def _number_or_text(value: str | float) -> float:
    """Like `units.seconds`, and takes a bare number in quotes too, which is what `${ENV_VAR}` gives."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return units.seconds(value)
    return units.seconds(value)


def _idle_time(value: object) -> float | None:
    if value is None or value == "never" or value == math.inf:
        return None if value is None else math.inf
    parsed = _seconds(value)
    if parsed == 0:
        raise ValueError('0 would unload the model at once: write "10m", or "never" to keep it')
    return parsed


def _mib(value: object) -> int:
    return units.mib(_bytes(value))


def _bytes(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError('a size needs its unit: write "22GiB" or "800MiB"')
    return units.size_bytes(value)


def _memory(value: object) -> object:
    if value == "exclusive":
        return value
    if isinstance(value, Mapping):
        return {str(device): _mib(size) for device, size in value.items()}
    try:
        return _mib(value)
    except ValueError as error:
        message = str(error).partition(": ")[0]
        raise ValueError(
            f'{message}: write "22GiB", {{"0": "22GiB", "1": "46GiB"}} with a size for each device, or "exclusive"'
        ) from None


def _urls(value: object) -> object:
    urls = [value] if isinstance(value, str) else value
    for url in urls if isinstance(urls, list | tuple) and urls else (urls,):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError(
                f'"{url}" is not a base URL: start it with "http://" or "https://", as in '
                '"http://192.168.1.20:8000/v1"; a list of them where they are equal'
            )
    return urls


def _arguments(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise ValueError(f"this command line has an open quote ({error}): close it, or write a list") from error


Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    WithJsonSchema({"type": ["number", "string"], "title": "duration", "examples": [90, "90s", "3m", "1.5h"]}),
]
IdleTime = Annotated[
    float | None,
    BeforeValidator(_idle_time),
    WithJsonSchema(
        {"type": ["number", "string", "null"], "title": 'duration or "never"', "examples": ["10m", "never"]}
    ),
]
Bytes = Annotated[
    int,
    BeforeValidator(_bytes),
    WithJsonSchema({"type": "string", "title": "size", "examples": ["22GiB", "800MiB"]}),
]
Mib = Annotated[
    int,
    BeforeValidator(_mib),
    WithJsonSchema({"type": "string", "title": "size", "examples": ["22GiB", "800MiB"]}),
]
Arguments = Annotated[
    tuple[str, ...],
    BeforeValidator(_arguments),
    WithJsonSchema(
        {
            "title": "command line",
            "anyOf": [{"type": "array", "items": {"type": ["string", "number"]}}, {"type": "string"}],
        }
    ),
]
Memory = Annotated[
    int | dict[str, int] | Literal["exclusive"],
    BeforeValidator(_memory),
    WithJsonSchema(
        {
            "title": 'size, or a size for each device, or "exclusive"',
            "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}],
            "examples": ["22GiB", {"0": "22GiB", "cpu": "32GiB"}, "exclusive"],
        }
    ),
]
Urls = Annotated[
    tuple[str, ...],
    BeforeValidator(_urls),
    WithJsonSchema(
        {
            "title": "URL or list of URLs",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
        }
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
