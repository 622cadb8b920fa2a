"""Lines out of a log file: cut, kept, bounded."""

import asyncio
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import fake_spec, identity, line_of

from llm_router.launchers import output
from llm_router.launchers.lines import LINE_CHARS, RING_LINES, Lines
from llm_router.launchers.output import LogFile
from llm_router.launchers.process import ProcessLauncher


def lines_of(*parts: str) -> list[str]:
    lines = Lines()
    return [line for part in parts for line in lines.feed(part)] + lines.flush()


def test_lines_are_cut_at_every_kind_of_end() -> None:
    assert lines_of("one\ntwo\r\nthree\rfour\n\n\nfive") == ["one", "two", "three", "four", "five"]


@given(st.lists(st.integers(0, 40), max_size=6))
def test_where_the_reads_fall_does_not_matter(cuts: list[int]) -> None:
    text = "a\r\nbb\rcc\r\n\x1b[1mé\x1b[0m\nlast\n\nend"
    edges = [0, *sorted(cuts), len(text)]
    assert lines_of(*(text[start:end] for start, end in itertools.pairwise(edges))) == lines_of(text)


def test_a_progress_bar_takes_one_place_in_the_ring() -> None:
    lines = Lines()
    lines.feed("start\n" + "".join(f"\r{percent}%" for percent in range(101)) + "\ndone\n")
    assert list(lines.ring) == ["start", "100%", "done"]


def test_colours_are_removed() -> None:
    assert lines_of("\x1b[31mred\x1b[0m \x1b]0;title\x07plain\n") == ["red plain"]


def test_a_line_without_end_does_not_grow_without_end() -> None:
    lines = Lines()
    for _ in range(100):
        lines.feed("x" * 10000)
    assert lines.feed("\nnext\n") == ["x" * LINE_CHARS, "next"]


def test_the_ring_keeps_the_last_lines() -> None:
    lines = Lines()
    lines.feed("".join(f"{number}\n" for number in range(1000)))
    assert list(lines.ring) == [str(number) for number in range(1000 - RING_LINES, 1000)]


class Followed:
    """A file that is written and followed; `heard` holds what a subscriber got."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.log = LogFile(path)
        self.heard: list[str] = []
        self._news = asyncio.Event()
        self.log.subscribe(self._on_line)

    def _on_line(self, line: str) -> None:
        self.heard.append(line)
        self._news.set()

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    async def until(self, line: str) -> None:
        async with asyncio.timeout(10):
            while line not in self.heard:
                self._news.clear()
                await self._news.wait()


async def test_each_line_is_heard_once_and_in_order(tmp_path: Path) -> None:
    followed = Followed(tmp_path / "log")
    for number in range(300):
        followed.write(b"line %d\n" % number)
        if number % 50 == 0:
            await followed.until(f"line {number}")
    await followed.until("line 299")
    assert followed.heard == [f"line {number}" for number in range(300)]
    assert followed.log.tail(2) == ["line 298", "line 299"]
    followed.log.detach()


async def test_whoever_unsubscribes_hears_no_more(tmp_path: Path) -> None:
    followed = Followed(tmp_path / "log")
    early: list[str] = []
    end = followed.log.subscribe(early.append)
    followed.write(b"one\n")
    await followed.until("one")
    end()
    followed.write(b"two\n")
    await followed.until("two")
    assert early == ["one"]
    followed.log.detach()


async def test_the_file_stays_bounded_and_its_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "FILE_BYTES", 100_000)
    monkeypatch.setattr(output, "FLOOD_FILE_BYTES", 200_000)
    followed = Followed(tmp_path / "log")
    for block in range(30):
        followed.write(b"".join(b"%03d %03d %s\n" % (block, row, b"x" * 90) for row in range(100)))
        followed.write(b"end of %d\n" % block)
        await followed.until(f"end of {block}")
    assert followed.path.stat().st_size < 250_000
    assert followed.log.tail(1) == ["end of 29"]
    assert len([line for line in followed.heard if line.startswith("end of")]) == 30
    followed.log.detach()


async def test_a_flood_costs_little_and_never_the_first_or_the_last_lines(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    size = 60_000_000
    began_cpu_s = sum(os.times()[:2])
    process = await launcher.start(
        fake_spec("--say", "early", "--flood-stderr", str(size), "--exit-on-stdin-eof"), identity()
    )
    heard: list[str] = []
    process.output.subscribe(heard.append)
    await line_of(process, "listening")
    assert heard[0] == "early"
    assert len("".join(heard)) < size / 4
    assert sum(os.times()[:2]) - began_cpu_s < 1.5
    (fifo,) = (tmp_path / "state" / "instances").glob("*.stdin")
    fifo.write_text("calm again\n")
    await line_of(process, "stdin: calm again")
    (log,) = (tmp_path / "state" / "logs").iterdir()
    assert log.stat().st_size < 100


async def test_following_begins_with_the_ring_and_ends_with_the_instance(launcher: ProcessLauncher) -> None:
    process = await launcher.start(fake_spec("--say", "first", "--say", "no end", "--exit-at-start", "0"), identity())
    await process.exited
    assert [line async for line in process.output.follow()] == ["first", "no end"]
    assert [line async for line in process.output.follow()] == ["first", "no end"]
    assert [line async for line in process.output.follow(1)] == ["no end"]
