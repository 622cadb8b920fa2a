"""Follows what a unit writes into the journal, through a `journalctl` that waits for new lines.

Counterpart: `unit`, whose output this is. A child with a pipe: it ends by itself when the router is gone. The journal
keeps lines with an end only, so a progress bar that is drawn over and over is seen when it is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import subprocess

import msgspec

from llm_router.launchers.lines import RING_LINES
from llm_router.launchers.listeners import Listeners

log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
# What a process wrote last is in the journal moments after its end: so long a silence means that it was all, and so
# long is waited at most.
_SILENCE_S = 0.05
_LAST_WORDS_S = 0.5


class Journal(Listeners):
    """`since_us`: only what was written from then on, microseconds since 1970. Implements `launchers.base.Output`.

    Without a journal, or without the right to read it, there are no lines, and a warning says why.
    """

    def __init__(self, unit: str, *, is_own: bool, since_us: int) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._unit = unit
        self._since_us = since_us
        self._rest = b""
        self._child: subprocess.Popen[bytes] | None = None
        self._fd = -1
        self._news = asyncio.Event()
        self._has_begun = False
        try:
            self._listen(_command(unit, is_own=is_own))
        except OSError as error:
            log.warning("cannot read the journal of %s: %s; its lines are not shown", unit, error)
            self.finished.set_result(None)

    async def last_words(self) -> None:
        """Wait until what the ended process wrote is here: half a second at most. Cancelling leaves nothing behind."""
        if self.finished.done():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                while await self._is_heard_again():
                    pass

    async def _is_heard_again(self) -> bool:
        self._news.clear()
        try:
            # One that has just been started has yet to read the first line.
            async with asyncio.timeout(_SILENCE_S if self._has_begun else _LAST_WORDS_S):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def finish(self) -> None:
        """The last of it; ends every `follow`. Idempotent."""
        if self.finished.done():
            return
        self._read()
        self._publish(self._lines.flush())
        self.detach()

    def detach(self) -> None:
        """Stop following. Idempotent."""
        if self.finished.done():
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        assert self._child is not None
        self._child.kill()
        self._child.wait()  # at once: it was killed, and holds nothing that would keep it
        self.finished.set_result(None)

    def _listen(self, argv: tuple[str, ...]) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(writing, True)
            self._child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.DEVNULL, start_new_session=True
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._fd = reading
        self._loop.add_reader(reading, self._on_readable)

    def _on_readable(self) -> None:
        if self._read():
            return
        log.warning(
            "cannot read the journal of %s any more: journalctl ended; the router's user must be in the group "
            "systemd-journal for its lines to be shown",
            self._unit,
        )
        self._publish(self._lines.flush())
        self.detach()

    def _read(self) -> bool:
        """One bounded read; False at the end."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return True
        self._has_begun = True
        self._news.set()
        *entries, self._rest = (self._rest + data).split(b"\n")
        self._publish(self._lines.feed("".join(self._line(entry) for entry in entries)))
        return bool(data)

    def _line(self, entry: bytes) -> str:
        """Nothing for what was written before."""
        try:
            read = _decode(entry)
        except msgspec.DecodeError:
            return ""
        if int(read.time) < self._since_us or read.message is None:
            return ""
        # What isn't plain text, as a line with colours, comes as a list of bytes.
        message = read.message if isinstance(read.message, str) else bytes(read.message).decode(errors="replace")
        return f"{message}\n"


class _Entry(msgspec.Struct):
    """systemd.journal-fields(7), and journalctl(1) on how they become JSON. `time`: microseconds since 1970."""

    time: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    message: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)


_decode = msgspec.json.Decoder(_Entry).decode


def _command(unit: str, *, is_own: bool) -> tuple[str, ...]:
    """Not with --since: as long as nothing has been written since then, systemd 252 follows nothing either."""
    # Following means "of this boot" by itself unless merging, and in a container's sandbox the boot has another number
    # than in the journal.
    whose = ("--user", "--user-unit", unit) if is_own else ("--unit", unit)
    what = ("--output=json", "--output-fields=MESSAGE", "--all")
    program = shutil.which("journalctl") or "journalctl"
    return (program, "--follow", "--merge", f"--lines={RING_LINES}", *what, "--quiet", *whose)
