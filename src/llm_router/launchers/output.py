"""Follows an instance's log file: the last lines in memory, a call for each new one, a bound on the file.

Counterpart: `process`, which starts the instance with this file as its stdout and stderr. A file rather than a pipe,
because a pipe breaks or blocks the engine when the router dies. Only its owner can read it. Interprets nothing;
`excerpt` picks lines for people.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import ctypes
import errno
import os
from pathlib import Path

import asyncinotify

from llm_router.launchers.listeners import Listeners

# A file longer than this is emptied in the next calm moment, one of FLOOD_FILE_BYTES at once: what the engine writes in
# that very instant is lost, and it might be its last words.
FILE_BYTES = 16 * 1024**2
FLOOD_FILE_BYTES = 64 * 1024**2
READ_BYTES = 64 * 1024
# Kept free for it on the disk: when that is full, many servers end on the first line that they can't write.
RESERVED_BYTES = 1024**2
# Further behind than this, lines are skipped: a flood of gigabytes must not cost the router its own work.
BEHIND_BYTES = 1024**2
# The shortest time between two reads. The first line after a silence is still read at once.
PAUSE_S = 0.005
FLOOD_PAUSE_S = 0.02


_KEEP_SIZE = 1  # linux/falloc.h
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def reserve(fd: int) -> None:
    """Keep `RESERVED_BYTES` of the disk free for this file, which stays as long as it is. Does nothing on a file system
    that can't. Raises: OSError where there is no room."""
    if _fallocate(fd, _KEEP_SIZE, 0, RESERVED_BYTES) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINTR):
        raise OSError(number, os.strerror(number))


class LogFile(Listeners):
    """An instance's output, followed by inotify on the running loop. Implements `launchers.base.Output`.

    `from_end`: an adopted instance's file; only its last `READ_BYTES` are read.
    Raises: OSError where the file can't be opened or no inotify watch is to be had.
    """

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pause: asyncio.TimerHandle | None = None
        self._last_read_s = 0.0
        self._fd, self._can_empty = _opened(path)
        try:
            self._watch = asyncinotify.Inotify()
            self._watch.add_watch(path, asyncinotify.Mask.MODIFY)
        except OSError:
            os.close(self._fd)
            raise
        self._position = max(0, os.fstat(self._fd).st_size - READ_BYTES) if from_end else 0
        self._loop.add_reader(self._watch.fd, self._on_modified)
        self._read_once()

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
        if self._can_empty and self._position > (FILE_BYTES if is_calm else FLOOD_FILE_BYTES):
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
        with contextlib.suppress(OSError):
            reserve(self._fd)
        self._position = 0
        self._publish(self._lines.flush())


def _opened(path: Path) -> tuple[int, bool]:
    """And whether it can be emptied: not where the file system can only be read by now."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC), True
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
