"""Chooses loopback ports for instances, and says who sits on one that is taken.

Outside the kernel's ephemeral range: a port in it may be given to an outgoing connection between the choice and the
engine's bind. Counterpart: `probe`, which then asks on that port.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

from llm_router.errors import LaunchError
from llm_router.launchers import procfs

HOST = "127.0.0.1"

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Away from the engines' own defaults (5000, 8000, 8080, 30000) and from where most services sit.
_PREFERRED = range(20000, 29900)
_ALL = range(1024, 65536)


class Ports:
    """Ports given out and not yet released are not given out again, even before their instance has bound them.

    `configured`: given out only to who claims them.
    """

    def __init__(self, configured: Iterable[int] = ()) -> None:
        self._held: set[int] = set()
        self.configure(configured)

    def configure(self, configured: Iterable[int]) -> None:
        """These from now on, instead of those before."""
        self._configured = frozenset(configured)

    def take(self) -> int:
        """A free port, held until `release`. Raises: LaunchError when there is none."""
        ephemeral = ephemeral_range()
        usable = [port for port in _PREFERRED if port not in ephemeral]
        usable = usable or [port for port in _ALL if port not in ephemeral] or list(_PREFERRED)
        start = secrets.randbelow(len(usable))  # two routers on one machine rarely try the same one
        for port in (*usable[start:], *usable[:start]):
            if port not in self._held and port not in self._configured and _can_bind(port):
                self._held.add(port)
                return port
        raise LaunchError(f"cannot find a free port from {usable[0]} to {usable[-1]}; end what occupies them")

    def claim(self, port: int, *, of_unit: bool = False) -> int:
        """A configured one, held until `release`. `of_unit`: its unit may be running already, and listening.
        Raises: LaunchError while anyone has it."""
        if port in self._held:
            raise LaunchError(f"cannot use port {port}: another model is using it; configure a port for each of them")
        if not of_unit:
            ensure_free(port)
        self._held.add(port)
        return port

    def hold(self, port: int) -> None:
        """An adopted instance's."""
        self._held.add(port)

    def release(self, port: int) -> None:
        self._held.discard(port)


def ensure_free(port: int) -> None:
    """Raises: LaunchError, naming who listens there, as far as we may know."""
    if _can_bind(port):
        return
    if owner := procfs.listener(port):
        raise LaunchError(f"cannot use port {port}: {owner} listens on it; end it or configure another port")
    # Nobody listens: connections of the last server there are still winding down, and servers may bind over those.
    if not _can_bind(port, reuse=True):
        raise LaunchError(f"cannot use port {port}: something holds it; configure another port")


def ephemeral_range() -> range:
    """The ports the kernel gives to outgoing connections; empty where it doesn't say."""
    with contextlib.suppress(OSError, ValueError):
        low, high = _EPHEMERAL.read_text().split()
        return range(int(low), int(high) + 1)
    return range(0)


def _can_bind(port: int, *, reuse: bool = False) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if reuse:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
