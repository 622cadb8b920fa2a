"""The last lines of an instance, and who listens for new ones. Counterparts: `output` and `journal`, which read them.

Implements all of `launchers.base.Output`; where the lines come from is a subclass's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

from llm_router.launchers.lines import RING_LINES, Lines


class Listeners:
    """`finished` is done when no further line will come. Use it on one event loop."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._subscribers: list[Callable[[str], None]] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tail(self, lines: int = 20) -> list[str]:
        return list(self._lines.ring)[-lines:] if lines > 0 else []

    def hide(self, texts: Iterable[str]) -> None:
        """See `launchers.base`. What the engine wrote stays as it is where it wrote it."""
        self._lines.hide(texts)

    def subscribe(self, on_line: Callable[[str], None]) -> Callable[[], None]:
        """`on_line` must not raise."""
        self._subscribers.append(on_line)

        def end() -> None:
            if on_line in self._subscribers:
                self._subscribers.remove(on_line)

        return end

    async def follow(self, lines: int = RING_LINES) -> AsyncIterator[str]:
        """No deadline; closing the iterator leaves nothing behind. A reader slower than the instance loses the oldest
        of the lines it hasn't seen."""
        waiting = deque(self.tail(lines), maxlen=RING_LINES)
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

    def _publish(self, lines: list[str]) -> None:
        for line in lines:
            for on_line in tuple(self._subscribers):
                on_line(line)
