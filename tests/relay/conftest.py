"""One relay for each sink, on real sockets: see `wire` for the scripted upstream and the raw client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from wire import LIMIT, Bench, FakeDispatcher, FakeRecorder, FakeUpstream

from llm_router.api.errors import render
from llm_router.api.openai import TARGETS, inference
from llm_router.relay import pool as pools
from llm_router.relay import protocol
from llm_router.relay.asgi import relay
from llm_router.relay.lease import Upstream
from llm_router.relay.request import Kind, Model, Preferences, Target
from llm_router.relay.services import Services
from llm_router.relay.status_text import Mode
from llm_router.runtime.tasks import Tasks

RAW = Target(kind=Kind.RAW, method=b"POST", path=b"/raw", model="m")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()


class _Raw:
    """A route of which the relay knows nothing, as `/upstream/…` is."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await relay(self._services, RAW, scope, receive, send, limit=LIMIT)


@pytest.fixture(params=["protocol", "asgi"])
def sink(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def patience_s() -> float:
    """How long a silent server is waited for; what is late is so after a quarter of it."""
    return 2.0


@pytest.fixture
def limit() -> int:
    """Of a request's body, in bytes."""
    return LIMIT


@pytest.fixture
def keep_alive_s() -> float:
    """How long a quiet client's connection is kept."""
    return 5.0


@pytest.fixture
async def bench(
    sink: str, patience_s: float, limit: int, keep_alive_s: float, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setattr(pools, "_SWEEP_S", patience_s / 10)
    dispatcher, upstream, recorder, tasks = FakeDispatcher(), FakeUpstream(), FakeRecorder(), Tasks()
    backend = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    backend_port = backend.sockets[0].getsockname()[1]
    dispatcher.upstream = Upstream(
        instance=1, model="m", host="127.0.0.1", port=backend_port, host_header=b"127.0.0.1:%d" % backend_port
    )
    pool = pools.Pool(spawn=tasks.spawn, timeout_s=patience_s, late_s=patience_s / 4)
    services = Services(
        dispatcher=dispatcher,
        pool=pool,
        models={"m": Model(name="m"), "vectors": Model(name="vectors", chats=False)},
        render=render,
        preferences=Preferences(status=Mode.CONTENT),
        recorder=recorder,
    )
    routes = [route for route in inference(services, None, limit) if "upstream" not in route.path]  # type: ignore[arg-type]
    hot = {**TARGETS, b"/raw": RAW} if sink == "protocol" else {}
    app = Starlette(routes=[*routes, Route("/raw", _Raw(services), methods=["POST"])])
    config = uvicorn.Config(
        app,
        port=0,
        http=protocol.bind(services, hot, limit),
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]
    )
    server = _Server(config)
    listener = config.bind_socket()
    serving = tasks.spawn("server", server._serve([listener]))
    await server.is_started.wait()
    bench = Bench(upstream, dispatcher, recorder, listener.getsockname()[1])
    try:
        yield bench
    finally:
        for talker in bench.clients:
            talker.close()
        server.should_exit = True
        pool.close()
        backend.close()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        await tasks.close()
        assert not dispatcher.waiting, "a request was left waiting"
        open_leases = (
            set(range(1, dispatcher.opened + 1)) - {request for request, _ in dispatcher.closed} - dispatcher.refused
        )
        assert not open_leases, f"leases {open_leases} were never closed"
        asked, ended = dispatcher.opened - len(recorder.replays), recorder.ended_requests
        assert sum(one.sent_at > 0 for one in ended) <= asked <= len(ended), "a request was not recorded once"
        assert len(dispatcher.closed) == len({request for request, _ in dispatcher.closed}), "a lease was closed twice"
