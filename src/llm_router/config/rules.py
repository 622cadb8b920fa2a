"""What several keys must agree on. Works on plain data, so that it also speaks up when some values have wrong types.

Counterpart: `schema`, which knows each key by itself. Nothing here looks at files.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

Key = tuple[str | int, ...]
Data = Mapping[str, object]

_YES = ("true", "yes", "on", "y", "t", "1")  # what pydantic takes for true

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 -- compared with, not bound to

KEY_SOURCES = ("key", "file", "credential")
STARTS = ("path", "command", "script", "service", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """`key`: where it is; `message`: what is wrong; `remedy`: what to write instead."""

    key: Key
    message: str
    remedy: str


def dotted(key: Key) -> str:
    """A key as it is shown: `models.qwen.aliases[0]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def conflicts(data: Data) -> Iterator[Mistake]:
    """Everything that is wrong between keys. Parts with a wrong type are passed over: the schema reports those."""
    yield from _reachable_host(data)
    yield from _sources_of_keys(data)
    models = data.get("models")
    if not isinstance(models, Mapping):
        return
    if not models:
        yield Mistake(
            key=("models",),
            message="there are no models",
            remedy='add one, as in {"models": {"qwen": {"backend": "llamacpp", "path": "/models/qwen.gguf"}}}',
        )
    named = {str(name): model for name, model in models.items() if isinstance(model, Mapping)}
    yield from _doubled_names(named)
    for name, model in named.items():
        yield from _way_to_start(name, model)
    yield from _unknown_ports(data, named)
    yield from _taken_ports(data, named)
    yield from _routes_to_itself(data, named)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable_host(data: Data) -> Iterator[Mistake]:
    host = data.get("host", "127.0.0.1")
    consent = str(data.get("allow_insecure")).lower() in _YES
    keys = data.get("keys")
    if (
        not isinstance(host, str | int | float)
        or is_loopback(str(host))
        or consent
        or (isinstance(keys, Mapping) and keys)
    ):
        return
    yield Mistake(
        key=("host",),
        message=f'cannot listen on "{host}": other machines could use and unload the models without a key',
        remedy='add "keys" (`llm-router keys new NAME` makes one), or write "127.0.0.1", or accept the risk with '
        '"allow_insecure": true',
    )


def _sources_of_keys(data: Data) -> Iterator[Mistake]:
    keys = data.get("keys")
    for name, section in keys.items() if isinstance(keys, Mapping) else ():
        said = [way for way in KEY_SOURCES if isinstance(section, Mapping) and section.get(way) is not None]
        if isinstance(section, Mapping) and len(said) != 1:
            yield Mistake(
                key=("keys", str(name), *said[1:2]),
                message="it must be said once what the key is" if said else "it isn't said what the key is",
                remedy="write one of " + ", ".join(f'"{way}"' for way in KEY_SOURCES),
            )


def _doubled_names(models: Mapping[str, Data]) -> Iterator[Mistake]:
    owners = {name: name for name in models}
    for name, model in models.items():
        aliases = model.get("aliases")
        for index, alias in enumerate(aliases if isinstance(aliases, list | tuple) else ()):
            owner = owners.setdefault(str(alias), name)
            if owner != name:
                yield Mistake(
                    key=("models", name, "aliases", index),
                    message=f'"{alias}" already means the model "{owner}"',
                    remedy="give each model its own names",
                )


def _way_to_start(name: str, model: Data) -> Iterator[Mistake]:
    ways = [way for way in STARTS if model.get(way) is not None]
    if not ways:
        yield Mistake(
            key=("models", name),
            message="it doesn't say how the model starts",
            remedy="add one of " + ", ".join(f'"{way}"' for way in STARTS),
        )
    elif len(ways) > 1 and ways != ["script", "service"]:
        yield Mistake(
            key=("models", name, ways[1]),
            message="there are several ways to start it: " + ", ".join(f'"{way}"' for way in ways),
            remedy='keep one; only "service" and "script" go together',
        )


def _unknown_ports(data: Data, models: Mapping[str, Data]) -> Iterator[Mistake]:
    """A unit with a script is told its port; one that runs its own command isn't."""
    backends = data.get("backends")
    for name, model in models.items():
        if model.get("service") is None or model.get("script") is not None or model.get("port") is not None:
            continue
        section = backends.get(str(model.get("backend"))) if isinstance(backends, Mapping) else None
        if not isinstance(section, Mapping) or section.get("port") is None:
            yield Mistake(
                key=("models", name, "service"),
                message="it isn't said on which port the unit's server listens",
                remedy='add "port" to the model, or to its backend',
            )


def _taken_ports(data: Data, models: Mapping[str, Data]) -> Iterator[Mistake]:
    own = str(data.get("router_port", 8002))
    backends = data.get("backends")
    named = backends if isinstance(backends, Mapping) else {}
    keyed: list[tuple[Key, object]] = [(("backends", str(kind), "port"), section) for kind, section in named.items()]
    keyed += [(("models", name, "port"), model) for name, model in models.items()]
    for key, section in keyed:
        if isinstance(section, Mapping) and str(section.get("port")) == own:
            yield Mistake(
                key=key, message=f"the router itself listens on port {own}", remedy="choose another port here"
            )


def _routes_to_itself(data: Data, models: Mapping[str, Data]) -> Iterator[Mistake]:
    """Such a request would be asked of the router again and again, until its queue is full."""
    endpoints = data.get("endpoints")
    listed = endpoints if isinstance(endpoints, Mapping) else {}
    keyed: list[tuple[Key, object]] = [(("endpoints", str(name), "url"), section) for name, section in listed.items()]
    keyed += [(("models", name, "url"), model) for name, model in models.items()]
    for key, section in keyed:
        url = section.get("url") if isinstance(section, Mapping) else None
        if any(_is_own(data, one) for one in (url if isinstance(url, list) else [url])):
            yield Mistake(
                key=key, message="the router itself listens there", remedy="write the address of another server"
            )


def _is_own(data: Data, url: object) -> bool:
    try:
        parts = urlsplit(str(url))
        port = parts.port
    except ValueError:
        return False
    own = str(data.get("host", "127.0.0.1"))
    is_local = is_loopback(own) or own in _EVERYWHERE
    hosts = {own, "127.0.0.1", "localhost"} if is_local else {own}
    return parts.hostname in hosts and str(port) == str(data.get("router_port", 8002))
