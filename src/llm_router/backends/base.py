"""What a backend tells the rest: how its server starts, when it is ready, how it stops.

Counterpart: `launchers`, which owns what runs and knows no backend by name. Everything here is a pure value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One model as configured, resolved for one start. `port`: the loopback port chosen for this start (0 with `url`).

    Exactly one of `path`, `command`, `script`, `service`, `url` is set, but for `script` with `service`: the unit then
    runs that script.
    `urls`: endpoints that are equal to each other, `url` the first of them; empty: only `url`, if that.
    `binary`: the server's executable, from the backend's configuration; None: the backend's own default.
    `directory`: the folder the server runs in; None: the router's own.
    `ready_path`: overrides the backend's. `model_name`: the name the server knows the model by; None: ours.
    `devices`: the GPUs this start may use, as CUDA numbers or UUIDs; None: not our business, () none.
    `memory_mib`: what the model may take of each of these devices, where the configuration says it; `device_mib`: what
    one of them has. `admin_key`: the server's key for loading and unloading, where it has one of its own.
    `parks`: it is to be parked while it is idle, so that its server must be started ready for that.
    """

    model: str
    port: int
    path: str | None = None
    command: tuple[str, ...] | None = None
    script: str | None = None
    service: str | None = None
    url: str | None = None
    urls: tuple[str, ...] = ()
    model_name: str | None = None
    binary: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    context_length: int | None = None
    devices: tuple[str, ...] | None = None
    capabilities: tuple[str, ...] = ()
    ready_path: str | None = None
    api_key: str | None = None
    admin_key: str | None = None
    directory: str | None = None
    memory_mib: int | None = None
    device_mib: int | None = None
    parks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """One request to the server itself, on its own address. `headers` hold its key where it needs one.

    `limit_s`: how long the answer may take, in seconds.
    """

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    limit_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """A pushed line said how far the load is. `fraction`: 0.0–1.0 of `stage`; None where the line has no number."""

    fraction: float | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A pushed line said that the server answers from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The server said that the load failed, though it lives on. `message`: its own words."""

    message: str


Signal = Loading | Ready | Failed


def no_signal(line: str) -> Signal | None:
    """For servers whose output says nothing about readiness."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """How to learn that a server is ready: the first of a pushed line and a poll of `path` that answers 200.

    `path` None: only lines count. `older_path`: asked instead from the moment `path` answers 404, which builds do that
    don't have it yet. `headers`: sent with each poll.
    """

    path: str | None = "/health"
    older_path: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    read_line: Callable[[str], Signal | None] = no_signal


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPlan:
    """TERM to the group; after `grace_s` a second TERM if `second_term` (llama.cpp needs it: engines that wait for
    their HTTP workers exit at once on the second), then after `kill_after_s` more KILL to the group. Seconds.

    `before`: asked of the server first (to give up its running requests), whatever it answers.
    `farewell`: a line written to its stdin before the first TERM, for servers that wait for one."""

    before: HttpCall | None = None
    grace_s: float = 5.0
    second_term: bool = False
    kill_after_s: float = 1.0
    farewell: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an instance answers. `base_path`: what a `url` has before `/v1/…`, without a slash at its end."""

    host: str
    port: int
    tls: bool = False
    base_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a ready server says of itself; None or empty where it doesn't.

    `context_length`: tokens one request may have. `slots`: requests at the same time. `models`: the names it serves
    under. `build`: version or build, for people.
    """

    context_length: int | None = None
    slots: int | None = None
    models: tuple[str, ...] = ()
    build: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A question to a ready server. `read` makes facts of the body of a 200 answer; it never raises: what it can't
    read it leaves out."""

    call: HttpCall
    read: Callable[[bytes], Facts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How a server that runs without a model is given one, and gives it back: TabbyAPI's admin API.

    `shared_key`: servers that are alike enough to serve each other's models have the same one. When a model leaves, its
    server stays without one, and the next model with this key takes it over instead of starting another.
    `readiness` of the spec then means the bare server. `call` loads: each `data:` line of its event stream goes to
    `read_event`, and the end of the stream without `Failed` means ready; a status other than 200 means failed, and
    `read_error` makes people's words of its body. `unload` gives the memory back; `unloaded`: statuses that say so.
    `loaded`: asks which model is there; its `Facts.models` must name `name`, else the model isn't ready.
    """

    shared_key: str
    name: str
    call: HttpCall
    read_event: Callable[[str], Signal | None]
    read_error: Callable[[bytes], str]
    unload: HttpCall
    unloaded: tuple[int, ...]
    loaded: Inquiry


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A question to a server, whether it is parked. `read` answers from the body of a 200; None: it can't be told."""

    call: HttpCall
    read: Callable[[bytes], bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parking:
    """How a server gives its memory back and takes it again while its process stays.

    `park`, `wake`: an answer of 200 means that it did; no request runs meanwhile. How long `wake` may take says who
    asks. `rest`: how to see which of the two it is; None: this server doesn't say. `canary`: a request that only an
    awake server answers with 200, sent after it was woken; None: `rest` is proof enough.
    """

    park: HttpCall
    wake: HttpCall
    rest: Rest | None = None
    canary: HttpCall | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """All that is needed to run one instance. `argv` empty: nothing to start (a remote endpoint).

    `service`: a systemd unit to be started instead of a process; `argv` is then the script that it runs, or empty where
    its own file says what it runs. None: a process of ours.
    `alternatives`: equal endpoints, tried in order when the first doesn't answer.
    `directory`: where it runs; None: the router's own folder.
    `load`: for servers that run without a model and are given one; None: it has its model from the start.
    `parking`: how it is parked; None: it can't be, or wasn't started for it.
    `facts`: asked once when it is ready, in order, and merged: the first that knows something wins.
    `served_name`: the name the server insists on in a request's `model`; None: it ignores it.
    `credential`: the server's own key, sent as `Authorization: Bearer`.
    `wants_usage_asked`: even a reply in one piece has usage only if the request asks for it in `stream_options`.
    `last_words`: texts in an error of its that mean that its engine is dead and it is about to end, so that a request
    which it answers with them before the first token is one to be asked again.
    `secrets`: texts that must not be shown when the command line or the output is.
    """

    argv: tuple[str, ...]
    address: Address
    service: str | None = None
    alternatives: tuple[Address, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None
    readiness: Readiness = Readiness()
    load: Load | None = None
    parking: Parking | None = None
    facts: tuple[Inquiry, ...] = ()
    stop: StopPlan = StopPlan()
    secrets: tuple[str, ...] = ()
    served_name: str | None = None
    credential: str | None = None
    wants_usage_asked: bool = False
    last_words: tuple[str, ...] = ()


class Backend(Protocol):
    """One kind of inference server. Implementations are stateless and registered under `kind` in the
    entry-point group `llm_router.backends`."""

    kind: str

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        """A command whose output `launch` wants to see (a server's `--help`), or None. Run once per executable."""
        ...

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        """The command line and behaviour for one start. Raises: LaunchError where it can't."""
        ...

    def claim(self, request: LaunchRequest) -> float | None:
        """The share of each device's memory (0.0–1.0) that the server takes whatever the size of its model, as vLLM and
        SGLang do; None: as much as the model needs."""
        ...
