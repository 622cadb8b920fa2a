"""Values with a unit, as people write them: "90s", "22GiB". One parser and one printer for each."""

from __future__ import annotations

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
_VALUE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_MIB = 1024**2


def seconds(text: str | float) -> float:
    """`"90s"`, `"3m"`, `"1.5h"`, or a bare number of seconds. Raises: ValueError with what to write instead."""
    if isinstance(text, bool):
        raise ValueError('a duration is written "90s", "3m" or as a number of seconds')
    if isinstance(text, int | float):
        return float(text)
    match = _VALUE.fullmatch(text)
    if match is None or match[2] not in _SECONDS:
        raise ValueError(f'"{text}" is not a duration: write "90s", "3m" or "1h"')
    return float(match[1]) * _SECONDS[match[2]]


def size_bytes(text: str) -> int:
    """`"22GiB"`, `"800MB"`, in bytes. Raises: ValueError with what to write instead."""
    match = _VALUE.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in _BYTES:
        raise ValueError(f'"{text}" is not a size: write it with its unit, as "22GiB" or "800MiB"')
    return int(float(match[1]) * _BYTES[match[2]])


def mib(size: int) -> int:
    """Bytes in whole MiB, rounded up."""
    return -(-size // _MIB)
