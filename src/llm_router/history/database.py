"""The history's file: an SQLite database that one thread writes. Counterpart: `store`, which keeps what is asked.

Knows rows, not what they mean. A file that can't be used costs a warning and the memory of it, nothing else.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from llm_router.history.base import RequestRecord

log = logging.getLogger(__name__)

# Each takes the database from its own number, `user_version`, to the next. Never change one that was released: add one.
_MIGRATIONS = (
    """
    CREATE TABLE loads (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, launch_key TEXT NOT NULL, took_s REAL,
        warm INTEGER NOT NULL, peak_mib TEXT NOT NULL, error TEXT
    )
    """,
    """
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, outcome TEXT NOT NULL,
        took_s REAL NOT NULL, wait_s REAL, first_token_s REAL, prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL
    )
    """,
    "ALTER TABLE loads ADD COLUMN woken INTEGER NOT NULL DEFAULT 0",
)
_KEPT_REQUESTS = 100_000  # some ten megabytes
_COLUMNS = "at, model, launch_key, took_s, warm, woken, peak_mib, error"
_PATIENCE_S = 5.0  # for another process that is writing
_LONGEST_ERROR = 2000
_MOST_WAITING = 1000  # changes kept for a disk that is full now: those of hours


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One load or wake, or with `took_s` None one measurement of an instance whose load nobody saw.

    `number`: its place in the file, set by the thread that writes; None: not there (yet)."""

    at: float
    model: str
    launch_key: str
    took_s: float | None
    warm: bool
    woken: bool
    peak_mib: dict[str, int]
    error: str | None
    number: int | None = None


class Unusable(Exception):
    """The file can't be used; `str()` says why."""


class Database:
    """Open one with `open_database`. Calls return at once; `close` waits until all is written."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._queue: SimpleQueue[_Change | None] = SimpleQueue()
        self._warned = False
        self._waiting: list[_Change] = []  # what could not be written yet, oldest first
        # A daemon: a program that ends without `close` loses the last rows rather than hangs.
        self._thread = Thread(target=self._write_all, name="history", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        self._queue.put(_Insert(row, _values(row)))

    def add_requests(self, records: Sequence[RequestRecord]) -> None:
        self._queue.put(_Requests(records))

    def change_peak(self, row: Row) -> None:
        self._queue.put(_Update(row, json.dumps(row.peak_mib)))

    def remove(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._queue.put(_Delete(row))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _write_all(self) -> None:
        going_on = True
        while going_on:
            batch = [self._queue.get()]
            while not self._queue.empty():  # we are the only one who takes
                batch.append(self._queue.get())
            going_on = batch[-1] is not None
            self._write([change for change in batch if change is not None])

    def _write(self, batch: list[_Change]) -> None:
        """With what has waited. A full disk, or another process that writes for too long, may be gone the next time;
        a damaged file is not, and keeps nothing waiting."""
        batch = self._waiting + batch
        if not batch:
            return
        try:
            with self._connection:
                for change in batch:
                    change.apply(self._connection)
        except sqlite3.Error as error:
            self._put_off(batch, error)
            return
        self._waiting = []
        if self._warned:
            log.info("history is written to %s again", self._path)
        self._warned = False

    def _put_off(self, batch: list[_Change], error: sqlite3.Error) -> None:
        for change in batch:
            if isinstance(change, _Insert):
                change.row.number = None
        passes = isinstance(error, sqlite3.OperationalError)
        self._waiting = batch[-_MOST_WAITING:] if passes else []
        if not self._warned:
            then = "it waits until that is over: make room, or let the router write" if passes else "going on without"
            log.warning("cannot write history to %s: %s; %s", self._path, error, then)
        self._warned = True


def open_database(path: Path) -> tuple[Database | None, list[Row]]:
    """The database in `path`, made if it isn't there, and what is in it. None: it can't be written.

    The rows are in the order they were written: the clock may have been wrong, or set back, in between. A damaged file
    is set aside as `….bad` and a new one takes its place. Each of these costs a warning.
    """
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if not _is_damaged(error):
            log.warning("cannot use history in %s: %s; what is learned now will be forgotten", path, error)
            return None, _rows_read_only(path)
        log.warning("history in %s is damaged (%s): it is now %s.bad, and a new one begins", path, error, path.name)
    except (Unusable, OSError) as error:
        log.warning("cannot use history in %s: %s; what is learned now will be forgotten", path, error)
        return None, []
    try:
        _set_aside(path)
        return _open(path)
    except (sqlite3.Error, Unusable, OSError) as error:
        log.warning("cannot begin a new history in %s: %s; what is learned now will be forgotten", path, error)
        return None, []


def _open(path: Path) -> tuple[Database, list[Row]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_PATIENCE_S, check_same_thread=False)
    try:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _damaged(verdict)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")  # a power cut may cost the last rows, never the file
        _migrate(connection)
        rows = _rows(connection)
        return Database(path, connection), rows
    except BaseException:
        connection.close()
        raise


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")  # two processes may come at once; and who can't write learns it here
    with connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise Unusable(f"it was written by a newer version (schema {version}, known is {len(_MIGRATIONS)})")
        for statement in _MIGRATIONS[version:]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _rows(connection: sqlite3.Connection) -> list[Row]:
    found = connection.execute(f"SELECT id, {_COLUMNS} FROM loads ORDER BY id")  # noqa: S608 -- our own constant
    try:
        return [
            Row(
                number=number,
                at=float(at),
                model=model,
                launch_key=launch_key,
                took_s=None if took_s is None else float(took_s),
                warm=bool(warm),
                woken=bool(woken),
                peak_mib={str(device): int(size) for device, size in json.loads(peak).items()},
                error=error,
            )
            for number, at, model, launch_key, took_s, warm, woken, peak, error in found
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged("a row can't be read") from error


def _rows_read_only(path: Path) -> list[Row]:
    """What a file tells that we may not write, or that another process is writing for too long."""
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE_S)
        try:
            return _rows(connection)
        finally:
            connection.close()
    except (sqlite3.Error, OSError):
        return []


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says more precisely what
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _damaged(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _set_aside(path: Path) -> None:
    path.replace(f"{path}.bad")
    # With its companions: SQLite would play a journal left behind into the new file.
    for ending in ("-wal", "-shm"):
        companion = Path(f"{path}{ending}")
        if companion.exists():
            companion.replace(f"{path}.bad{ending}")


def _values(row: Row) -> tuple[object, ...]:
    error = row.error[:_LONGEST_ERROR] if row.error is not None else None
    how = row.took_s, int(row.warm), int(row.woken)
    return row.at, row.model, row.launch_key, *how, json.dumps(row.peak_mib), error


@dataclass(frozen=True, slots=True)
class _Insert:
    row: Row
    values: tuple[object, ...]

    def apply(self, connection: sqlite3.Connection) -> None:
        places = ", ".join("?" * len(self.values))
        sql = f"INSERT INTO loads ({_COLUMNS}) VALUES ({places})"  # noqa: S608 -- our own constants
        self.row.number = connection.execute(sql, self.values).lastrowid


@dataclass(frozen=True, slots=True)
class _Update:
    row: Row
    peak: str

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE loads SET peak_mib = ? WHERE id = ?", (self.peak, self.row.number))


@dataclass(frozen=True, slots=True)
class _Delete:
    row: Row

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM loads WHERE id = ?", (self.row.number,))


@dataclass(frozen=True, slots=True)
class _Requests:
    """The oldest make room for them."""

    records: Sequence[RequestRecord]

    def apply(self, connection: sqlite3.Connection) -> None:
        places = ", ".join("?" * len(RequestRecord._fields))
        columns = ", ".join(RequestRecord._fields)
        sql = f"INSERT INTO requests ({columns}) VALUES ({places})"  # noqa: S608 -- our own constants
        connection.executemany(sql, self.records)
        connection.execute("DELETE FROM requests WHERE id <= (SELECT max(id) FROM requests) - ?", (_KEPT_REQUESTS,))


_Change = _Insert | _Update | _Delete | _Requests
