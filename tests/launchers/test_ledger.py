"""Entries are written whole, read back, and set aside where they make no sense."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from launching import identity

from llm_router.launchers.ledger import Entry, Ledger

ENTRY = Entry(identity=identity(instance=3), token="state:3:abc", log="/logs/x.log", boot="b")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_an_entry_is_completed_in_place(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write(ENTRY)
    assert ledger.entries() == [ENTRY]
    ledger.write(ENTRY.completed(47, 11))
    assert ledger.entries() == [ENTRY.completed(47, 11)]
    ledger.write(ENTRY.completed(47, 11).told_to_leave())
    assert [entry.leaving for entry in ledger.entries()] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["3-abc.json"]


def test_what_a_killed_router_was_writing_is_removed(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write(ENTRY)
    (tmp_path / "3-abc.tmp").write_text('{"format": 1, "ident')
    (tmp_path / "4-def.tmp").touch()
    assert ledger.entries() == [ENTRY]
    assert [path.name for path in tmp_path.iterdir()] == ["3-abc.json"]


def test_the_same_number_of_two_routers_makes_two_entries(ledger: Ledger) -> None:
    other = Entry(identity=ENTRY.identity, token="state:3:def", log="/logs/y.log", boot="b")
    ledger.write(ENTRY)
    ledger.write(other)
    assert ledger.entries() == [ENTRY, other]


@pytest.mark.parametrize("keep_s", [None, 90, 0.5, math.inf])
def test_how_long_a_client_wants_it_kept_is_written_too(ledger: Ledger, keep_s: float | None) -> None:
    entry = ENTRY.handed_over(replace(ENTRY.identity, keep_s=keep_s))
    ledger.write(entry)
    assert ledger.entries() == [entry]


def test_removing_can_be_repeated(ledger: Ledger) -> None:
    ledger.write(ENTRY)
    ledger.remove(ENTRY)
    ledger.remove(ENTRY)
    assert ledger.entries() == []


GOOD = {
    "format": 1,
    "identity": {"instance": 1, "model": "m", "launch_key": "k", "port": 1},
    "token": "a:1:b",
    "log": "/l",
    "boot": "b",
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps(GOOD | {"format": 2}),
        json.dumps(GOOD | {"identity": None}),
        json.dumps(GOOD | {"identity": {**GOOD["identity"], "keep_s": "5m"}}),  # type: ignore[dict-item]
        json.dumps(GOOD | {"identity": {"instance": 1}}),
        json.dumps(GOOD | {"pid": "1"}),
        json.dumps(GOOD | {"pid": True}),
        json.dumps(GOOD | {"token": None}),
        json.dumps(GOOD | {"leaving": 1}),
        json.dumps(GOOD | {"new": 1}),
        '{"\x00": "\ud800"}'.encode(errors="replace").decode(),
    ],
)
def test_what_cannot_be_understood_is_set_aside_once(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "1-b.json").write_text(text)
    ledger.write(ENTRY)
    assert ledger.entries() == [ENTRY]
    assert (tmp_path / "1-b.bad").read_text() == text
    assert "set aside" in caplog.text
    caplog.clear()
    assert ledger.entries() == [ENTRY]
    assert caplog.text == ""


def test_bytes_that_are_no_text_are_set_aside_too(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "1-b.json").write_bytes(b"\xff\xfe\x00")
    assert ledger.entries() == []


def test_a_good_entry_of_this_format_is_read(ledger: Ledger, tmp_path: Path) -> None:
    """The table above would prove nothing if its base were refused as well."""
    (tmp_path / "1-b.json").write_text(json.dumps(GOOD))
    assert len(ledger.entries()) == 1
