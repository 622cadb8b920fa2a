"""Follows an instance's log file: the last lines in memory, a call for each new one, a bound on the file.

Counterpart: `process`, which starts the instance with this file as its stdout and stderr. A file rather than a pipe,
because a pipe breaks or blocks the engine when the router dies. Interprets nothing; `excerpt` picks lines for people.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import asyncinotify

from llm_router.launchers.masking import Mask

RING_LINES = 400
LINE_CHARS = 4096
# A file longer than this is emptied in the next calm moment, one of FLOOD_FILE_BYTES at once: what the engine writes in
# that very instant is lost, and it might be its last words.
FILE_BYTES = 16 * 1024**2
FLOOD_FILE_BYTES = 64 * 1024**2
READ_BYTES = 64 * 1024
# Further behind than this, lines are skipped: a flood of gigabytes must not cost the router its own work.
BEHIND_BYTES = 1024**2
# The shortest time between two reads. The first line after a silence is still read at once.
PAUSE_S = 0.005
FLOOD_PAUSE_S = 0.02

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# A carriage return at the very end may be half of a line end.
_LINE_END = re.compile(r"\r\n|\r(?!\Z)|\n")


class Lines:
    """Cuts decoded text into lines. A line that ended in a carriage return alone is one that the next overwrites
    (progress bars do that), as on a terminal."""

    def __init__(self) -> None:
        self.ring: deque[str] = deque(maxlen=RING_LINES)
        self._mask = Mask()
        self._rest = ""
        self._overwrites = False

    def feed(self, text: str) -> list[str]:
        """The lines completed by `text`, without colour codes, each cut at `LINE_CHARS`."""
        text = self._rest + text
        end = 0
        new = []
        for match in _LINE_END.finditer(text):
            new.append(self._keep(text[end : match.start()], is_overwritten=match[0] == "\r"))
            end = match.end()
        # What has no end yet may grow without limit; only its beginning is of use.
        self._rest = text[end:][: LINE_CHARS * 2]
        return [line for line in new if line]

    def flush(self) -> list[str]:
        """The last line, if it never got its end."""
        return self.feed("\n") if self._rest else []

    def hide(self, texts: Iterable[str]) -> None:
        self._mask = Mask(texts)
        self.ring = deque(map(self._mask, self.ring), maxlen=RING_LINES)

    def forget_partial(self) -> None:
        self._rest = ""

    def _keep(self, raw: str, *, is_overwritten: bool) -> str:
        line = self._mask(_ESCAPES.sub("", raw[: LINE_CHARS * 2]))[:LINE_CHARS]
        if line:
            if self._overwrites and self.ring:
                self.ring.pop()
            self.ring.append(line)
        self._overwrites = is_overwritten and (bool(line) or self._overwrites)
        return line


class LogFile:
    """An instance's output, followed by inotify on the running loop. Implements `launchers.base.Output`.

    `from_end`: an adopted instance's file; only its last `READ_BYTES` are read.
    Raises: OSError where the file can't be opened or no inotify watch is to be had.
    """

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._lines = Lines()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._subscribers: list[Callable[[str], None]] = []
        self._pause: asyncio.TimerHandle | None = None
        self._last_read_s = 0.0
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._watch = asyncinotify.Inotify()
            self._watch.add_watch(path, asyncinotify.Mask.MODIFY)
        except OSError:
            os.close(self._fd)
            raise
        self._position = max(0, os.fstat(self._fd).st_size - READ_BYTES) if from_end else 0
        self._loop.add_reader(self._watch.fd, self._on_modified)
        self._read_once()

    def tail(self, lines: int = 20) -> list[str]:
        return list(self._lines.ring)[-lines:] if lines > 0 else []

    def hide(self, texts: Iterable[str]) -> None:
        """See `launchers.base`. The file itself holds what the engine wrote; only its owner can read it."""
        self._lines.hide(texts)

    def subscribe(self, on_line: Callable[[str], None]) -> Callable[[], None]:
        """`on_line` must not raise."""
        self._subscribers.append(on_line)

        def end() -> None:
            if on_line in self._subscribers:
                self._subscribers.remove(on_line)

        return end

    async def follow(self) -> AsyncIterator[str]:
        """No deadline; closing the iterator leaves nothing behind. A reader slower than the instance loses the oldest
        of the lines it hasn't seen."""
        waiting = deque(self._lines.ring, maxlen=RING_LINES)
        wake = asyncio.Event()

        def on_line(line: str) -> None:
            waiting.append(line)
            wake.set()

        end = self.subscribe(on_line)
        on_finished = lambda _: wake.set()  # noqa: E731 - kept to be removed again
        self.finished.add_done_callback(on_finished)
        try:
            while True:
                while waiting:
                    yield waiting.popleft()
                if self.finished.done():
                    return
                wake.clear()
                await wake.wait()
        finally:
            end()
            self.finished.remove_done_callback(on_finished)

    def catch_up(self) -> None:
        """Read what is there now, at most `BEHIND_BYTES`: called when the process is gone, before anyone asks why."""
        for _ in range(BEHIND_BYTES // READ_BYTES):
            if self.finished.done() or self._read_once() == 0:
                return

    def finish(self) -> None:
        """The last of it; ends every `follow`. Idempotent."""
        if self.finished.done():
            return
        self.catch_up()
        self._publish(self._lines.flush())
        self.detach()

    def detach(self) -> None:
        """Stop following; the file stays as it is. Idempotent."""
        if self.finished.done():
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._watch.fd)
        self._watch.close()
        os.close(self._fd)
        self.finished.set_result(None)

    def _on_modified(self) -> None:
        os.read(self._watch.fd, 4096)
        self._read_and_pause()

    def _read_and_pause(self) -> None:
        """One bounded read, then a pause if it is the second in a short time: a chatty engine wakes us at most
        1/PAUSE_S times a second, a flooding one gets READ_BYTES per FLOOD_PAUSE_S."""
        self._pause = None
        now_s = self._loop.time()
        is_flood = self._read_once() == READ_BYTES
        is_calm = not is_flood and now_s - self._last_read_s >= PAUSE_S
        self._last_read_s = now_s
        if self._position > (FILE_BYTES if is_calm else FLOOD_FILE_BYTES):
            self._empty_file()
        if is_calm:
            self._loop.add_reader(self._watch.fd, self._on_modified)
        else:
            self._pause_for(FLOOD_PAUSE_S if is_flood else PAUSE_S)

    def _pause_for(self, seconds: float) -> None:
        self._loop.remove_reader(self._watch.fd)
        self._pause = self._loop.call_later(seconds, self._read_and_pause)

    def _read_once(self) -> int:
        size = os.fstat(self._fd).st_size
        if size < self._position:  # someone else emptied it
            self._position = 0
        # The first READ_BYTES are never skipped: readiness lines stand there.
        if self._position >= READ_BYTES and size - self._position > BEHIND_BYTES:
            self._position = size - READ_BYTES
            self._lines.forget_partial()
        data = os.pread(self._fd, READ_BYTES, self._position)
        self._position += len(data)
        if data:
            self._publish(self._lines.feed(self._decoder.decode(data)))
        return len(data)

    def _empty_file(self) -> None:
        """The writer goes on at the new end, since it appends."""
        self.catch_up()
        os.ftruncate(self._fd, 0)
        self._position = 0
        self._publish(self._lines.flush())

    def _publish(self, lines: list[str]) -> None:
        for line in lines:
            for on_line in tuple(self._subscribers):
                on_line(line)
