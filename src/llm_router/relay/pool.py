"""All connections to inference servers, kept for the next request: none of them costs a task.

Counterpart: `connection`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable, Coroutine

from llm_router.errors import UpstreamLost
from llm_router.relay.connection import Call, Connection, Reply
from llm_router.relay.lease import Upstream

_SWEEP_S = 1.0
_CONNECT_S = 5.0
_LATE_S = 30.0


class Pool:
    """All connections to all upstreams.

    `spawn(name, coroutine)` owns the tasks that open connections. `timeout_s`: the longest silence of a server
    while it owes us an answer; checked by one sweep a second instead of a timer per event. `late_s`: the silence after
    which a reply is told that it is late.
    """

    def __init__(
        self,
        *,
        spawn: Callable[[str, Coroutine[None, None, None]], object],
        timeout_s: float,
        late_s: float = _LATE_S,
    ) -> None:
        self._spawn = spawn
        self.timeout_s = timeout_s
        self._late_s = late_s
        self._idle: defaultdict[int, list[Connection]] = defaultdict(list)
        self._open: defaultdict[int, set[Connection]] = defaultdict(set)
        self._tls: ssl.SSLContext | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    def send(
        self, upstream: Upstream, request: bytes | memoryview, reply: Reply, *, without_body: bool = False
    ) -> Call:
        """Send `request` (head and body). `without_body`: the reply to a HEAD has none, whatever its headers say."""
        call = Call(upstream, request, reply, without_body=without_body)
        idle = self._idle[upstream.instance]
        if idle:
            idle.pop().begin(call)
        else:
            self._connect(call)
        return call

    def drop(self, instance: int) -> None:
        """Close every connection to an instance: a server that is told to stop waits for them otherwise."""
        for connection in list(self._open.get(instance, ())):
            connection.abort()

    def close(self) -> None:
        """Close everything. The pool can't be used afterwards."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for instance in list(self._open):
            self.drop(instance)

    def retry(self, call: Call) -> None:
        """Send again on a new connection, once: the pooled one was stale, and not one byte of a reply had come."""
        call.connection = None
        if not call.retried:
            call.retried = True
            self._connect(call)
        elif call.reply is not None:
            call.reply.reply_lost(UpstreamLost(f"cannot keep a connection to the server of {call.upstream.model}"))

    def idle(self, connection: Connection) -> None:
        self._idle[connection.upstream.instance].append(connection)

    def opened(self, connection: Connection) -> None:
        self._open[connection.upstream.instance].add(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def closed(self, connection: Connection) -> None:
        instance = connection.upstream.instance
        connections = self._open[instance]
        connections.discard(connection)
        idle = self._idle[instance]
        if connection in idle:
            idle.remove(connection)
        if not connections:
            del self._open[instance]
            del self._idle[instance]

    def _connect(self, call: Call) -> None:
        self._spawn(f"connect-{call.upstream.model}", self._open_connection(call))

    async def _open_connection(self, call: Call) -> None:
        upstream = call.upstream
        loop = asyncio.get_running_loop()
        tls = self._tls_context() if upstream.tls else None
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, upstream), upstream.host, upstream.port, ssl=tls
                )
        except (OSError, TimeoutError) as error:
            if call.reply is not None:
                call.reply.reply_lost(UpstreamLost(f"cannot connect to the server of {upstream.model}: {error}"))
            return
        if call.reply is None:
            connection.abort()
        else:
            connection.begin(call)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connections in list(self._open.values()):
            for connection in list(connections):
                connection.expire(now, self.timeout_s, self._late_s)
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)
