"""Makes models of ours of what endpoints elsewhere have, in every part that knows models, and takes them away again.

Counterpart: `runtime.endpoints`, which finds them.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from llm_router.api.catalog import Catalog, Entry
from llm_router.backends.base import Backend, LaunchRequest
from llm_router.config import guess
from llm_router.config.schema import Config
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.relay.request import Model
from llm_router.runtime.endpoints import Endpoint, RemoteModel
from llm_router.runtime.instances import Launch
from llm_router.runtime.supervisor import Supervisor


def endpoints(config: Config, backend: Backend) -> list[Endpoint]:
    """How each endpoint is asked. Raises: LaunchError for a URL that isn't one."""
    return [_endpoint(config, name, backend) for name in config.endpoints]


def _endpoint(config: Config, name: str, backend: Backend) -> Endpoint:
    section = config.endpoints[name]
    spec = backend.launch(_request(config, name, model=name, served=name), "")
    return Endpoint(
        name=name,
        addresses=(spec.address, *spec.alternatives),
        call=spec.facts[0].call,
        prefix=section.prefix,
        patterns=section.models,
    )


def _request(config: Config, endpoint: str, *, model: str, served: str) -> LaunchRequest:
    section = config.endpoints[endpoint]
    key = section.api_key
    return LaunchRequest(
        model=model,
        port=0,
        url=section.url[0],
        urls=section.url,
        model_name=served,
        api_key=None if key is None else key.get_secret_value(),
    )


class Merging:
    """`launches`, `relayed`: shared with the runtime and the relay, which see every change."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        *,
        specs: dict[str, ModelSpec],
        launches: MutableMapping[str, Launch],
        relayed: MutableMapping[str, Model],
        catalog: Catalog,
        supervisor: Supervisor,
    ) -> None:
        self._config = config
        self._backend = backend
        self._specs = specs
        self._launches = launches
        self._relayed = relayed
        self._catalog = catalog
        self._supervisor = supervisor
        self._names: set[str] = set()

    def is_taken(self, name: str) -> bool:
        """Whether a configured model has this name."""
        return self._config.canonical(name) is not None

    def configure(
        self, config: Config, specs: dict[str, ModelSpec], policy: PolicySpec, models: Sequence[RemoteModel]
    ) -> None:
        """Another configuration, whose own models `launches`, `relayed` and `catalog` have already; `models`: what is
        known of its endpoints."""
        self._config, self._specs = config, specs
        self._names.clear()
        self.apply(models, policy)

    def apply(self, models: Sequence[RemoteModel], policy: PolicySpec | None = None) -> None:
        """These, and the configured ones, are the models from now on. What is gone finishes its open requests.
        `policy`: None: as before."""
        names = {model.name for model in models}
        for gone in self._names - names:
            del self._relayed[gone]  # its launch stays: an instance of it may still be leaving
        launches = {model.name: self._launch(model) for model in models}
        self._launches.update(launches)
        remote = {
            name: ModelSpec(name=name, footprint_mib=0, launch_key=launch.key) for name, launch in launches.items()
        }
        self._supervisor.change_models({**self._specs, **remote}, policy)
        self._relayed.update({name: Model(name=name) for name in names})
        self._catalog.merge([_entry(model) for model in models])
        self._names = names

    def _launch(self, model: RemoteModel) -> Launch:
        return Launch(
            backend=self._backend,
            request=_request(self._config, model.endpoint, model=model.name, served=model.id),
            fixed_port=None,
            load_timeout_s=self._config.model_load_timeout,
        )


def _entry(model: RemoteModel) -> Entry:
    capability = guess.capability(model.id)
    return Entry(
        name=model.name,
        backend="openai",
        title=model.name,
        description=None,
        aliases=(),
        capabilities=() if capability is None else (capability,),
        context_length=model.context_length,
        hidden=False,
    )
