"""What was learned from earlier loads: how long they took, how much they held. Counterpart: `runtime`, which records.

What can be asked is kept in memory, so that no answer waits for a disk; `database` writes it down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from threading import Lock

from llm_router.history.base import LoadRecord, RequestRecord
from llm_router.history.database import Database, Row, open_database

# As many as tell what is usual now: a longer memory would go on about a driver or a disk of last year.
_RECENT = 5
_KEPT_READY, _KEPT_FAILED = 20, 5  # apart, so that a model that fails all night doesn't lose what is known of it
_RETENTION_S = 90 * 24 * 3600.0
_MOST_KEYS = 500

# A model, its launch key, and whether it was woken: that is learned apart, and says nothing about what a load needs.
_Key = tuple[str, str, bool]


class Store:
    """Implements `history.base.History`. `path`: the database; None: in memory only. May be called from any thread.

    A footprint is the most that one of the last five loads held, by device, so it can fall when newer loads hold less.
    What a failed load held can only raise it: it says what was not enough, never what is.

    Bounded: for each model and launch key the last 20 loads and 5 failed ones, and as many wakes, none older than 90
    days, and of the keys those 500 that were loaded or woken last; of requests the last 100 000. Two routers may share
    a file; each knows what was there when it began.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: dict[_Key, list[Row]] = {}  # the key loaded last comes last; so do the rows of each
        self._lock = Lock()
        self._database: Database | None = None
        if path is not None:
            self._database, rows = open_database(path)
            for row in rows:
                self._remember(row)
            self._drop([*self._expired(), *chain.from_iterable(map(_surplus, self._known.values()))])

    def add_load(self, record: LoadRecord) -> None:
        row = Row(
            at=record.at,
            model=record.model,
            launch_key=record.launch_key,
            took_s=record.took_s,
            warm=record.warm,
            woken=record.woken,
            peak_mib=dict(record.peak_mib),
            error=record.error,
        )
        with self._lock:
            self._add(row)

    def add_requests(self, records: Sequence[RequestRecord]) -> None:
        with self._lock:
            if self._database is not None:
                self._database.add_requests(records)

    def note_peak(self, model: str, launch_key: str, peak_mib: Mapping[str, int]) -> None:
        """Belongs to the last load, or stands for itself where that failed or there is none, as with an instance that
        another run of the router started."""
        with self._lock:
            rows = self._known.get((model, launch_key, False))
            if not rows or rows[-1].error is not None:
                peak = dict(peak_mib)
                self._add(
                    Row(
                        at=self._clock(),
                        model=model,
                        launch_key=launch_key,
                        took_s=None,
                        warm=False,
                        woken=False,
                        peak_mib=peak,
                        error=None,
                    )
                )
                return
            raised = _highest([rows[-1].peak_mib, peak_mib])
            if raised != rows[-1].peak_mib:
                rows[-1].peak_mib = raised
                if self._database is not None:
                    self._database.change_peak(rows[-1])

    def load_s(self, model: str, launch_key: str, *, warm: bool) -> float | None:
        took = self._took((model, launch_key, False))
        alike = [took_s for was_warm, took_s in took if was_warm == warm] or [took_s for _, took_s in took]
        return median(alike[-_RECENT:]) if alike else None

    def wake_s(self, model: str, launch_key: str) -> float | None:
        took = [took_s for _, took_s in self._took((model, launch_key, True))]
        return median(took[-_RECENT:]) if took else None

    def footprint_mib(self, model: str, launch_key: str) -> Mapping[str, int] | None:
        with self._lock:
            rows = [row for row in self._known.get((model, launch_key, False), ()) if row.peak_mib]
            ready = [place for place, row in enumerate(rows) if row.error is None]
            if not ready:
                return None
            return _highest(row.peak_mib for row in rows[ready[-_RECENT:][0] :])

    def close(self) -> None:
        with self._lock:
            database, self._database = self._database, None
        if database is not None:
            database.close()

    def _took(self, key: _Key) -> list[tuple[bool, float]]:
        """Warmth and seconds of those that became ready."""
        with self._lock:
            rows = self._known.get(key, ())
            return [(row.warm, row.took_s) for row in rows if row.error is None and row.took_s is not None]

    def _add(self, row: Row) -> None:
        if self._database is not None:
            self._database.add(row)
        self._remember(row)
        self._drop([*self._expired(), *_surplus(self._known[_key(row)])])

    def _remember(self, row: Row) -> None:
        key = _key(row)
        rows = self._known.pop(key, [])
        self._known[key] = rows
        rows.append(row)

    def _expired(self) -> list[Row]:
        oldest = self._clock() - _RETENTION_S
        surplus = len(self._known) - _MOST_KEYS
        by_key = enumerate(self._known.values())
        return [row for place, rows in by_key for row in rows if place < surplus or row.at < oldest]

    def _drop(self, rows: list[Row]) -> None:
        gone = set(map(id, rows))
        for key in set(map(_key, rows)):
            left = [row for row in self._known[key] if id(row) not in gone]
            if left:
                self._known[key] = left
            else:
                del self._known[key]
        if self._database is not None:
            self._database.remove(rows)


def _key(row: Row) -> _Key:
    return row.model, row.launch_key, row.woken


def _surplus(rows: list[Row]) -> list[Row]:
    ready = [row for row in rows if row.error is None]
    failed = [row for row in rows if row.error is not None]
    return ready[:-_KEPT_READY] + failed[:-_KEPT_FAILED]


def _highest(peaks: Iterable[Mapping[str, int]]) -> dict[str, int]:
    highest: dict[str, int] = {}
    for peak in peaks:
        for device, size in peak.items():
            highest[device] = max(size, highest.get(device, 0))
    return highest
