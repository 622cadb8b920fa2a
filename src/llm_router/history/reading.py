"""What a history's file says, for people: the last loads and requests. Counterpart: `database`, which writes it.

Reads beside a running router, and writes nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from llm_router.errors import LlmRouterError
from llm_router.history.base import LoadRecord, RequestRecord

_PATIENCE_S = 5.0
_LOADS = ("at", "model", "launch_key", "took_s", "warm", "woken", "peak_mib", "error")


def loads(path: Path, *, model: str | None, count: int) -> list[LoadRecord]:
    """The last `count`, oldest first; of one model or of all. Empty where there is no file. Raises: LlmRouterError."""
    rows = _rows(path, "loads", _LOADS, "took_s IS NOT NULL", model, count)
    return [
        LoadRecord(
            at=at,
            model=name,
            launch_key=key,
            took_s=took_s,
            warm=bool(warm),
            woken=bool(woken),
            peak_mib=json.loads(peak),
            error=error,
        )
        for at, name, key, took_s, warm, woken, peak, error in rows
    ]


def requests(path: Path, *, model: str | None, count: int) -> list[RequestRecord]:
    """The last `count`, oldest first; of one model or of all. Empty where there is no file. Raises: LlmRouterError."""
    rows = _rows(path, "requests", RequestRecord._fields, "1", model, count)
    return [RequestRecord(*row) for row in rows]


def _rows(
    path: Path, table: str, columns: Sequence[str], condition: str, model: str | None, count: int
) -> list[tuple[Any, ...]]:
    try:
        if not path.exists():
            return []
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S)) as connection:
            sql = (
                f"SELECT {', '.join(columns)} FROM {table} "  # noqa: S608 -- our own constants
                f"WHERE {condition} AND (?1 IS NULL OR model = ?1) ORDER BY id DESC LIMIT ?2"
            )
            return list(reversed(connection.execute(sql, (model, count)).fetchall()))
    except PermissionError as error:
        raise LlmRouterError(f"cannot read the history in {path}: {error.strerror}; ask as root") from error
    except sqlite3.Error as error:
        is_older = str(error).startswith("no such ")
        remedy = "start the router, which brings it up to date" if is_older else "the router itself goes on without"
        raise LlmRouterError(f"cannot read the history in {path}: {error}; {remedy}") from error
