"""Talks to systemd over D-Bus: one manager, the machine's or the user's own.

Counterpart: `systemd`, which decides what to ask. Only what is needed of systemd's interface
(org.freedesktop.systemd1(5)); no sleeps and no polls: jobs end with a signal, and so does every change of a unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import getpass
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from llm_router.errors import LaunchError
from llm_router.launchers.unit import UnitState

log = logging.getLogger(__name__)

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = f"{_NAME}.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_REFUSED = (
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
    "org.freedesktop.PolicyKit1.Error.NotAuthorized",
)
# A manager that is busy reloading hundreds of units still answers within this.
CALL_S = 15.0


class Manager:
    """One of systemd's managers, reached when it is first asked, and again after its bus was restarted.

    Every method raises LaunchError where systemd can't be reached, refuses, or takes longer than `CALL_S`.
    `is_own`: the user's own manager rather than the machine's.
    """

    def __init__(self, *, is_own: bool = False) -> None:
        self.is_own = is_own
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._watched: dict[str, set[Callable[[], None]]] = {}
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._ended: dict[str, str] = {}
        self._losing: asyncio.Task[None] | None = None
        self._asking = 0

    async def state(self, unit: str) -> UnitState:
        path = await self._path(unit)
        about = await self._properties(path, f"{_NAME}.Unit")
        service = await self._properties(path, f"{_NAME}.Service")
        ended_by, status = service.get("ExecMainCode", 0), service.get("ExecMainStatus", 0)
        has_ended = ended_by != 0 and service.get("MainPID", 0) == 0
        return UnitState(
            load=about["LoadState"],
            active=about["ActiveState"],
            pid=service.get("MainPID", 0),
            started_us=service.get("ExecMainStartTimestamp", 0),
            status=None if not has_ended else status if ended_by == os.CLD_EXITED else -status,
            result=service.get("Result", "success"),
        )

    async def begin(self, verb: str, unit: str) -> asyncio.Future[str]:
        """Queue a job: "Start", "Stop" or "Restart". The future is systemd's word for how it ends ("done", "failed",
        "canceled", "timeout", "dependency", "skipped"), or "lost" with the connection. Wait for it by `asyncio.wait`
        or a shield."""
        self._asking += 1
        try:
            job: str = (await self._call(_PATH, _MANAGER, f"{verb}Unit", "ss", unit, "replace"))[0]
            result = asyncio.get_running_loop().create_future()
            if job in self._ended:
                result.set_result(self._ended[job])
            else:
                self._jobs[job] = result
            return result
        finally:
            self._asking -= 1
            if not self._asking:
                self._ended.clear()

    async def kill(self, unit: str, number: int) -> None:
        """A signal to all processes of the unit."""
        await self._call(_PATH, _MANAGER, "KillUnit", "ssi", unit, "all", number)

    async def forgive(self, unit: str) -> None:
        """Forget that it failed: else systemd refuses to start what has failed too often."""
        await self._call(_PATH, _MANAGER, "ResetFailedUnit", "s", unit)

    async def watch(self, unit: str, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change` whenever systemd says that something of the unit changed. Returns the way to end it."""
        path = await self._path(unit)
        if path not in self._watched:
            self._watched[path] = set()
            await self._match(f"interface='{_PROPERTIES}',path='{path}'")
        self._watched[path].add(on_change)
        return lambda: self._watched[path].discard(on_change)

    async def like(self, unit: str) -> str | None:
        """The unit whose name is most like this one; None: nothing is."""
        files = await self._call(_PATH, _MANAGER, "ListUnitFiles", "")
        names = [Path(path).name for path, _ in files[0]]
        found = difflib.get_close_matches(unit, [name for name in names if name.endswith(".service")], n=1)
        return found[0] if found else None

    def close(self) -> None:
        """Idempotent; what a call waits for then never comes."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.disconnect()
        if self._losing is not None:
            self._losing.cancel()

    # -- the bus

    async def _path(self, unit: str) -> str:
        path: str = (await self._call(_PATH, _MANAGER, "LoadUnit", "s", unit))[0]
        return path

    async def _properties(self, path: str, interface: str) -> dict[str, Any]:
        reply = await self._call(path, _PROPERTIES, "GetAll", "s", interface)
        return {name: variant.value for name, variant in reply[0].items()}

    async def _call(self, path: str, interface: str, member: str, signature: str, *body: object) -> list[Any]:
        bus = await self._connected()
        message = Message(
            destination=_NAME, path=path, interface=interface, member=member, signature=signature, body=list(body)
        )
        return await self._ask(bus, message)

    async def _ask(self, bus: MessageBus, message: Message) -> list[Any]:
        try:
            async with asyncio.timeout(CALL_S):
                reply = await bus.call(message)
        except TimeoutError as error:
            raise LaunchError(
                f"cannot ask systemd ({message.member}): it hasn't answered for {CALL_S:g} s; see `systemctl status`"
            ) from error
        except (OSError, EOFError, DBusFastError) as error:
            raise LaunchError(
                f"cannot reach systemd over D-Bus: {error}; see `systemctl {self._option}status`"
            ) from error
        if reply is None or reply.message_type is MessageType.ERROR:
            raise self._refusal(message, reply)
        return reply.body

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                self._bus = await self._connect()
            return self._bus

    async def _connect(self) -> MessageBus:
        address = _own_address() if self.is_own else None
        try:
            async with asyncio.timeout(CALL_S):
                bus = await MessageBus(address, BusType.SYSTEM).connect()
        except (OSError, EOFError, TimeoutError, DBusFastError) as error:
            raise LaunchError(
                f"cannot reach systemd over D-Bus: {error or 'no answer'}; is D-Bus installed and running? "
                f"`systemctl {self._option}status` must work for the router's user"
            ) from error
        bus.add_message_handler(self._on_message)
        await self._ask(bus, Message(destination=_NAME, path=_PATH, interface=_MANAGER, member="Subscribe"))
        rules = [f"interface='{_MANAGER}',member='JobRemoved',path='{_PATH}'"]
        for rule in (*rules, *(f"interface='{_PROPERTIES}',path='{path}'" for path in self._watched)):
            await self._ask(bus, _match_call(rule))
        self._losing = asyncio.get_running_loop().create_task(self._notice_loss(bus), name="systemd-lost")
        return bus

    async def _match(self, rule: str) -> None:
        await self._ask(await self._connected(), _match_call(rule))

    def _on_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "JobRemoved":
            _, job, _, result = message.body
            if job in self._jobs:
                self._jobs.pop(job).set_result(result)
            elif self._asking:  # the end of a job may come before the answer that names it
                self._ended[job] = result
        elif message.member == "PropertiesChanged":
            self._tell(message.path or "")

    def _tell(self, path: str) -> None:
        for on_change in tuple(self._watched.get(path, ())):
            on_change()

    async def _notice_loss(self, bus: MessageBus) -> None:
        """What happens while nobody listens is never told: whoever waits must look for himself."""
        with contextlib.suppress(OSError, EOFError, DBusFastError):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        if self._bus is not bus:  # closed by ourselves
            return
        log.warning("the connection to systemd was lost; it is made again when it is needed")
        self._bus = None
        for job in self._jobs.values():
            job.set_result("lost")
        self._jobs.clear()
        for path in self._watched:
            self._tell(path)

    @property
    def _option(self) -> str:
        return "--user " if self.is_own else ""

    def _refusal(self, message: Message, reply: Message | None) -> LaunchError:
        said = str(reply.body[0]) if reply is not None and reply.body else "it gave no reason"
        unit = str(message.body[0]) if message.body else "systemd"
        act = f"cannot {message.member.removesuffix('Unit').lower() if message.member else 'ask'} {unit}"
        if reply is not None and reply.error_name in _REFUSED:
            return LaunchError(
                f"{act}: systemd refuses it to the user {_user()} ({said}); allow it with the polkit rule that "
                "`sudo llm-router install` writes for the units of the configuration"
            )
        return LaunchError(f"{act}: {said}; see `systemctl {self._option}status {unit}`")


def has_own_manager() -> bool:
    """Whether the user has a manager of his own that can be reached."""
    path = _own_address().removeprefix("unix:path=").split(",")[0]
    return path.startswith("/") and Path(path).exists()


def _own_address() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={runtime}/bus"


def _match_call(rule: str) -> Message:
    return Message(
        destination="org.freedesktop.DBus",
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="AddMatch",
        signature="s",
        body=[f"type='signal',sender='{_NAME}',{rule}"],
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
