"""How long to wait for a load: until a sign, the process's end, a deadline, or until nothing moves any more.

Counterparts: `probe` and `loading`, which know the signs.
"""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from llm_router.errors import LaunchError
from llm_router.launchers.base import RunningProcess
from llm_router.launchers.excerpt import meaningful_tail


def _never() -> float:
    return -math.inf


class Stall:
    """Notices that a load doesn't move any more. `limit_s`: the longest time without a beat or a growth of memory;
    None: any. `grew`: when the memory last grew, in the loop's time."""

    def __init__(self, limit_s: float | None = None, grew: Callable[[], float] = _never) -> None:
        self._loop = asyncio.get_running_loop()
        self._grew = grew
        self._beat_at = self._loop.time()
        self._limit_s = limit_s
        self.is_over = False

    def beat(self) -> None:
        """It moved: a line of output, a sign of progress."""
        self._beat_at = self._loop.time()

    async def over(self) -> None:
        """Wait until nothing has moved for the limit. Cancelling leaves nothing behind."""
        if self._limit_s is None:
            await asyncio.Event().wait()
            return
        while not self.is_over:
            left_s = max(self._beat_at, self._grew()) + self._limit_s - self._loop.time()
            self.is_over = left_s <= 0
            await asyncio.sleep(max(0.0, left_s))

    def in_words(self) -> str:
        return f"no output, no progress and no growth of its memory for {self._limit_s:g} s"


async def until(
    *signs: Coroutine[None, None, object],
    model: str,
    process: RunningProcess | None,
    deadline_s: float,
    stall: Stall,
    lines: Callable[[], Sequence[str]],
    seen: Callable[[], str],
) -> None:
    """Wait for the first of `signs`, which must not raise; at most `deadline_s` seconds, and as long as `stall` allows.
    The other waits are cancelled, and so are all when this is.

    `process` None: it isn't ours, so its end isn't seen. `lines`: its output, of which the error tells the meaningful
    ones. `seen`: what was heard of it last, in words.
    Raises: LaunchError when the process exits, the deadline passes or nothing moves.
    """
    try:
        async with asyncio.timeout(deadline_s):
            await _first_of(None if process is None else process.exited, stall.over(), *signs)
    except TimeoutError as error:
        raise LaunchError(
            f"cannot use {model}: not ready after {round(deadline_s, 1):g} s ({seen()}){words_of(lines())}; "
            "raise load_timeout if it only needs longer"
        ) from error
    if process is not None and process.exited.done():
        raise exit_error(model, process.exited.result(), lines())
    if stall.is_over:
        raise LaunchError(
            f"cannot use {model}: it hangs while loading, {stall.in_words()} ({seen()}){words_of(lines())}; "
            "raise stall_timeout if it only needs longer"
        )


def exit_error(model: str, status: int | None, lines: Sequence[str]) -> LaunchError:
    return LaunchError(f"cannot use {model}: {exit_in_words(status)} while loading{last_words_of(model, lines)}")


def last_words_of(model: str, lines: Sequence[str]) -> str:
    """As `words_of`, and where the rest is."""
    return f"{words_of(lines)}; `llm-router logs {model}` has more"


def words_of(lines: Sequence[str]) -> str:
    """`: CUDA out of memory | …`, or nothing."""
    useful = meaningful_tail(lines)
    return ": " + " | ".join(useful) if useful else ""


def exit_in_words(status: int | None) -> str:
    """`it exited with status 1`, `it was killed by SIGKILL`."""
    if status is None:
        return "it ended"
    if status >= 0:
        return f"it exited with status {status}"
    try:
        return f"it was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was killed by signal {-status}"


async def _first_of(exited: asyncio.Future[int | None] | None, *signs: Coroutine[None, None, object]) -> None:
    """Returns when the process is gone or the first sign came; the other waits are cancelled, `exited` never is."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sign) for sign in signs]
        waits: list[asyncio.Future[Any]] = [*tasks] if exited is None else [exited, *tasks]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
