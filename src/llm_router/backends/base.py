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

    Exactly one of `path`, `command`, `script`, `service`, `url` is set.
    `binary`: the server's executable, from the backend's configuration; None: the backend's own default.
    `ready_path`: overrides the backend's. `model_name`: the name the server knows the model by; None: ours.
    """

    model: str
    port: int
    path: str | None = None
    command: tuple[str, ...] | None = None
    script: str | None = None
    service: str | None = None
    url: str | None = None
    model_name: str | None = None
    binary: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    context_length: int | None = None
    devices: tuple[str, ...] | None = None
    capabilities: tuple[str, ...] = ()
    ready_path: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """A pushed line said how far the load is. `fraction`: 0.0–1.0 of `stage`; None where the line has no number."""

    fraction: float | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A pushed line said that the server answers from now on."""


Signal = Loading | Ready


def no_signal(line: str) -> Signal | None:
    """For servers whose output says nothing about readiness."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """How to learn that a server is ready: the first of a pushed line and a poll of `path` that answers 200.

    `path` None: only lines count. `headers`: sent with each poll.
    """

    path: str | None = "/health"
    headers: tuple[tuple[str, str], ...] = ()
    read_line: Callable[[str], Signal | None] = no_signal


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPlan:
    """TERM to the group; after `grace_s` a second TERM if `second_term` (llama.cpp needs it: engines that wait for
    their HTTP workers exit at once on the second), then after `kill_after_s` more KILL to the group. Seconds.

    `farewell`: a line written to its stdin before the first TERM, for servers that wait for one."""

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
class LaunchSpec:
    """All that is needed to run one instance. `argv` empty: nothing to start (a remote endpoint).

    `served_name`: the name the server insists on in a request's `model`; None: it ignores it.
    `credential`: the server's own key, sent as `Authorization: Bearer`.
    """

    argv: tuple[str, ...]
    address: Address
    env: Mapping[str, str] = field(default_factory=dict)
    readiness: Readiness = Readiness()
    stop: StopPlan = StopPlan()
    served_name: str | None = None
    credential: str | None = None


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
