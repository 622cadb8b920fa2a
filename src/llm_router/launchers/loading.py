"""Gives a running server its model and takes it back: for servers that are started without one.

Counterpart: the backend's `Load`, which says how to ask. Starts and ends no process; who called decides what a failed
load means for the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_router.backends.base import Address, Facts, Failed, Load, Loading
from llm_router.errors import LaunchError
from llm_router.launchers import calls
from llm_router.launchers.base import RunningProcess
from llm_router.launchers.waiting import Stall, exit_error, until

_EXIT_S = 0.5  # a crashing process closes its sockets this long before its exit is seen, at most


class LoadRefused(LaunchError):
    """The server said itself that the load failed: it loads nothing any more. Other errors of a load leave it open
    whether the server is still busy with it, and it can't be told to give up."""


async def load_model(
    model: str,
    address: Address,
    load: Load,
    *,
    process: RunningProcess | None,
    deadline_s: float,
    stall: Stall,
    on_loading: Callable[[Loading], None],
) -> Facts:
    """Load it and make sure that it is there; returns what the server then says of it. `process` None: not ours.

    Waits at most `deadline_s` seconds, and as long as `stall` allows. Cancelling doesn't end the load in the server.
    Raises: LoadRefused, LaunchError.
    """
    outcome: list[Facts | LaunchError] = []
    lines: list[str] = []  # from now on: the log is older than this load

    def on_line(line: str) -> None:
        lines.append(line)
        stall.beat()

    def on_progress(loading: Loading) -> None:
        stall.beat()
        on_loading(loading)

    async def attempt() -> None:
        try:
            outcome.append(await _load(model, address, load, on_progress))
        except LaunchError as error:
            outcome.append(error)

    stall.beat()
    end_lines = None if process is None else process.output.subscribe(on_line)
    try:
        await until(
            attempt(),
            model=model,
            process=process,
            deadline_s=deadline_s,
            stall=stall,
            lines=lambda: lines,
            seen=lambda: "its server is loading it",
        )
    finally:
        if end_lines is not None:
            end_lines()
    result = outcome[0]
    if isinstance(result, Facts):
        return result
    if process is not None and not isinstance(result, LoadRefused):
        await asyncio.wait([process.exited], timeout=_EXIT_S)
        if process.exited.done():  # its end tells more than the broken connection
            raise exit_error(model, process.exited.result(), lines)
    raise result


async def unload_model(address: Address, load: Load) -> bool:
    """Take the model back, whichever it is; whether the server says that it has none now. At most the call's limit."""
    try:
        return (await calls.ask(address, load.unload)).status in load.unloaded
    except LaunchError:
        return False


async def loaded_facts(address: Address, load: Load) -> Facts | None:
    """What the server says of its model, if it is the one of `load`; None: it has another one or none, or doesn't
    answer."""
    try:
        facts = await calls.inquire(address, load.loaded)
    except LaunchError:
        return None
    return facts if facts is not None and load.name in facts.models else None


async def _load(model: str, address: Address, load: Load, on_progress: Callable[[Loading], None]) -> Facts:
    def on_data(text: str) -> None:
        match load.read_event(text):
            case Failed(message=message):
                raise LoadRefused(f"cannot load {model}: {message}")
            case Loading() as loading:
                on_progress(loading)
            case _:
                pass

    # A load waits for the running jobs of the model before it, without limit (TabbyAPI 2026-11 common/model.py);
    # an unload cancels them. What it answers doesn't matter: where it can't unload, it will not load either.
    await unload_model(address, load)
    answer = await calls.listen(address, load.call, on_data)
    if answer.status != 200:
        raise LoadRefused(f"cannot load {model}: {load.read_error(answer.body)}")
    # The end of the stream alone is no proof: an error may have kept its events from us.
    facts = await calls.inquire(address, load.loaded)
    if facts is None or load.name not in facts.models:
        there = "nothing" if facts is None or not facts.models else ", ".join(facts.models)
        raise LoadRefused(f"cannot load {model}: its server has {there} loaded, not {load.name}; look into its log")
    return facts
