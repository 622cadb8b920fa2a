"""What is remembered about loads and requests, and what can be asked of it. Counterpart: `runtime`, which tells it.

Everything here is a pure value. Times are seconds since the epoch where they say `at`, durations otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRecord:
    """One start of a model, finished or failed. `launch_key`: what shaped the start; records of another key tell
    nothing about it. `warm`: its files were in the page cache. `woken`: it was parked, and brought back from that; so
    nothing was started, and `warm` says nothing. `peak_mib`: the most its process tree held, by device. `error`: why it
    failed; None: it became ready."""

    at: float
    model: str
    launch_key: str
    took_s: float
    warm: bool
    woken: bool = False
    peak_mib: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


class RequestRecord(NamedTuple):
    """One request that is over, and a row as it is written: there may be thousands at once. `at`: its end. `kind`,
    `outcome`: as in the metrics. `wait_s`: until it was sent to its server; None: it never was. `first_token_s`: of a
    stream, from its begin. Nothing of what it said."""

    at: float
    model: str
    kind: str
    outcome: str
    took_s: float
    wait_s: float | None
    first_token_s: float | None
    prompt_tokens: int
    completion_tokens: int


class History(Protocol):
    """All calls return at once: writing happens elsewhere, and what is asked is kept in memory."""

    def add_load(self, record: LoadRecord) -> None: ...

    def add_requests(self, records: Sequence[RequestRecord]) -> None:
        """Only written down; nothing is asked of it while the router runs."""
        ...

    def note_peak(self, model: str, launch_key: str, peak_mib: Mapping[str, int]) -> None:
        """The most an instance held, seen later than its load. Kept as the learned footprint; it only falls when newer
        loads of the same key held less."""
        ...

    def load_s(self, model: str, launch_key: str, *, warm: bool) -> float | None:
        """The median of its last loads of that warmth, in seconds; of the other where there are none; None: never."""
        ...

    def wake_s(self, model: str, launch_key: str) -> float | None:
        """The median of the last times it was woken, in seconds; None: it never was."""
        ...

    def footprint_mib(self, model: str, launch_key: str) -> Mapping[str, int] | None:
        """What it held in earlier loads, by device; None: never measured."""
        ...

    def close(self) -> None:
        """Wait until everything is written."""
        ...
