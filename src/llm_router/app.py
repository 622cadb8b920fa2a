"""The composition root: the one file that knows everyone. Makes the parts, connects them, runs the server."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop

from llm_router.api.admin import Admin
from llm_router.api.build import build
from llm_router.api.catalog import Catalog, Entry
from llm_router.api.errors import render
from llm_router.api.openai import TARGETS
from llm_router.backends import registry
from llm_router.backends.base import Backend, LaunchRequest
from llm_router.config import specs
from llm_router.config.room import Devices
from llm_router.config.schema import Config, ModelConfig
from llm_router.errors import ConfigError
from llm_router.launchers.process import ProcessLauncher
from llm_router.relay import protocol
from llm_router.relay.body import Parameters
from llm_router.relay.exchange import Services
from llm_router.relay.request import Model, Preferences
from llm_router.relay.status_text import Mode
from llm_router.runtime.instances import Launch
from llm_router.runtime.supervisor import Supervisor

_log = logging.getLogger("llm_router")

_KEEP_ALIVE_S = 75  # longer than any client's pool keeps a connection (Open-WebUI: 15 s), so the client closes first
_BACKLOG = 2048


def serve(config: Config, path: Path | None, on_ready: Callable[[str], None]) -> int:
    """Run the router until a signal ends it. `path`: where `config` came from, for the status; `on_ready` is called
    with the base URL once requests are taken. Returns the exit code. Raises: ConfigError."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its comings and goings are ours to tell
    listener = listen(config.host, config.router_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, path, listener, on_ready))


async def _serve(config: Config, path: Path | None, listener: socket.socket, on_ready: Callable[[str], None]) -> int:
    devices: Devices = {}
    launches = _launches(config, registry.load())
    keys = {name: launch.key for name, launch in launches.items()}
    supervisor = Supervisor(
        models=specs.models(config, devices, launch_keys=keys, footprint_mib=lambda name: None),
        policy=specs.policy(config, devices),
        launches=launches,
        launcher=ProcessLauncher(config.state_folder),
        response_timeout_s=config.response_timeout,
        leave_on_exit=config.on_exit == "leave",
    )
    catalog = Catalog([_entry(config, name) for name in config.models], supervisor.handle.scheduler, int(time.time()))
    services = Services(
        dispatcher=supervisor.leases,
        pool=supervisor.pool,
        models=_models(config),
        render=render,
        preferences=Preferences(
            status=None if config.status == "auto" else Mode(config.status),
            performance={"always": True, "never": False}.get(config.performance_line),
        ),
    )
    now = asyncio.get_running_loop().time
    admin = Admin(supervisor, catalog, None if path is None else str(path), now)
    settings = uvicorn.Config(
        build(services, catalog, admin, body_limit=config.max_body),
        http=protocol.bind(services, TARGETS, config.max_body),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(config.drain_timeout) or 1,
        backlog=_BACKLOG,
    )

    async def prepare() -> None:
        await supervisor.adopt()
        for name, model in config.models.items():
            if model.preload:
                supervisor.load(name)

    server = _Server(settings, prepare, lambda: on_ready(_url(listener)), supervisor.refuse_new)
    try:
        await server.serve(sockets=[listener])
    finally:
        await supervisor.close()
    return 0


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
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._prepare()  # here rather than before: from the start of `serve` on, signals come to `handle_exit`
        await super().startup(sockets)
        _calm_the_collector()
        if not self.should_exit:
            self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            _log.info("stopping now")
            self.force_exit = True
            return
        _log.info("%s: finishing what runs; once more to stop now", signal.Signals(sig).name)
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._stopping)  # a signal may arrive in the middle of anything


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


def _launches(config: Config, backends: dict[str, Backend]) -> dict[str, Launch]:
    launches = {}
    for name, model in config.models.items():
        if model.backend not in backends:
            known = ", ".join(sorted(backends))
            raise ConfigError(f'cannot use the backend "{model.backend}" of {name}: it is one of {known}')
        launches[name] = Launch(
            backend=backends[model.backend],
            request=_request(config, name, model),
            fixed_port=config.fixed_port(name),
            load_timeout_s=config.load_timeout_s(name),
            stall_timeout_s=config.stall_timeout,
        )
    return launches


def _request(config: Config, name: str, model: ModelConfig) -> LaunchRequest:
    backend = config.backend_config(model.backend)
    key, admin_key = model.api_key or backend.api_key, model.admin_key or backend.admin_key
    return LaunchRequest(
        model=name,
        port=0,
        path=model.path,
        command=model.command,
        script=None if model.service is not None else model.script,
        service=model.service,
        url=model.url[0] if model.url else None,
        urls=model.url or (),
        model_name=model.model_name,
        binary=backend.binary,
        args=(*backend.args, *model.args),
        env={**backend.env, **model.env},
        context_length=model.context_length,
        devices=model.devices,
        capabilities=config.capabilities_of(name),
        ready_path=model.ready_path,
        api_key=None if key is None else key.get_secret_value(),
        admin_key=None if admin_key is None else admin_key.get_secret_value(),
        directory=backend.directory,
    )


def _entry(config: Config, name: str) -> Entry:
    model = config.models[name]
    return Entry(
        name=name,
        backend=model.backend,
        title=model.name or name,
        description=model.description,
        aliases=model.aliases,
        capabilities=config.capabilities_of(name),
        context_length=model.context_length,
        hidden=model.hidden,
    )


def _models(config: Config) -> dict[str, Model]:
    models = {}
    for name, model in config.models.items():
        changes = model.parameters
        parameters = Parameters(defaults=changes.defaults, overrides=changes.overrides, removals=changes.removals)
        relayed = Model(
            name=name,
            parameters=parameters if changes.defaults or changes.overrides or changes.removals else None,
            request_class=model.request_class,
        )
        models.update(dict.fromkeys((name, *model.aliases), relayed))
    return models
