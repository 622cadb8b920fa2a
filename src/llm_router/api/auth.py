"""Who asks, and what he may: keys, their limits, and the names under which a router without keys may be asked.

Counterparts: `config.keys`, where the hashes come from; `middleware` and `relay.protocol`, which ask here. Knows no
HTTP status.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from llm_router.config.keys import ClientKey
from llm_router.errors import AdminOnly, ModelNotAllowed, OriginNotAllowed, RateLimited, Unauthenticated

Headers = Mapping[bytes, bytes]

_MINUTE_S = 60.0
_PORT = re.compile(r":\d*$")
# Whoever stands between hides the real client: its own address says nothing.
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip")
_HOW = 'send one as "Authorization: Bearer KEY"'


class Caller:
    """A client with a key. Implements `relay.gate.Caller`. `now`: monotonic seconds."""

    def __init__(self, key: ClientKey, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._open = 0
        self._due_at = 0.0
        self.configure(key)

    def configure(self, key: ClientKey) -> None:
        """What it may from now on; what it has used so far counts on."""
        self.name = key.name
        self.is_admin = key.admin
        self._models = None if "*" in key.models else key.models
        self._concurrency = key.concurrency
        self._per_minute = key.requests_per_minute

    @property
    def is_limited(self) -> bool:
        return (self._models, self._concurrency, self._per_minute) != (None, None, None)

    def may_use(self, model: str) -> bool:
        return self._models is None or any(fnmatchcase(model, pattern) for pattern in self._models)

    def enter(self, model: str) -> None:
        if not self.may_use(model):
            raise ModelNotAllowed(
                f"cannot use {model} with this key: it is for {', '.join(self._models or ())}", param="model"
            )
        if self._concurrency is not None and self._open >= self._concurrency:
            raise RateLimited(
                f"cannot serve more than {self._concurrency} requests of this key at the same time: let one end",
                retry_after_s=1.0,
            )
        if self._per_minute is not None:
            self._take_turn(self._per_minute)
        self._open += 1

    def _take_turn(self, per_minute: int) -> None:
        """Evenly over time, with a minute's worth at once for who has been quiet (GCRA: one number, no list)."""
        now = self._now()
        due_at = max(self._due_at, now)
        if due_at - now > _MINUTE_S - _MINUTE_S / per_minute:
            wait_s = due_at - now - (_MINUTE_S - _MINUTE_S / per_minute)
            raise RateLimited(
                f"cannot serve more than {per_minute} requests of this key in a minute: come again in {wait_s:.0f}s",
                retry_after_s=wait_s,
            )
        self._due_at = due_at + _MINUTE_S / per_minute

    def leave(self) -> None:
        self._open -= 1

    def resume(self) -> None:
        self._open += 1


class Gate:
    """Implements `relay.gate.Gate`. One configuration's rules; `before`: whose callers go on.

    `is_private`: only this machine can reach the router. `own_hosts`: names of this machine. `allowed_hosts`,
    `cors_origins`: as configured.
    """

    def __init__(
        self,
        keys: Iterable[ClientKey],
        *,
        is_private: bool,
        own_hosts: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        cors_origins: Iterable[str] = (),
        before: Gate | None = None,
    ) -> None:
        known = {} if before is None else {caller.name: caller for caller in before._callers.values()}
        self._callers: dict[bytes, Caller] = {}
        for key in keys:
            caller = known.get(key.name) or Caller(key)
            caller.configure(key)
            # Found by its hash: how long that takes says something about a hash, and from a hash nobody finds a key.
            self._callers[key.digest] = caller
        self._has_admin = any(caller.is_admin for caller in self._callers.values())
        self._is_private = is_private
        self._hosts = tuple(host.lower() for host in (*own_hosts, *allowed_hosts))
        self._origins = frozenset(origin.rstrip("/") for origin in cors_origins)
        self.for_browsers = bool(self._origins)

    def admit(self, headers: Headers) -> Caller | None:
        """1. With keys: a known one. 2. Without, on an address of this machine alone: not from a web page that nobody
        has allowed, nor under a name that could be anybody's. 3. Else everybody: so it was configured."""
        if self._callers:  # 1
            caller = self._caller(headers)
            return caller if caller.is_limited else None
        if self._is_private:  # 2
            self._check_host(headers)
            self._check_origin(headers)
        return None  # 3

    def identify(self, headers: Headers) -> Caller | None:
        """As `admit`, and who it is also if he has no limits; None: there are no keys."""
        limited = self.admit(headers)
        return self._caller(headers) if self._callers and limited is None else limited

    def admit_admin(self, headers: Headers, client: str | None) -> Caller | None:
        """`client`: the address it comes from. 1. With admin keys: one of those. 2. With other keys only: somebody on
        this machine, not through a proxy. 3. Without keys: as anybody, but never under a name that could be anybody's.

        Raises: Unauthenticated, AdminOnly, OriginNotAllowed.
        """
        if self._has_admin:  # 1
            caller = self._caller(headers)
            if not caller.is_admin:
                raise AdminOnly('cannot do this with this key: it needs one with "admin": true')
            return caller
        self._check_host(headers)
        self._check_origin(headers)
        if self._callers and not (_is_loopback(client) and not any(name in headers for name in _FORWARDED)):  # 2
            raise AdminOnly('cannot do this from elsewhere: configure a key with "admin": true, and send it')
        return None  # 3

    def _caller(self, headers: Headers) -> Caller:
        presented = _presented(headers)
        if presented is None:
            raise Unauthenticated(f"cannot serve requests without a key: {_HOW}")
        caller = self._callers.get(hashlib.sha256(presented).digest())
        if caller is None:
            raise Unauthenticated(f"cannot find this key among the configured ones: {_HOW}")
        return caller

    def _check_host(self, headers: Headers) -> None:
        """A page that has its own name lead to this machine is asked for under that name."""
        host = headers.get(b"host")
        if host is not None and not self._is_ours(host.decode("latin-1")):
            raise OriginNotAllowed(
                f"cannot be asked as {host.decode('latin-1')[:100]!r}: use this machine's name or address, "
                'add the name to "allowed_hosts", or configure "keys"'
            )

    def _is_ours(self, host: str) -> bool:
        name = _PORT.sub("", host.lower()).rstrip(".") if not host.endswith("]") else host
        if "." not in name or name.endswith(".localhost") or _is_address(name):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._hosts)

    def _check_origin(self, headers: Headers) -> None:
        """A browser says which page asks, unless the page is the router's own."""
        origin = headers.get(b"origin")
        if origin is None:
            return
        text = origin.decode("latin-1").rstrip("/")
        if not self._origins.isdisjoint((text, "*")):
            return
        if urlsplit(text).netloc.lower() == headers.get(b"host", b"").decode("latin-1").lower() != "":
            return
        raise OriginNotAllowed(
            f'cannot be used by the web page {text[:100]!r}: add it to "cors_origins" if it may use the router'
        )


def _presented(headers: Headers) -> bytes | None:
    said = headers.get(b"authorization")
    if said is not None and said[:7].lower() == b"bearer ":
        return said[7:].strip()
    return headers.get(b"x-api-key") or headers.get(b"api-key")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_loopback(client: str | None) -> bool:
    try:
        return client is not None and ipaddress.ip_address(client).is_loopback
    except ValueError:
        return False
