"""The configuration in the words of each part: launches for the runtime, entries for the API, models for the relay.

Counterpart: `config.specs`, which does the same for the scheduler.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping

from pydantic import SecretStr

from llm_router.api.auth import Gate
from llm_router.api.catalog import Entry
from llm_router.backends.base import Backend, LaunchRequest
from llm_router.backends.tabby_keys import FILE, Keys, read_keys
from llm_router.config import files, keys, room
from llm_router.config import specs as scheduling
from llm_router.config.schema import Config, ModelConfig
from llm_router.core.specs import ModelSpec
from llm_router.errors import ConfigError
from llm_router.hardware.base import DeviceReading
from llm_router.history.base import History
from llm_router.launchers.base import Identity
from llm_router.launchers.systemd import Known
from llm_router.relay.request import Model, Parameters, Preferences
from llm_router.relay.status_text import Mode
from llm_router.runtime.footprints import footprint_mib
from llm_router.runtime.instances import Launch

_TABBY = ("tabbyapi", "tabbyapi-exl2")
# Numbers of instances that nobody has numbered yet; no router gets so far by counting.
_FIRST_RECOGNISED = 1_000_001


def specs(
    config: Config,
    launching: Mapping[str, Launch],
    devices: Mapping[str, DeviceReading],
    history: History,
    before: Mapping[str, ModelSpec] | None = None,
) -> dict[str, ModelSpec]:
    """For the scheduler. What the configuration leaves open is asked of history, backends and the models' files.
    `before`: what the scheduler knows; of a model that starts as before it has learned more since than there is to ask.
    """

    def unsaid(name: str) -> int | None:
        known = (before or {}).get(name)
        if known is not None and known.launch_key == launching[name].key and not known.is_declared:
            return known.footprint_mib
        return footprint_mib(launching[name], room.placed_on(config, name, devices), devices, history)

    keys = {name: launch.key for name, launch in launching.items()}
    return scheduling.models(config, devices, launch_keys=keys, footprint_mib=unsaid)


def launches(config: Config, backends: dict[str, Backend]) -> dict[str, Launch]:
    """How each model is started. Raises: ConfigError for a backend that isn't installed."""
    found = {}
    for name, model in config.models.items():
        if model.backend not in backends:
            known = ", ".join(sorted(backends))
            raise ConfigError(f'cannot use the backend "{model.backend}" of {name}: it is one of {known}')
        found[name] = Launch(
            backend=backends[model.backend],
            request=_request(config, name, model),
            fixed_port=config.fixed_port(name),
            load_timeout_s=config.load_timeout_s(name),
            stall_timeout_s=config.stall_timeout,
        )
    return found


def units(launching: Mapping[str, Launch]) -> Iterator[Known]:
    """For the launcher of units: which models run in them, so that it recognises those that somebody else started."""
    for number, (name, launch) in enumerate(launching.items(), _FIRST_RECOGNISED):
        request = launch.request
        if request.service is not None:
            port = launch.fixed_port or 0
            identity = Identity(instance=number, model=name, launch_key=launch.key, port=port)
            yield Known(service=request.service, script=request.script, identity=identity)


def _request(config: Config, name: str, model: ModelConfig) -> LaunchRequest:
    backend = config.backend_config(model.backend)
    is_tabby = model.backend in _TABBY
    keys = _keys_of(model.api_key or backend.api_key, model.admin_key or backend.admin_key)
    if is_tabby and model.url is None and keys == Keys():  # a server elsewhere must not be sent what is in our folder
        keys = read_keys(files.text_in(backend.directory, FILE))
    return LaunchRequest(
        model=name,
        port=0,
        # TabbyAPI calls a model by its folder's real name.
        path=os.path.realpath(model.path) if is_tabby and model.path is not None else model.path,
        command=model.command,
        script=model.script,
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
        api_key=keys.api,
        admin_key=keys.admin,
        directory=backend.directory,
        parks=config.park_after_s(name) is not None,
        memory_mib=None if model.memory is None else -(-model.memory // (len(model.devices or ()) or 1)),
    )


def _keys_of(api: SecretStr | None, admin: SecretStr | None) -> Keys:
    return Keys(
        api=None if api is None else api.get_secret_value(),
        admin=None if admin is None else admin.get_secret_value(),
    )


def path(launching: Mapping[str, Launch], name: str) -> str | None:
    """The model's files; None where its server has them by itself."""
    launch = launching.get(name)
    return None if launch is None else launch.request.path


def entry(config: Config, name: str) -> Entry:
    """The model as clients see it."""
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


def gate(config: Config, *, is_private: bool, before: Gate | None = None) -> Gate:
    """Who may ask. `is_private`: only this machine can reach the router."""
    known, _ = keys.read(config, os.environ)
    return Gate(
        known,
        is_private=is_private,
        own_hosts=(socket.gethostname(), config.host),
        allowed_hosts=config.allowed_hosts,
        cors_origins=config.cors_origins,
        before=before,
    )


def preferences(config: Config) -> Preferences:
    """What clients get who don't say what they want."""
    return Preferences(
        status=None if config.status == "auto" else Mode(config.status),
        performance={"always": True, "never": False}.get(config.performance_line),
    )


def models(config: Config) -> dict[str, Model]:
    """For the relay, by each of their names."""
    found: dict[str, Model] = {}
    for name, model in config.models.items():
        changes = model.parameters
        parameters = Parameters(defaults=changes.defaults, overrides=changes.overrides, removals=changes.removals)
        relayed = Model(
            name=name,
            parameters=parameters if changes.defaults or changes.overrides or changes.removals else None,
            request_class=model.request_class,
            chats=not config.is_helper(name),
        )
        found.update(dict.fromkeys((name, *model.aliases), relayed))
    return found
