"""A device as the hardware would say it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    total_mib: int
    uuid: str = ""
