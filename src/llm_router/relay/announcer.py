"""Tells a streaming client what its request waits for, now and every few seconds.

Counterparts: `status_text`, which has the words, and `exchange`, which says when the waiting begins and ends. Made only
for a request that has to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_router.relay.status_text import Progress, StatusStream


class Announcer:
    """`progress`: what the request waits for; None when it doesn't. `send`: takes what the client is told."""

    __slots__ = ("_began", "_is_open", "_loop", "_progress", "_send", "_stream", "_ticker")

    def __init__(
        self, stream: StatusStream, *, progress: Callable[[], Progress | None], send: Callable[[bytes], None]
    ) -> None:
        self._stream = stream
        self._progress = progress
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._ticker: asyncio.TimerHandle | None = None
        self._began = False  # the client has a line of ours
        self._is_open = False  # … and hasn't been told that the waiting is over

    def show(self) -> None:
        """The first line, or the next one; and again every few seconds until `ready`, `failed` or `stop`."""
        progress = self._progress()
        if progress is None:
            return
        self._send(self._stream.update(progress) if self._began else self._stream.first(progress))
        self._began = self._is_open = True
        self._ticker = self._loop.call_later(self._stream.interval_s, self.show)

    def ready(self, elapsed_s: float) -> None:
        """The waiting is over, after `elapsed_s`."""
        self.stop()
        if self._is_open:
            self._is_open = False
            self._send(self._stream.ready(elapsed_s))

    def failed(self, code: str) -> bytes:
        """What ends a line that would shimmer for ever, to be sent before the error itself, whose `code` this is."""
        self.stop()
        return self._stream.failed(code) if self._is_open else b""

    def stop(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
