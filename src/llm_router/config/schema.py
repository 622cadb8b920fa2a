"""What a configuration may say: every key with its type, default and meaning.

The descriptions are the documentation: `reference` makes the JSON schema and the reference page from them. What spans
several keys is in `rules`, reading files in `load`. Nothing here touches the file system, except that paths left open
are the platform's.

Attributes have the names of the keys. Durations are seconds, `memory` is MiB, `max_body` is bytes, `url` a tuple.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, JsonValue, PrivateAttr, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from llm_router.config import groups, guess, rules
from llm_router.config.values import Arguments, Bytes, IdleTime, Memory, Mib, Port, Seconds, Urls

Capability = Literal[
    "chat", "completion", "embedding", "rerank", "vision", "audio", "speech", "image", "tools", "reasoning"
]
StatusMode = Literal["auto", "content", "event", "reasoning", "comment", "off"]
PerformanceLine = Literal["auto", "always", "never"]
RequestClass = Literal["interactive", "normal", "background"]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        coerce_numbers_to_str=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class Parameters(_Section):
    """Changes to request bodies on their way to the model."""

    defaults: dict[str, JsonValue] = {}
    """Set where the request doesn't."""
    overrides: dict[str, JsonValue] = {}
    """Set whatever the request says."""
    removals: tuple[str, ...] = ()
    """Taken out of every request."""


class BackendConfig(_Section):
    """What all models of one backend have in common."""

    port: Port | None = None
    """Port of the inference server, for models that set none themselves. Without it the router picks a free one where
    it builds the command line itself."""
    binary: str | None = None
    """The server's executable: a path, or a name found through PATH. Without it the backend's own default."""
    args: Arguments = ()
    """Added to the command line of every model with a `path`, before the model's own `args`."""
    env: dict[str, str] = {}
    """Environment variables for every model of this backend."""
    directory: str | None = None
    """Folder the server runs in, such as TabbyAPI's own with its `config.yml`. Without it the router's."""
    api_key: SecretStr | None = None
    """The server's own key, sent to it as `Authorization: Bearer`. Keep it out of the file with `${ENV_VAR}`. Without
    any key for a TabbyAPI, those in the `api_tokens.yml` of its `directory`."""
    admin_key: SecretStr | None = None
    """The server's key for loading and unloading, where it has one of its own, as TabbyAPI does."""


class EndpointConfig(_Section):
    """A server elsewhere that speaks OpenAI and has models of its own: another llm-router, a cloud service. Each model
    it lists can be used here, as long as no model of this file has its name."""

    url: Urls
    """Its base URL. Several in a list are equal: when one can't be reached, the next is used."""
    api_key: SecretStr | None = None
    """Its key, sent to it as `Authorization: Bearer`."""
    prefix: str = ""
    """Put before the names of its models, as in `"lab/"`."""
    models: tuple[str, ...] = ("*",)
    """Which of its models: names with `*` and `?` as in a shell."""


class KeyConfig(_Section):
    """A key that clients send, as `Authorization: Bearer`, `X-Api-Key` or `Api-Key`, and what it opens. Exactly one of
    `key`, `file` and `credential` says what it is; `llm-router keys new NAME` makes one."""

    key: SecretStr | None = None
    """The key itself, as in `"${MY_KEY}"`, or `"sha256:"` and its hash in hexadecimal, which gives nobody the key. At
    least 16 characters."""
    file: str | None = None
    """A file with the key or its hash, and nothing else."""
    credential: str | None = None
    """The name of a systemd credential with the key or its hash: see `LoadCredential=` in systemd.exec(5)."""
    admin: bool = False
    """It opens the management of the router too: loading, unloading, reloading, logs, metrics, `/upstream`."""
    models: tuple[str, ...] = ("*",)
    """The models it opens: names with `*` and `?` as in a shell."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Requests to models in any minute; more get 429. Without it there is no limit."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Requests to models at the same time, running or waiting; more get 429. Without it there is no limit."""


class GroupConfig(_Section):
    """Models that the memory alone doesn't say everything about."""

    models: tuple[str, ...]
    """Who is in it."""
    together: Literal["never", "allowed"]
    """`"never"`: only one of them is loaded at a time. `"allowed"`: they share a device whatever memory they are
    said to need."""


class ModelConfig(_Section):
    """One model: how it starts (exactly one of `path`, `command`, `script`, `service`, `url`) and how it is treated."""

    backend: str
    """Kind of inference server: `llamacpp`, `sglang`, `tabbyapi` (`tabbyapi-exl2` for its branch with that engine),
    `vllm`, or `openai` for anything else that speaks OpenAI's API."""
    path: str | None = None
    """A model file or folder (or a hub id where the server takes one). The router builds the command line, picks a free
    loopback port and supervises the process. Relative paths start at the configuration file's folder."""
    command: Arguments | None = None
    """The whole command line, as a list or as one shell-like string. `${PORT}`, `${HOST}` and `${MODEL}` are filled
    in; there is no shell."""
    script: str | None = None
    """An executable that starts the server and stays in the foreground. With `service`: what the unit runs."""
    service: str | None = None
    """A systemd unit: the router starts and stops it, of its user's own manager if that has one of this name, else of
    the machine's. Without a `script` it runs what its file says, and `port` here or of the backend says where."""
    url: Urls | None = None
    """Base URL of a server that runs elsewhere; the router starts and stops nothing. Several in a list are equal: when
    one can't be reached, the next is used."""
    model_name: str | None = None
    """The name the server itself knows the model by, where it isn't the one here."""
    aliases: tuple[str, ...] = ()
    """Further names a client may use."""
    name: str | None = None
    """Name shown to people in listings."""
    description: str | None = None
    """One line shown in listings."""
    port: Port | None = None
    """Port the server listens on; without it the backend's."""
    env: dict[str, str] = {}
    """Environment variables for the process, added to the router's own and to the backend's."""
    args: Arguments = ()
    """Added to the command line that the router builds for a `path`; a list or one shell-like string."""
    context_length: Annotated[int, Field(ge=1)] | None = None
    """Context window in tokens."""
    devices: tuple[str, ...] | None = None
    """Which GPUs, by index or UUID: it uses all of them. An empty list means none, so that it runs on the CPU. Without
    it the one it fits best on, or all where it needs more than one."""
    memory: Mib | None = None
    """Memory the loaded model takes, over all devices it uses together. Without it what was measured in earlier loads,
    else an estimate from its files, else the whole device. Embedding and rerank models count only with it."""
    idle_timeout: IdleTime = None
    """Unload after this long without a request; `"never"` keeps it. Without it the top-level `idle_timeout`."""
    park_after: IdleTime = None
    """Park after this long without a request, earlier than `idle_timeout`: the server gives the GPU back but stays, and
    its model returns faster than it loads. Only for `vllm` and `sglang`, which keep the weights in the host's memory
    meanwhile. `"never"` doesn't. Without it the top-level `park_after`."""
    load_timeout: Seconds | None = None
    """Give up on a load after this long; without it `model_load_timeout`."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Requests at the same time; more wait in the router. Without it there is no limit."""
    priority: int = 0
    """Among models with waiting requests the higher one goes first."""
    request_class: RequestClass | None = None
    """How urgent its requests are where they don't say it themselves with the header `X-LLM-Router-Class`. Without it
    streaming chats are `interactive`, since somebody watches them, and the rest `normal`."""
    pinned: bool = False
    """Never unload it to make room for another model."""
    preload: bool = False
    """Load it when the router starts."""
    ready_path: Annotated[str, Field(pattern="^/")] | None = None
    """Path that answers 200 as soon as the server is ready; the default is the backend's."""
    parameters: Parameters = Parameters()
    """Changes to request bodies: `defaults`, `overrides`, `removals`."""
    capabilities: tuple[Capability, ...] = ()
    """What the model can do. Without it, names that clearly say embedding or rerank are taken at their word."""
    hidden: bool = False
    """Leave it out of the model listing; it can still be used by name."""
    api_key: SecretStr | None = None
    """The server's own key; without it the backend's."""
    admin_key: SecretStr | None = None
    """The server's key for loading and unloading; without it the backend's."""


class Config(_Section):
    """A whole configuration. Only `models` is required."""

    models: dict[str, ModelConfig]
    """The models, by the name clients use."""
    backends: dict[str, BackendConfig] = {}
    """Settings per kind of backend."""
    endpoints: dict[str, EndpointConfig] = {}
    """Servers elsewhere whose models can be used here too, by any name. They are asked for their models at the start
    and every five minutes."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    router_port: Annotated[int, Field(ge=0, le=65535)] = 8002
    """Port to listen on; 0 takes any free one."""
    keys: dict[str, KeyConfig] = {}
    """The keys that clients must have, by any name: it stands in logs. Without any the router asks nobody for one."""
    allow_insecure: bool = False
    """Permit a `host` that other machines can reach without any `keys`: anyone who can reach the port can then use and
    unload the models."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which the router may be asked without a key, beside this machine's own, IP addresses, and names
    without a dot: `"*.lan"`. Others are refused, since a web page could bring the visitor's browser to use them."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may use the router from a browser: `"https://chat.example"`, or `"*"` for all. Without any no page
    may."""
    request_timeout: Seconds = 300.0
    """How long a client may take to send its request."""
    model_load_timeout: Seconds = 180.0
    """Give up on a load after this long."""
    stall_timeout: Seconds = 120.0
    """Give up on a load that shows no progress for this long: no line of output, no growth in memory."""
    memory: Memory | None = None
    """Memory that models may use: of each GPU (without any: of the host), or of each device by its name, GPUs by number
    and the host `cpu`; `"0GiB"` takes a device out. Without it all that the hardware has, less `memory_reserve`.
    `"exclusive"`: one model at a time, whatever would fit."""
    memory_reserve: Mib | None = None
    """What models leave free of each device that `memory` doesn't name. Without it 512 MiB of a GPU, and of the host a
    tenth, at most 2 GiB."""
    groups: dict[str, GroupConfig] = {}
    """Models that may or must not be loaded together, by the name of the group."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Requests at the same time over all models; more wait in the router. Without it there is no limit."""
    min_residency: Seconds = 0.0
    """How long a model stays once it is ready, even when it is idle and another waits for its place."""
    patience: Seconds = 10.0
    """How long a busy model keeps its turn, at least, while another model's request waits. An expensive switch should
    pay, so it is four times the longer of the two loads where that is more, up to `longest_turn`."""
    longest_turn: Seconds = 60.0
    """The most that the cost of a switch may make of `patience`. 0 leaves it at `patience`."""
    drain_timeout: Seconds = 120.0
    """How long open requests may run on once their model has to leave."""
    queue_limit: Annotated[int, Field(ge=1)] = 256
    """Requests waiting at the same time, over all models; one more is refused."""
    idle_timeout: IdleTime = None
    """Unload a model after this long without a request. Without it models stay until another needs the room."""
    park_after: IdleTime = None
    """Park models after this long without a request, those whose server can be parked. Without it none is."""
    response_timeout: Seconds = 600.0
    """Give up on a server that has sent no byte for this long."""
    max_body: Annotated[Bytes, Field(validate_default=False)] = 64 * 1024**2
    """Largest request body."""
    status: StatusMode = "auto"
    """How a streaming client is told about a load: as text (`content`), as Open-WebUI's status line (`event`), as
    reasoning, as SSE comments, not at all, or by what the client is (`auto`). The header `X-LLM-Router-Status` decides
    for one request."""
    performance_line: PerformanceLine = "auto"
    """Whether a chat reply ends with its speed; `auto` means for people, not for programs."""
    tracing: bool = False
    """Send a trace of each request and each load to an OpenTelemetry collector, by OTLP over HTTP. Needs
    `pip install 'llm-router[otel]'`; where to, `OTEL_EXPORTER_OTLP_ENDPOINT` and the other `OTEL_` variables of the
    environment say."""
    on_exit: Literal["stop", "leave"] = "stop"
    """What happens to loaded models when the router ends. `leave` keeps them running, and the next start adopts
    them."""
    state_dir: Path | None = None
    """Folder for logs, history and the list of running servers. Without it the one that systemd assigns, or the user's
    state folder; of a configuration in `/etc/llm-router` it is `/var/lib/llm-router`, where that is there."""

    _canonical: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _has_no_conflicts(self) -> Config:
        mistakes = self._conflicts()
        if mistakes:
            text = "; ".join(f"{rules.dotted(m.key)}: {m.message}: {m.remedy}" for m in mistakes)
            raise PydanticCustomError("conflict", "{text}", {"text": text})
        for name, model in self.models.items():
            self._canonical.update(dict.fromkeys((name, *model.aliases), name))
        return self

    def _conflicts(self) -> list[rules.Mistake]:
        plain = self.model_dump(exclude_unset=True)
        return [*rules.conflicts(plain), *groups.conflicts(plain)]

    def canonical(self, name: str) -> str | None:
        """The model that `name` (a name or an alias) means; None: no such model."""
        return self._canonical.get(name)

    def backend_config(self, kind: str) -> BackendConfig:
        """What is set for all models of one backend; all defaults if nothing is."""
        return self.backends.get(kind, _NOTHING_SET)

    def fixed_port(self, name: str) -> int | None:
        """The port the model's server always has; None: a free one is chosen for each start. A server that we build the
        command line for is told its port; one from a script knows it already."""
        model = self.models[name]
        if model.port is not None:
            return model.port
        is_told_once = model.script is not None or model.service is not None
        return self.backend_config(model.backend).port if is_told_once else None

    def load_timeout_s(self, name: str) -> float:
        """Limit for one load of the model, in seconds."""
        own = self.models[name].load_timeout
        return self.model_load_timeout if own is None else own

    def idle_timeout_s(self, name: str) -> float | None:
        """Seconds without a request after which the model is unloaded; None: never."""
        own = self.models[name].idle_timeout
        effective = self.idle_timeout if own is None else own
        return None if effective is None or math.isinf(effective) else effective

    def park_after_s(self, name: str) -> float | None:
        """Seconds without a request after which the model is parked; None: never. What is said for all models holds for
        those that can be."""
        model = self.models[name]
        own = model.park_after
        can_be_parked = model.url is None and model.backend not in UNPARKABLE
        effective = own if own is not None else self.park_after if can_be_parked else None
        return None if effective is None or math.isinf(effective) else effective

    def capabilities_of(self, name: str) -> tuple[Capability, ...]:
        """What the model can do: as configured, else as its names clearly say; empty: nothing known."""
        model = self.models[name]
        if model.capabilities:
            return model.capabilities
        guessed = guess.capability(name, model.model_name, model.path)
        return () if guessed is None else (guessed,)

    def is_helper(self, name: str) -> bool:
        """Whether the model lives beside the chat model instead of taking its place: it only embeds or reranks."""
        capabilities = self.capabilities_of(name)
        return bool(capabilities) and set(capabilities) <= {"embedding", "rerank"}

    def lives_beside(self, name: str) -> bool:
        """Whether the model takes no device's room: a helper without a declared size, or a server elsewhere."""
        model = self.models[name]
        return model.memory is None and (model.url is not None or self.is_helper(name))

    @property
    def state_folder(self) -> Path:
        """Where state goes: as configured, else what systemd assigned to the service, else the user's state folder."""
        assigned = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
        return self.state_dir or (Path(assigned) if assigned else platformdirs.user_state_path("llm-router"))


_NOTHING_SET = BackendConfig()

# Those of this package whose servers can't give their memory back while they stay, at least not when they are told to.
UNPARKABLE = ("llamacpp", "openai", "tabbyapi", "tabbyapi-exl2")
