"""What was written down can be read, beside the router that goes on writing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llm_router.errors import LlmRouterError
from llm_router.history import database, reading
from llm_router.history.base import LoadRecord, RequestRecord
from llm_router.history.store import Store

ENDED = RequestRecord(
    at=1000.0,
    model="a",
    kind="chat",
    outcome="completed",
    took_s=2.5,
    wait_s=0.5,
    first_token_s=None,
    prompt_tokens=7,
    completion_tokens=30,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def store(path: Path) -> Store:
    return Store(path, clock=lambda: 2000.0)


def test_requests_come_back_as_they_were_oldest_first(path: Path) -> None:
    one = store(path)
    records = [ENDED._replace(at=1000.0 + number, wait_s=None if number else 0.5) for number in range(3)]
    one.add_requests(records[:1])
    one.add_requests(records[1:])
    one.close()
    assert reading.requests(path, model=None, count=10) == records
    assert reading.requests(path, model=None, count=2) == records[1:]


def test_loads_and_requests_of_one_model_are_told_apart_from_others(path: Path) -> None:
    one = store(path)
    loads = [
        LoadRecord(at=1990.0, model="a", launch_key="k", took_s=3.0, warm=True, peak_mib={"0": 800}),
        LoadRecord(at=1991.0, model="b", launch_key="k", took_s=1.0, warm=False, error="it broke"),
    ]
    for record in loads:
        one.add_load(record)
    one.add_requests([ENDED, ENDED._replace(model="b")])
    one.close()
    assert reading.loads(path, model=None, count=10) == loads
    assert reading.loads(path, model="b", count=10) == loads[1:]
    assert [record.model for record in reading.requests(path, model="b", count=10)] == ["b"]


def test_a_measurement_without_a_load_is_no_load(path: Path) -> None:
    one = store(path)
    one.note_peak("a", "k", {"0": 100})
    one.close()
    assert reading.loads(path, model=None, count=10) == []


def test_the_oldest_requests_make_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_KEPT_REQUESTS", 5)
    one = store(path)
    for start in (0, 4, 8):
        one.add_requests([ENDED._replace(at=float(start + number)) for number in range(4)])
    one.close()
    assert [record.at for record in reading.requests(path, model=None, count=100)] == [7.0, 8.0, 9.0, 10.0, 11.0]


def test_a_history_of_an_earlier_version_learns_of_requests_and_wakes(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(database._MIGRATIONS[0])
    connection.execute("PRAGMA user_version = 1")
    connection.execute("INSERT INTO loads VALUES (1, 1990.0, 'a', 'k', 3.0, 0, '{}', NULL)")
    connection.commit()
    connection.close()
    one = store(path)
    assert one.load_s("a", "k", warm=False) == 3.0
    one.add_requests([ENDED])
    wake = LoadRecord(at=1991.0, model="a", launch_key="k", took_s=0.5, warm=False, woken=True)
    one.add_load(wake)
    one.close()
    assert reading.requests(path, model=None, count=1) == [ENDED]
    assert reading.loads(path, model=None, count=2) == [replace(wake, at=1990.0, took_s=3.0, woken=False), wake]


def test_one_that_no_router_of_this_version_has_opened_yet_is_said_to_want_a_start(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(database._MIGRATIONS[0])
    for read in (reading.loads, reading.requests):
        with pytest.raises(LlmRouterError, match="start the router, which brings it up to date"):
            read(path, model=None, count=9)


def test_it_is_read_while_a_router_writes(path: Path) -> None:
    one = store(path)
    one.add_load(LoadRecord(at=1990.0, model="a", launch_key="k", took_s=3.0, warm=True))
    assert len(reading.loads(path, model=None, count=10)) <= 1
    one.close()
    assert len(reading.loads(path, model=None, count=10)) == 1


def test_where_nothing_was_written_there_is_nothing(path: Path) -> None:
    assert reading.loads(path, model=None, count=10) == []
    assert not path.exists()


def test_a_damaged_file_is_said_to_be_one(path: Path) -> None:
    path.write_bytes(b"not a database, not at all, but long enough to be taken for one")
    with pytest.raises(LlmRouterError, match="cannot read the history"):
        reading.requests(path, model=None, count=10)


def test_requests_are_nothing_to_a_store_without_a_file() -> None:
    one = Store(None)
    one.add_requests([ENDED])
    one.close()
