"""Has a running server give its memory back, and take it again: for servers that can be parked.

Counterpart: the backend's `Parking`, which says how to ask. Starts and ends no process; who called decides what becomes
of a server that can't be parked or woken.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from llm_router.backends.base import Address, HttpCall, LaunchSpec, Parking, Rest
from llm_router.errors import LaunchError
from llm_router.launchers import calls, probe

_SHOWN = 200  # characters of what it says


async def ensure_parked(model: str, address: Address, parking: Parking) -> None:
    """Returns when the server says that it is parked; at most as long as its calls may take. Cancelling leaves it open.

    Raises: LaunchError.
    """
    await _said(model, address, parking.park, "park")
    if parking.rest is not None and not await _is_resting(address, parking.rest):
        raise LaunchError(f"cannot park {model}: its server says that it is awake; look into its log")


async def ensure_awake(model: str, spec: LaunchSpec, parking: Parking, *, deadline_s: float) -> None:
    """Returns when the server has proved that it is awake and serves, at most after `deadline_s` seconds. Cancelling
    leaves it open.

    Raises: LaunchError.
    """
    try:
        async with asyncio.timeout(deadline_s):
            await _said(model, spec.address, replace(parking.wake, limit_s=deadline_s), "wake")
            if parking.rest is not None and await _is_resting(spec.address, parking.rest) is not False:
                raise LaunchError(f"cannot wake {model}: its server says that it is parked; look into its log")
            if parking.canary is not None:
                await _said(model, spec.address, parking.canary, "use")
            if not await probe.is_serving(spec, deadline_s):
                raise LaunchError(f"cannot wake {model}: its server isn't ready; look into its log")
    except TimeoutError as error:
        raise LaunchError(f"cannot wake {model}: not ready after {deadline_s:g} s; raise load_timeout") from error


async def is_parked(model: str, spec: LaunchSpec, *, was_told: bool) -> bool:
    """Whether a server of an earlier router is. `was_told`: that router's last word to it was to park.

    Raises: LaunchError where it was told to, and nobody can say whether it did.
    """
    parking = spec.parking
    if parking is not None and parking.rest is not None:
        found = await _is_resting(spec.address, parking.rest)
        if found is not None:
            return found
    if was_told:
        raise LaunchError(f"cannot take over {model}: it was being parked, and its server doesn't say how that ended")
    return False


async def _said(model: str, address: Address, call: HttpCall, act: str) -> None:
    answer = await calls.ask(address, call)
    if answer.status != 200:
        words = " ".join(answer.body.decode(errors="replace").split())[:_SHOWN]
        raise LaunchError(
            f"cannot {act} {model}: its server answered {call.path} with {answer.status} {words}".rstrip()
        )


async def _is_resting(address: Address, rest: Rest) -> bool | None:
    try:
        answer = await calls.ask(address, rest.call)
    except LaunchError:
        return None
    return rest.read(answer.body) if answer.status == 200 else None
