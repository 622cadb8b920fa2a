"""What a unit's lines are made of: the journal's entries."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from llm_router.launchers.journal import Journal

ENTRIES = r"""#!{python} -IS
import signal, sys
for entry in {entries!r}:
    print(entry, flush=True)
if {stays}:
    signal.pause()
"""


def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *entries: str, stays: bool = True) -> None:
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(ENTRIES.format(python=sys.executable, entries=entries, stays=stays))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def entry(time_us: int, message: str) -> str:
    return f'{{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"{time_us}","MESSAGE":{message}}}'


async def last(journal: Journal, line: str) -> list[str]:
    async with asyncio.timeout(20):
        async for one in journal.follow():
            if one == line:
                break
    found = journal.tail(100)
    journal.detach()
    return found


async def test_what_was_written_before_the_start_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journalctl(tmp_path, monkeypatch, entry(9, '"old"'), entry(10, '"new"'), entry(11, '"end"'))
    assert await last(Journal("x.service", is_own=False, since_us=10), "end") == ["new", "end"]


async def test_lines_with_colours_come_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = str(list("\x1b[31mré\x1b[0md".encode()))
    journalctl(tmp_path, monkeypatch, entry(1, coloured), entry(2, '"end"'))
    assert await last(Journal("x.service", is_own=False, since_us=0), "end") == ["réd", "end"]


async def test_what_isnt_an_entry_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journalctl(tmp_path, monkeypatch, "-- Boot --", entry(1, "null"), "{}", entry(2, '"end"'))
    assert await last(Journal("x.service", is_own=False, since_us=0), "end") == ["end"]


async def test_a_journal_that_ends_is_told_and_ends_who_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journalctl(tmp_path, monkeypatch, stays=False)
    journal = Journal("x.service", is_own=False, since_us=0)
    async with asyncio.timeout(20):
        assert [line async for line in journal.follow()] == []
    assert "systemd-journal" in caplog.text


async def test_without_journalctl_there_are_no_lines_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    journal = Journal("x.service", is_own=False, since_us=0)
    assert journal.finished.done()
    assert "cannot read the journal of x.service" in caplog.text
    await journal.last_words()
    journal.finish()
