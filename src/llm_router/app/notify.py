"""Tells systemd how the service is: sd_notify(3) in a few lines, since the protocol is a datagram and no more.

Without systemd, or in a unit that doesn't ask for it, every call does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """`address`: the socket, a path or an abstract name with "@"; "": nobody listens. `watchdog_s`: how long systemd
    waits for a sign of life; None: it doesn't."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = watchdog_s

    def ready(self, status: str) -> None:
        """The service serves; also after `reloading`."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now_us}", "STATUS=reading the configuration")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=finishing what runs")

    async def keep_alive(self) -> None:
        """A sign of life twice in each watchdog time, from the event loop: when that hangs, systemd starts the service
        again. Runs until it is cancelled."""
        while self._watchdog_s is not None:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A service manager that doesn't listen any more is no reason to stop serving.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to,
        ):
            to.sendto("\n".join(lines).encode(), self._address)


def from_environment(environment: Mapping[str, str] = os.environ) -> Notifier:
    """As systemd sets it. The watchdog is meant for the process that it names."""
    is_meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = environment.get("WATCHDOG_USEC", "")
    watchdog_s = int(microseconds) / 1e6 if is_meant and microseconds.isdecimal() else None
    return Notifier(environment.get("NOTIFY_SOCKET", ""), watchdog_s or None)
