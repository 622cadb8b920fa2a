"""What all backends have in common: the forms of starting that need no knowledge of the server.

Counterpart: each backend's module, which adds what it knows: its paths, its environment, how it stops. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from urllib.parse import urlsplit

from llm_router.backends.base import (
    Address,
    Facts,
    HttpCall,
    Inquiry,
    LaunchRequest,
    LaunchSpec,
    Parking,
    Readiness,
    Signal,
    StopPlan,
    no_signal,
)
from llm_router.errors import LaunchError

HOST = "127.0.0.1"

_GENTLE = StopPlan()

_PLACEHOLDER = re.compile(r"\$\{(PORT|MODEL|HOST)\}")
_PYTHON = re.compile(r"python[\d.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Where to ask a ready server, by GET, and who reads the answer."""

    path: str
    read: Callable[[bytes], Facts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How one kind of server behaves, however it was started.

    `ready_path`: answers 200 when a server we started is ready; `remote_ready_path`: the same at a `url`. `older_path`,
    `remote_older_path`: for builds that answer 404 there. `ready_needs_key`: the polls of one we started need the key.
    `env`: for each start of ours; the model's own wins. `parking`: of one we started. `facts`: what to ask it once it
    is ready. `last_words`: as in `LaunchSpec`.
    """

    ready_path: str
    older_path: str | None = None
    remote_ready_path: str = "/v1/models"
    remote_older_path: str | None = None
    ready_needs_key: bool = False
    stop: StopPlan = _GENTLE
    read_line: Callable[[str], Signal | None] = no_signal
    env: Mapping[str, str] = field(default_factory=dict)
    parking: Parking | None = None
    facts: tuple[Asked, ...] = ()
    last_words: tuple[str, ...] = ()


def server_name(request: LaunchRequest) -> str:
    """The name the server knows the model by, and what `${MODEL}` stands for."""
    return request.model_name or request.model


def plain_launch(request: LaunchRequest, habits: Habits, *, served_name: str | None) -> LaunchSpec:
    """Start by `url`, `command`, `script` or `service`. Raises: LaunchError for what can't be started that way."""
    if request.url is not None:
        return _remote(request, request.url, habits, served_name)
    if request.command is not None:
        return started(request, (*request.command, *request.args), habits, served_name=served_name)
    if request.service is not None:
        argv = () if request.script is None else (request.script,)
        return replace(started(request, argv, habits, served_name=served_name), service=request.service)
    if request.script is not None:
        return started(request, (request.script, *request.args), habits, served_name=served_name)
    raise LaunchError(
        f'cannot start {request.model}: its backend has no command line for a "path"; use "command", "script" or "url"'
    )


def started(request: LaunchRequest, argv: tuple[str, ...], habits: Habits, *, served_name: str | None) -> LaunchSpec:
    """A process of ours on the loopback port of the request. `${PORT}`, `${MODEL}`, `${HOST}` are filled in."""
    names = {"PORT": str(request.port), "MODEL": server_name(request), "HOST": HOST}
    return LaunchSpec(
        argv=tuple(_PLACEHOLDER.sub(lambda match: names[match[1]], item) for item in argv),
        address=Address(host=HOST, port=request.port),
        env={**names, **habits.env, **device_variables(request), **request.env},
        directory=request.directory,
        readiness=Readiness(
            path=request.ready_path or habits.ready_path,
            older_path=None if request.ready_path else habits.older_path,
            headers=bearer(request.api_key) if habits.ready_needs_key else (),
            read_line=habits.read_line,
        ),
        parking=habits.parking,
        facts=_inquiries(request, habits),
        stop=habits.stop,
        secrets=_secrets(request),
        served_name=served_name,
        credential=request.api_key,
        last_words=habits.last_words,
    )


def _remote(request: LaunchRequest, url: str, habits: Habits, served_name: str | None) -> LaunchSpec:
    first, *others = dict.fromkeys(parse_url(request.model, one) for one in (url, *request.urls))
    return LaunchSpec(
        argv=(),
        address=first,
        alternatives=tuple(others),
        readiness=Readiness(
            path=request.ready_path or habits.remote_ready_path,
            older_path=None if request.ready_path else habits.remote_older_path,
            headers=bearer(request.api_key),
        ),
        facts=_inquiries(request, habits),
        stop=habits.stop,
        secrets=_secrets(request),
        served_name=served_name,
        credential=request.api_key,
        last_words=habits.last_words,
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


def bearer(key: str | None) -> tuple[tuple[str, str], ...]:
    """The header that carries a key; none without one."""
    return (("Authorization", f"Bearer {key}"),) if key else ()


def device_variables(request: LaunchRequest) -> dict[str, str]:
    """CUDA numbers GPUs by speed unless told to use the bus order, which nvidia-smi and the configuration show."""
    if request.devices is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(request.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def option(request: LaunchRequest, name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE` on the command line that the user wrote, the last one if there are
    several, "" where the value is missing; None: it isn't there. Underscores count as hyphens, as in vLLM."""
    found = None
    items = (*(request.command or ()), *request.args)
    for index, item in enumerate(items):
        flag, _, value = item.partition("=")
        if flag.replace("_", "-") == name:
            found = value if "=" in item else "".join(items[index + 1 : index + 2])
    return found


def fraction(value: str | None) -> float | None:
    """A share of a device, above 0 and at most 1; None for anything else."""
    try:
        share = float(value or "")
    except ValueError:
        return None
    return share if 0.0 < share <= 1.0 else None


def is_python(binary: str) -> bool:
    """Whether a configured executable is an interpreter, so that the server is started as its module."""
    return _PYTHON.fullmatch(PurePath(binary).name) is not None


def _inquiries(request: LaunchRequest, habits: Habits) -> tuple[Inquiry, ...]:
    headers = bearer(request.api_key)
    return tuple(
        Inquiry(call=HttpCall(method="GET", path=one.path, headers=headers), read=one.read) for one in habits.facts
    )


def _secrets(request: LaunchRequest) -> tuple[str, ...]:
    return tuple(key for key in dict.fromkeys((request.api_key, request.admin_key)) if key)
