"""Every way in which a file becomes another one is noticed, once, and nothing else is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llm_router.config import watch
from llm_router.config.watch import FileWatch, folders


class Bell:
    def __init__(self, path: Path) -> None:
        self.rung = 0
        self.looks = asyncio.Event()
        self._news = asyncio.Event()
        self.watch = FileWatch(path, self._ring)

    def _ring(self) -> None:
        self.rung += 1
        self._news.set()

    async def next(self) -> None:
        async with asyncio.timeout(5):
            await self._news.wait()
        self._news.clear()

    async def looked(self) -> None:
        """Wait until what has happened so far was looked at."""
        self.looks.clear()
        async with asyncio.timeout(5):
            await self.looks.wait()


@pytest.fixture
async def bell(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[Path], Bell]]:
    monkeypatch.setattr(watch, "_QUIET_S", 0.01)
    hung: list[Bell] = []

    fingerprint = watch._fingerprint

    def look(path: Path) -> object:
        for one in hung:
            one.looks.set()
        return fingerprint(path)

    def hang(path: Path) -> Bell:
        hung.append(Bell(path))
        return hung[-1]

    monkeypatch.setattr(watch, "_fingerprint", look)

    yield hang
    for one in hung:
        one.watch.close()


Hang = Callable[[Path], Bell]


async def test_written_in_place(bell: Hang, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text("1")
    heard = bell(file)
    file.write_text("2")
    await heard.next()


async def test_what_was_read_and_taken_back_within_a_pause_is_a_change(bell: Hang, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text("1")
    heard = bell(file)
    file.write_text("2")
    heard.watch.forget()  # who reads it now sees a 2
    file.write_text("1")
    await heard.next()


async def test_replaced_as_editors_do(bell: Hang, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text("1")
    heard = bell(file)
    for content in ("2", "3"):
        (tmp_path / "new").write_text(content)
        (tmp_path / "new").rename(file)
        await heard.next()


async def test_deleted_and_written_again(bell: Hang, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text("1")
    heard = bell(file)
    file.unlink()
    await heard.next()
    file.write_text("1")
    await heard.next()


async def test_one_that_was_never_there_appears(bell: Hang, tmp_path: Path) -> None:
    file = tmp_path / "folder" / "deeper" / "c.json"
    heard = bell(file)
    file.parent.mkdir(parents=True)
    file.write_text("1")
    await heard.next()


async def test_a_folder_exchanged_for_another(bell: Hang, tmp_path: Path) -> None:
    file = tmp_path / "folder" / "c.json"
    for name, content in (("folder", "1"), ("other", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.json").write_text(content)
    heard = bell(file)
    (tmp_path / "folder").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "folder")
    await heard.next()
    file.write_text("3")
    await heard.next()


async def test_a_link_exchanged_on_the_way(bell: Hang, tmp_path: Path) -> None:
    """As Kubernetes does with a mounted map: c.json -> ..data/c.json, ..data -> ..2026_1."""
    for name, content in (("..2026_1", "1"), ("..2026_2", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.json").write_text(content)
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "c.json").symlink_to("..data/c.json")
    heard = bell(tmp_path / "c.json")
    (tmp_path / "..tmp").symlink_to("..2026_2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    await heard.next()


async def test_a_release_exchanged_by_a_link_to_its_folder(bell: Hang, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.json").write_text("the same")
    (tmp_path / "current").symlink_to(tmp_path / "one")
    heard = bell(tmp_path / "current" / "c.json")
    (tmp_path / "next").symlink_to(tmp_path / "two")
    (tmp_path / "next").rename(tmp_path / "current")
    await heard.next()


async def test_what_changes_nothing_is_not_told(bell: Hang, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text("1")
    heard = bell(file)
    os.utime(file)
    file.write_text("1")
    (tmp_path / "neighbour").write_text("2")
    await heard.looked()
    assert heard.rung == 0


async def test_a_hundred_changes_at_once_are_told_once(bell: Hang, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text("begin")
    heard = bell(file)
    for number in range(100):
        file.write_text(str(number))
    await heard.next()
    assert (heard.rung, file.read_text()) == (1, "99")


def test_links_that_lead_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert folders(tmp_path / "a") == [tmp_path.resolve()]
