"""The history's file: what survives, and what happens to a service whose file is gone, damaged, full or shared."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llm_router.history.base import LoadRecord
from llm_router.history.store import Store

NOW = 1_000_000_000.0


def now() -> float:
    return NOW


def record(took_s: float = 10.0, model: str = "qwen", peak_mib: int = 8_000, error: str | None = None) -> LoadRecord:
    return LoadRecord(
        at=NOW, model=model, launch_key="k", took_s=took_s, warm=False, peak_mib={"0": peak_mib}, error=error
    )


def rows(path: Path, what: str = "count(*)") -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT {what} FROM loads").fetchone()[0])


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process; it has `store` and `record`, and its lines can be read."""
    prelude = """
        import sys, logging, threading
        from pathlib import Path
        from llm_router.history.base import LoadRecord
        from llm_router.history.store import Store
        logging.basicConfig(format="%(message)s")
        def record(number, error=None):
            return LoadRecord(at=1e9 + number, model="qwen", launch_key=str(number), took_s=number, warm=True,
                              peak_mib={"0": number}, error=error)
        def store():
            return Store(Path(sys.argv[1]), clock=lambda: 1e9)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


def test_what_was_learned_is_there_after_a_restart(path: Path) -> None:
    store = Store(path, clock=now)
    store.add_load(record(10))
    store.add_load(record(30))
    store.note_peak("qwen", "k", {"0": 9_000, "cpu": 700})
    store.close()
    again = Store(path, clock=now)
    assert again.load_s("qwen", "k", warm=False) == 20
    assert again.footprint_mib("qwen", "k") == {"0": 9_000, "cpu": 700}
    again.note_peak("qwen", "k", {"0": 9_500})
    again.close()
    third = Store(path, clock=now)
    assert third.footprint_mib("qwen", "k") == {"0": 9_500, "cpu": 700}
    third.close()
    assert rows(path) == 2


def test_how_long_waking_takes_is_there_after_a_restart(path: Path) -> None:
    store = Store(path, clock=now)
    store.add_load(record(30))
    for _ in range(60):
        store.add_load(replace(record(2), woken=True))
    store.close()
    again = Store(path, clock=now)
    assert (again.load_s("qwen", "k", warm=False), again.wake_s("qwen", "k")) == (30, 2)
    again.close()
    assert rows(path) == 21


def test_the_file_is_bounded_like_the_memory(path: Path) -> None:
    store = Store(path, clock=now)
    for _ in range(60):
        store.add_load(record(error="no such file"))
        store.add_load(record())
    store.close()
    assert rows(path) == 25
    much_later = Store(path, clock=lambda: NOW + 91 * 24 * 3600)
    assert much_later.footprint_mib("qwen", "k") is None
    much_later.close()
    assert rows(path) == 0


def test_a_closed_store_still_answers(path: Path) -> None:
    store = Store(path, clock=now)
    store.add_load(record())
    store.close()
    store.close()
    store.add_load(record(30))
    assert store.load_s("qwen", "k", warm=False) == 20
    assert rows(path) == 1


def test_many_threads_can_record_at_once(path: Path) -> None:
    store = Store(path, clock=now)

    def work(number: int) -> None:
        for _ in range(10):
            store.add_load(record(number, model=f"m{number}"))
            store.note_peak(f"m{number}", "k", {"0": 8_000 + number})
            assert store.load_s(f"m{number}", "k", warm=True) == number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    store.close()
    assert rows(path) == 80
    assert rows(path, "max(json_extract(peak_mib, '$.0'))") == 8_007


def test_a_process_killed_while_it_writes_leaves_a_file_that_opens(path: Path) -> None:
    writer = child(
        """
        s = store()
        for number in range(10**9):
            s.add_load(record(number))
            if number == 300:
                print("writing", flush=True)
        """,
        path,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    store = Store(path, clock=now)
    store.add_load(record(17))
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT took_s FROM loads WHERE model = 'qwen' AND launch_key = 'k'").fetchall() == [
            (17.0,)
        ]
    assert not path.with_name("history.db.bad").exists()


def test_two_processes_write_into_one_file(path: Path) -> None:
    code = """
        s = store()
        for number in range(int(sys.argv[2]), int(sys.argv[2]) + 100):
            s.add_load(record(number))
        s.close()
    """
    writers = [child(code, path, first) for first in (0, 1000)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0), ("", 0)]
    assert rows(path) == 200


@pytest.mark.parametrize("content", [b"this was never a database" * 100, None])
def test_a_damaged_file_is_set_aside_and_a_new_one_begins(
    path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    store = Store(path, clock=now)
    for number in range(200):
        store.add_load(record(model=f"model {number}"))
    store.close()
    whole = path.read_bytes()
    path.write_bytes(content or whole[:4096] + b"\xff" * 4096 + whole[8192:])
    again = Store(path, clock=now)
    assert again.footprint_mib("model 1", "k") is None
    again.add_load(record(5))
    again.close()
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert "history.db.bad" in caplog.text
    assert path.with_name("history.db.bad").exists()
    assert rows(path) == 1


def test_the_journal_of_a_damaged_file_goes_with_it(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this was never a database" * 100)
    path.with_name("history.db-wal").write_bytes(b"left over")
    Store(path, clock=now).close()
    assert (
        not path.with_name("history.db-wal").exists() or path.with_name("history.db-wal").read_bytes() != b"left over"
    )


def test_a_row_that_makes_no_sense_is_damage(path: Path) -> None:
    store = Store(path, clock=now)
    store.add_load(record())
    store.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE loads SET peak_mib = '[1, 2'")
    Store(path, clock=now).close()
    assert path.with_name("history.db.bad").exists()


@pytest.mark.parametrize("place", ["/proc/no/such/folder/history.db", "file/history.db", "file/below/history.db"])
def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / place, clock=now)
    store.add_load(record())
    assert store.load_s("qwen", "k", warm=False) == 10
    store.close()
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert "will be forgotten" in caplog.text


def test_a_file_that_another_holds_is_read_but_not_written(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_router.history.database._PATIENCE_S", 0.01)
    store = Store(path, clock=now)
    store.add_load(record())
    store.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        late = Store(path, clock=now)
        assert late.footprint_mib("qwen", "k") == {"0": 8_000}
        late.close()
    assert "locked" in caplog.text
    assert not path.with_name("history.db.bad").exists()


def test_a_full_disk_is_told_once_and_costs_only_what_is_not_written(path: Path) -> None:
    writer = child(
        """
        import resource
        s = store()
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        for number in range(400):
            s.add_load(record(number, error="x" * 2000))
            s.add_load(record(number))
        print(s.load_s("qwen", "399", warm=True))
        s.close()
        """,
        path,
    )
    output, log = writer.communicate()
    assert (output, writer.returncode) == ("399\n", 0)
    assert log.count("cannot write history") == 1
    Store(path, clock=now).close()
    assert not path.with_name("history.db.bad").exists()


def test_what_waited_for_room_is_written_when_there_is_some(path: Path) -> None:
    writer = child(
        """
        import resource
        logging.getLogger().setLevel(logging.INFO)
        told = threading.Event()
        class Told(logging.Handler):
            def emit(self, record):
                told.set()
        logging.getLogger("llm_router").addHandler(Told())
        s = store()
        s.add_load(record(1))
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
        s.add_load(record(2))
        s.note_peak("qwen", "2", {"0": 99})
        told.wait()
        told.clear()
        s.add_load(record(3))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        s.add_load(record(4))
        told.wait()
        s.close()
        """,
        path,
    )
    _, log = writer.communicate()
    assert writer.returncode == 0
    assert log.count("cannot write history") == 1
    assert log.count("is written to") == 1
    store = Store(path, clock=now)
    assert [store.footprint_mib("qwen", str(number)) for number in (1, 2, 3, 4)] == [
        {"0": 1}, {"0": 99}, {"0": 3}, {"0": 4},
    ]  # fmt: skip
    store.close()


def test_a_file_damaged_under_a_running_router_is_set_aside_at_the_next_start(path: Path) -> None:
    store = Store(path, clock=now)
    for number in range(200):
        store.add_load(record(model=f"model {number}"))
    store.close()
    store = Store(path, clock=now)
    path.write_bytes(b"\0" * path.stat().st_size)
    store.add_load(record(7, model="later"))
    assert store.load_s("later", "k", warm=False) == 7
    store.close()
    Store(path, clock=now).close()
    assert path.with_name("history.db.bad").exists()


def test_a_clock_that_was_set_back_or_forward_changes_neither_order_nor_memory(path: Path) -> None:
    day_s = 24 * 3600.0
    store = Store(path, clock=lambda: NOW)
    for at, took_s in ((NOW + 20 * day_s, 50), (NOW, 10), (NOW - 20 * day_s, 10), (NOW + 1, 10)):
        for _ in range(3):
            store.add_load(replace(record(took_s), at=at))
    store.close()
    for wrong in (-30 * day_s, 0, 30 * day_s):
        store = Store(path, clock=lambda wrong=wrong: NOW + wrong)
        assert store.load_s("qwen", "k", warm=False) == 10
        store.close()
    assert rows(path) == 12


def test_a_file_of_a_newer_version_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Store(path, clock=now).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    store = Store(path, clock=now)
    store.add_load(record())
    assert store.load_s("qwen", "k", warm=False) == 10
    store.close()
    assert caplog.records[0].levelno == logging.WARNING
    assert "newer version" in caplog.text
    assert rows(path) == 0


def test_long_errors_are_cut(path: Path) -> None:
    store = Store(path, clock=now)
    store.add_load(record(error="x" * 1_000_000))
    store.close()
    assert rows(path, "length(error)") == 2000
