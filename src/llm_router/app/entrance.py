"""Everything between the socket and the routes: who may ask, which web pages, and how long a client may take for it.

Counterparts: `api.middleware` and `relay.protocol`, which it gives the rules in force; `reload`, which changes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp

from llm_router.api.middleware import Browsers, Guard
from llm_router.app import parts
from llm_router.config.rules import is_loopback
from llm_router.config.schema import Config
from llm_router.errors import ConfigError
from llm_router.relay.protocol import RelayProtocol
from llm_router.relay.services import Services

_SWEEP_S, _LEAST_S = 5.0, 0.1


class Entrance:
    """`app`: what a server is to serve."""

    def __init__(self, routes: ASGIApp, services: Services, config: Config) -> None:
        self._services = services
        self._is_private = is_loopback(config.host)
        self._gate = parts.gate(config, is_private=self._is_private)
        self._request_timeout_s = config.request_timeout
        self._browsers = Browsers(Guard(routes, lambda: self._gate))
        self.app: ASGIApp = self._browsers
        self.configure(config)

    def check(self, config: Config) -> None:
        """Whether this address may go on under another configuration: its `host` counts only after a restart.

        Raises: ConfigError.
        """
        if not (self._is_private or config.keys or config.allow_insecure):
            raise ConfigError(
                "cannot do without keys at this address, which other machines can reach; "
                'leave a key, restart the router on "127.0.0.1", or accept the risk with "allow_insecure": true'
            )

    def configure(self, config: Config) -> None:
        """These rules from now on, also on open connections. What is being served is served to the end."""
        self._gate = parts.gate(config, is_private=self._is_private, before=self._gate)
        self._services.gate = self._gate
        self._browsers.configure(config.cors_origins)
        self._request_timeout_s = config.request_timeout

    async def end_the_slow(self, connections: Callable[[], Iterable[object]]) -> None:
        """Again and again end the connections whose clients take too long for a request. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_SWEEP_S, max(_LEAST_S, self._request_timeout_s / 2)))
            for connection in list(connections()):
                if isinstance(connection, RelayProtocol):
                    connection.expire(loop.time(), self._request_timeout_s)
