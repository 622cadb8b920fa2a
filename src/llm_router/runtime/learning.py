"""What loads and wakes took and held: written down after each, asked for an estimate before the next.

Counterparts: `history`, which keeps it; `effects`, which says what happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from llm_router.history.base import History, LoadRecord, RequestRecord
from llm_router.runtime.endings import told
from llm_router.runtime.instances import Instance, Launch, Watch


class Learning:
    """`is_warm`: whether a model's files are in memory already; it may take a while. None: nobody can tell. `now`:
    monotonic seconds."""

    def __init__(
        self, history: History, watch: Watch, is_warm: Callable[[str], bool] | None, now: Callable[[], float]
    ) -> None:
        self._history = history
        self._watch = watch
        self._is_warm = is_warm
        self._now = now

    async def warmth(self, launch: Launch) -> bool:
        path = launch.request.path
        return path is not None and self._is_warm is not None and await asyncio.to_thread(self._is_warm, path)

    def remember(self, record: Instance, error: str | None) -> None:
        """A load, or a wake, has ended just now; `error`: it failed."""
        if record.process is None:  # somebody else's server: its loads say nothing about ours
            return
        is_woken = record.parked_at is not None
        self._history.add_load(
            LoadRecord(
                at=time.time(),
                model=record.model,
                launch_key=record.launch_key,
                took_s=self._now() - record.since,
                warm=bool(record.warm) and not is_woken,
                woken=is_woken,
                peak_mib=self._watch.peak_mib(record.id),
                error=None if error is None else told(record, error),
            )
        )

    def estimate_s(self, launch: Launch, instances: Iterable[Instance]) -> float | None:
        """How long it takes to make the launch's model ready, from earlier times: to wake it where it is parked; else a
        load like the one that runs, or a cold one."""
        model = launch.request.model
        its_own = [record for record in instances if record.model == model]
        if any(record.parked_at is not None for record in its_own):
            return self._history.wake_s(model, launch.key)
        return self._history.load_s(model, launch.key, warm=any(record.warm for record in its_own))


class RecentLoads:
    """The history of this run alone, where there is no other: how long each model's last loads took."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str, bool, bool], deque[float]] = {}

    def add_load(self, record: LoadRecord) -> None:
        if record.error is None:
            key = (record.model, record.launch_key, record.warm, record.woken)
            self._times.setdefault(key, deque(maxlen=5)).append(record.took_s)

    def add_requests(self, records: Sequence[RequestRecord]) -> None: ...

    def note_peak(self, model: str, launch_key: str, peak_mib: Mapping[str, int]) -> None: ...

    def load_s(self, model: str, launch_key: str, *, warm: bool) -> float | None:
        found = (self._times.get((model, launch_key, warmth, False)) for warmth in (warm, not warm))
        return next((median(times) for times in found if times), None)

    def wake_s(self, model: str, launch_key: str) -> float | None:
        times = self._times.get((model, launch_key, False, True))
        return median(times) if times else None

    def footprint_mib(self, model: str, launch_key: str) -> Mapping[str, int] | None:
        return None

    def close(self) -> None: ...
