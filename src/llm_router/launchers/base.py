"""What a launcher offers the runtime. Counterpart: `backends`, which describe what to run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llm_router.backends.base import LaunchSpec, StopPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What outlives the router about an instance: kept in the ledger, so that a restarted router can adopt it.

    `launch_key`: a hash of everything that shaped the start; a changed configuration doesn't adopt the old process.
    `devices`: where it was placed. `is_parked`: it was told to give its memory back, and not yet woken for sure.
    `keep_s`: how long a client wants it kept while nobody uses it (seconds; infinity: for ever); None: nobody said.
    """

    instance: int
    model: str
    launch_key: str
    port: int
    devices: tuple[str, ...] = ()
    is_parked: bool = False
    keep_s: float | None = None


class Output(Protocol):
    """An instance's log: every line it writes, kept in a bounded file and a ring of the last lines."""

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines, oldest first."""
        ...

    def hide(self, texts: Iterable[str]) -> None:
        """Show asterisks in their place from now on, also in the lines that are there already."""
        ...

    def subscribe(self, on_line: Callable[[str], None]) -> Callable[[], None]:
        """Call `on_line` for each line from now on, on the event loop. Returns the way to end it."""
        ...

    def follow(self, lines: int = ...) -> AsyncIterator[str]:
        """The ring's last `lines`, then each new one, until the instance is gone."""
        ...


class RunningProcess(Protocol):
    """One running instance.

    `exited` is done as soon as the process is gone, with its exit status (negative: the signal; None: unknown, not our
    child). It is shared: wait for it by `asyncio.wait`, since cancelling a bare `await` would cancel it for everybody.
    """

    @property
    def identity(self) -> Identity: ...
    @property
    def pid(self) -> int: ...
    @property
    def output(self) -> Output: ...
    @property
    def exited(self) -> asyncio.Future[int | None]: ...

    async def stop(self, plan: StopPlan) -> None:
        """End the whole process group as `plan` says. Returns when nothing of it is left. Safe to call twice, from two
        tasks, and after the exit; cancelling the caller doesn't stop the stopping."""
        ...


class Launcher(Protocol):
    async def start(self, spec: LaunchSpec, identity: Identity) -> RunningProcess:
        """Start it; returns as soon as the process exists, long before it is ready. Cancelling leaves no process
        behind. Raises: LaunchError."""
        ...

    def hand_over(self, process: RunningProcess, identity: Identity) -> None:
        """The process is another instance from now on, also for a later router. Returns when that is written."""
        ...

    async def survivors(self) -> Sequence[RunningProcess]:
        """Processes an earlier router left behind, still running. What carries our token but has no entry is ended
        here."""
        ...

    def close(self) -> None:
        """Let go of what still runs, without stopping it. Idempotent."""
        ...
