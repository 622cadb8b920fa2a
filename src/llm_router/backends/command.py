"""What all backends have in common: the forms of starting that need no knowledge of the server.

Counterpart: each backend's module, which adds what it knows: its paths, its environment, how it stops. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from llm_router.backends.base import (
    Address,
    LaunchRequest,
    LaunchSpec,
    Readiness,
    Signal,
    StopPlan,
    no_signal,
)
from llm_router.errors import LaunchError

HOST = "127.0.0.1"

_GENTLE = StopPlan()

_PLACEHOLDER = re.compile(r"\$\{(PORT|MODEL|HOST)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How one kind of server behaves, however it was started.

    `ready_path`: answers 200 when a server we started is ready; `remote_ready_path`: the same at a `url`.
    `ready_needs_key`: the first of them asks for the key too. `env`: for each start of ours; the model's own wins.
    """

    ready_path: str
    remote_ready_path: str = "/v1/models"
    ready_needs_key: bool = False
    stop: StopPlan = _GENTLE
    read_line: Callable[[str], Signal | None] = no_signal
    env: Mapping[str, str] = field(default_factory=dict)


def server_name(request: LaunchRequest) -> str:
    """The name the server knows the model by, and what `${MODEL}` stands for."""
    return request.model_name or request.model


def plain_launch(request: LaunchRequest, habits: Habits, *, served_name: str | None) -> LaunchSpec:
    """Start by `url`, `command` or `script`. Raises: LaunchError for what can't be started that way."""
    if request.url is not None:
        return _remote(request, request.url, habits, served_name)
    if request.command is not None:
        return started(request, (*request.command, *request.args), habits, served_name=served_name)
    if request.script is not None:
        return started(request, (request.script, *request.args), habits, served_name=served_name)
    if request.service is not None:
        raise LaunchError(
            f'cannot start {request.model}: systemd units are not supported yet; use "script" or "command"'
        )
    raise LaunchError(
        f'cannot start {request.model}: its backend has no command line for a "path"; use "command", "script" or "url"'
    )


def started(request: LaunchRequest, argv: tuple[str, ...], habits: Habits, *, served_name: str | None) -> LaunchSpec:
    """A process of ours on the loopback port of the request. `${PORT}`, `${MODEL}`, `${HOST}` are filled in."""
    names = {"PORT": str(request.port), "MODEL": server_name(request), "HOST": HOST}
    path = request.ready_path or habits.ready_path
    return LaunchSpec(
        argv=tuple(_PLACEHOLDER.sub(lambda match: names[match[1]], item) for item in argv),
        address=Address(host=HOST, port=request.port),
        env={**names, **habits.env, **_devices(request), **request.env},
        readiness=Readiness(
            path=path,
            headers=_key_headers(request) if habits.ready_needs_key else (),
            read_line=habits.read_line,
        ),
        stop=habits.stop,
        served_name=served_name,
        credential=request.api_key,
    )


def _remote(request: LaunchRequest, url: str, habits: Habits, served_name: str | None) -> LaunchSpec:
    return LaunchSpec(
        argv=(),
        address=parse_url(request.model, url),
        readiness=Readiness(path=request.ready_path or habits.remote_ready_path, headers=_key_headers(request)),
        stop=habits.stop,
        served_name=served_name,
        credential=request.api_key,
    )


def parse_url(model: str, url: str) -> Address:
    """A base URL with or without the `/v1` that many programs want at its end. Raises: LaunchError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise LaunchError(f'cannot reach {model} at "{url}": write it as "http://host:port"')
    tls = parts.scheme == "https"
    return Address(
        host=host,
        port=port or (443 if tls else 80),
        tls=tls,
        base_path=parts.path.rstrip("/").removesuffix("/v1"),
    )


def _key_headers(request: LaunchRequest) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {request.api_key}"),) if request.api_key else ()


def _devices(request: LaunchRequest) -> dict[str, str]:
    """CUDA numbers GPUs by speed unless told to use the bus order, which nvidia-smi and the configuration show."""
    if request.devices is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(request.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
