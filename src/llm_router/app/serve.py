"""Makes the parts, connects them, runs the server. Counterpart: `parts`, which tells each what it must know."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop

from llm_router.api.admin import Admin
from llm_router.api.build import build
from llm_router.api.catalog import Catalog
from llm_router.api.errors import render
from llm_router.api.llamacpp_admin import Management
from llm_router.api.metrics import Metrics
from llm_router.api.ollama import Ollama
from llm_router.api.openai import TARGETS
from llm_router.app import notify, parts, remote
from llm_router.app.entrance import Entrance
from llm_router.app.limits import raise_open_files
from llm_router.app.reload import Reloader, Running
from llm_router.backends import registry
from llm_router.config import room, specs
from llm_router.config.schema import Config
from llm_router.errors import ConfigError
from llm_router.hardware.page_cache import cached_fraction
from llm_router.hardware.reading import open_reader
from llm_router.history.store import Store
from llm_router.launchers import calls
from llm_router.launchers.choice import Launchers
from llm_router.launchers.container import ContainerLauncher
from llm_router.launchers.process import ProcessLauncher
from llm_router.launchers.systemd import SystemdLauncher
from llm_router.relay import protocol
from llm_router.relay.services import Services
from llm_router.runtime.endpoints import Endpoints
from llm_router.runtime.supervisor import Supervisor

_log = logging.getLogger("llm_router")

_KEEP_ALIVE_S = 75  # longer than any client's pool keeps a connection (Open-WebUI: 15 s), so the client closes first
_BACKLOG = 2048
_WARM = 0.9  # of a model's files in the page cache: a load from there takes as long as one from all of it


def serve(
    config: Config,
    path: Path | None,
    on_ready: Callable[[str], None],
    overrides: Mapping[str, object] | None = None,
) -> int:
    """Run the router until a signal ends it. `path`: where `config` came from, with `overrides` over it; it is read
    again when it changes. None: from no file. `on_ready` is called with the base URL once requests are taken. Returns
    the exit code. Raises: ConfigError."""
    raise_open_files()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its comings and goings are ours to tell
    listener = listen(config.host, config.router_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, path, listener, on_ready, overrides or {}))


async def _serve(
    config: Config,
    path: Path | None,
    listener: socket.socket,
    on_ready: Callable[[str], None],
    overrides: Mapping[str, object],
) -> int:
    reader = open_reader()
    devices = await asyncio.to_thread(reader.read)
    history = await asyncio.to_thread(Store, config.state_folder / "history.sqlite")
    backends = registry.load()
    launches = parts.launches(config, backends)
    models = parts.specs(config, launches, devices, history)
    policy, reserve_mib = specs.policy(config, devices), room.reserves(config, devices)
    relayed = parts.models(config)
    supervisor = Supervisor(
        models=models,
        policy=policy,
        launches=launches,
        launcher=Launchers(
            processes=ContainerLauncher(ProcessLauncher(config.state_folder)),
            units=SystemdLauncher(config.state_folder, lambda: parts.units(launches)),
        ),
        response_timeout_s=config.response_timeout,
        leave_on_exit=config.on_exit == "leave",
        reader=reader,
        reserve_mib=reserve_mib,
        device_mib=lambda name: devices[name].total_mib if name in devices else None,
        is_warm=lambda path: cached_fraction(Path(path)) >= _WARM,
        history=history,
    )
    catalog = Catalog(
        [parts.entry(config, name) for name in config.models],
        supervisor.handle.scheduler,
        supervisor.facts_of,
        int(time.time()),
    )
    services = Services(
        dispatcher=supervisor.leases,
        pool=supervisor.pool,
        models=relayed,
        render=render,
        preferences=parts.preferences(config),
        recorder=supervisor.requests,
    )
    now = asyncio.get_running_loop().time
    admin = Admin(supervisor, catalog, None if path is None else str(path), now)
    ollama = Ollama(
        services, catalog, supervisor, path_of=lambda name: parts.path(launches, name), limit=config.max_body
    )
    routes = build(
        services,
        catalog,
        admin,
        ollama,
        Management(supervisor, catalog),
        Metrics(supervisor, catalog, admin),
        body_limit=config.max_body,
    )
    entrance = Entrance(routes, services, config)
    settings = uvicorn.Config(
        entrance.app,
        http=protocol.bind(services, TARGETS, config.max_body),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_grace_s(config),
        backlog=_BACKLOG,
    )

    merging = remote.Merging(
        config,
        backends["openai"],
        specs=models,
        launches=launches,
        relayed=relayed,
        catalog=catalog,
        supervisor=supervisor,
    )
    elsewhere = Endpoints(
        remote.endpoints(config, backends["openai"]),
        ask=calls.ask,
        is_taken=merging.is_taken,
        tell=merging.apply,
    )

    async def prepare() -> None:
        await supervisor.adopt()
        for name, model in config.models.items():
            if model.preload:
                supervisor.load(name)
        supervisor.tasks.spawn("endpoints", elsewhere.keep_up())

    notifier = notify.from_environment()

    def started() -> None:
        on_ready(_url(listener))
        notifier.ready(f"{len(config.models)} models at {_url(listener)}/v1")

    def stopping() -> None:
        notifier.stopping()
        supervisor.refuse_new()

    supervisor.tasks.spawn("watchdog", notifier.keep_alive())
    server = _Server(settings, prepare, started, stopping)
    supervisor.tasks.spawn("slow-clients", entrance.end_the_slow(lambda: server.server_state.connections))
    running = Running(
        config=config,
        devices=devices,
        history=history,
        backends=backends,
        launches=launches,
        relayed=relayed,
        reserve_mib=reserve_mib,
        specs=models,
        policy=policy,
        services=services,
        catalog=catalog,
        supervisor=supervisor,
        merging=merging,
        elsewhere=elsewhere,
    )

    def follow(changed: Config) -> None:
        entrance.configure(changed)
        settings.timeout_graceful_shutdown = _grace_s(changed)

    with ExitStack() as stack:
        if config.tracing:
            from llm_router.app.tracing import traced  # an extra brings what it needs

            stack.enter_context(traced(services, supervisor, launches))
        if path is not None:
            reloader = Reloader(
                path, running, overrides=overrides, check=entrance.check, follow=follow, notifier=notifier
            )
            admin.reloading = reloader
            stack.enter_context(reloader.watching())
        try:
            await server.serve(sockets=[listener])
        finally:
            await supervisor.close()
            await asyncio.to_thread(history.close)
    return 0


def _grace_s(config: Config) -> int:
    return int(config.drain_timeout) or 1


class _Server(uvicorn.Server):
    """uvicorn's server with our phases: a first signal refuses what is new and lets running replies finish; a second
    one skips that."""

    def __init__(
        self,
        config: uvicorn.Config,
        prepare: Callable[[], Awaitable[None]],
        started: Callable[[], None],
        stopping: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._prepare = prepare
        self._started = started
        self._stopping = stopping
        self._signalled = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._prepare()  # here rather than before: from the start of `serve` on, signals come to `handle_exit`
        await super().startup(sockets)
        _calm_the_collector()
        if not self.should_exit:
            self._started()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._signalled.wait()  # uvicorn's own looks for it ten times a second: most of what idling costs

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            _log.info("stopping now")
            self.force_exit = True
            return
        _log.info("%s: finishing what runs; once more to stop now", signal.Signals(sig).name)
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._stop)  # a signal may arrive in the middle of anything

    def _stop(self) -> None:
        self._signalled.set()
        self._stopping()


def _calm_the_collector() -> None:
    """What is here now stays, so it need not be looked through again; and requests leave next to no cycles behind.

    With Python's own settings the collector takes a twentieth of a busy router's time (measured).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def listen(host: str, port: int) -> socket.socket:
    """The bound socket to serve on; port 0 takes any free one. Raises: ConfigError where the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f'cannot listen on {host}:{port}: {error.strerror}. End what uses it, or choose another with "--port"'
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
