"""The router's own log: readable for people, for programs and for the journal."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from llm_router.cli.log import LogFormat, formatter, is_journal


def record(message: str = "loading %s", *args: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("llm_router.runtime.effects", level, __file__, 1, message, args or ("qwen",), None)
    made.created, made.msecs = 1763841600.25, 250.0
    made.__dict__.update(extra)
    return made


def as_json(made: logging.LogRecord) -> Any:
    line = formatter(LogFormat.JSON, in_journal=False).format(made)
    assert "\n" not in line
    return json.loads(line)


def test_a_line_for_people_has_time_level_and_message() -> None:
    line = formatter(LogFormat.TEXT, in_journal=False).format(record())
    assert line.endswith(" INFO loading qwen")


def test_a_line_for_programs_is_one_object() -> None:
    assert as_json(record()) == {
        "time": "2025-11-22T20:00:00.250Z",
        "level": "info",
        "logger": "llm_router.runtime.effects",
        "message": "loading qwen",
    }


def test_it_says_what_it_is_about_and_nothing_else_that_it_carries() -> None:
    found = as_json(record(model="qwen", instance=3, request_id=None, password="x"))
    assert (found["model"], found["instance"]) == ("qwen", 3)
    assert found.keys().isdisjoint({"request_id", "password"})
    assert as_json(record(request_id="mine:1"))["request_id"] == "mine:1"


def test_line_ends_and_any_text_stay_inside_of_one_line() -> None:
    assert as_json(record("%s", "two\nlines \U0001f99c"))["message"] == "two\nlines \U0001f99c"


def test_a_traceback_is_in_the_object() -> None:
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        made = record(level=logging.ERROR)
        made.exc_info = sys.exc_info()
    assert "RuntimeError: a bug" in as_json(made)["error"]


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_the_journal_gets_the_priority_and_no_second_time(level: int, priority: int) -> None:
    assert formatter(LogFormat.TEXT, in_journal=True).format(record(level=level)) == f"<{priority}>loading qwen"


def test_the_journal_gets_the_priority_with_each_line() -> None:
    made = record("%s", "first\nsecond", level=logging.ERROR)
    assert formatter(LogFormat.TEXT, in_journal=True).format(made) == "<3>first\n<3>second"
    assert formatter(LogFormat.JSON, in_journal=True).format(made).startswith('<3>{"time"')


def test_only_the_file_that_systemd_names_is_the_journal(tmp_path: Path) -> None:
    with tempfile.TemporaryFile("w", dir=tmp_path) as journal, tempfile.TemporaryFile("w", dir=tmp_path) as other:
        status = os.fstat(journal.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(journal, environment)
        assert not is_journal(other, environment)
        assert not is_journal(journal, {})
    assert not is_journal(io.StringIO(), environment)
