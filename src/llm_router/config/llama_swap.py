"""Turns a configuration of llama-swap into one of ours that behaves as it did, and says what is different or lost.

Counterparts: `llama_swap_macros` and `llama_swap_groups` for two of its parts, `llama_swap_model` for one model.
After llama-swap's config.example.yaml and internal/config, August 2026. Reads and writes no file; the environment only
where a value is needed now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_router.config import llama_swap_groups as groups
from llm_router.config.llama_swap_macros import later, now, resolved
from llm_router.config.llama_swap_model import convert as convert_model
from llm_router.config.llama_swap_notes import Imported, Notes
from llm_router.config.llama_swap_values import filters, number, section, texts
from llm_router.config.text import BadSyntax, parse
from llm_router.errors import ConfigError

_SHORTEST_LOAD_S = 15
# Keys without a counterpart, and why nothing is lost, or what is.
_DROPPED = {
    "logLevel": "the router logs one line for each change",
    "logTimeFormat": "the time format of the log is fixed",
    "logToStdout": "servers' output is shown by `llm-router logs MODEL`",
    "logRequests": "requests aren't logged",
    "store": "the router keeps its history in its state folder by itself",
    "metricsMaxInMemory": "the router keeps its history in its state folder by itself",
    "captureBuffer": "requests aren't captured",
    "ui": "there is no such page",
    "performance": "devices are read when something is decided",
    "startPort": "each start gets a free port",
    "unloadTimeout": "each kind of server is given the time it needs",
    "includeAliasesInList": "the listing has one entry for each model",
    "upstream": "every request to /upstream/MODEL/… counts as one for the model",
    "profiles": "write the names as `aliases` of the models they should mean",
    "matrix": None, "groups": None, "routing": None, "models": None, "macros": None, "hooks": None, "peers": None,
    "selectors": None, "apiKeys": None, "healthCheckTimeout": None, "globalTTL": None, "sendLoadingState": None,
}  # fmt: skip

Data = Mapping[str, Any]


def convert(text: str, source: Path, *, one_line: bool = False) -> Imported:
    """`source`: where `text` comes from, for messages. `one_line`: commands without line breaks, for JSON.

    Raises: ConfigError for what llama-swap would refuse too.
    """
    try:
        raw = parse(text, source.with_suffix(".yaml")).data
    except BadSyntax as error:
        raise ConfigError(f"cannot import {source}: line {error.line}: {error.message}: {error.remedy}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("models") or raw.get("peers"), Mapping):
        raise ConfigError(f'cannot import {source}: it has no "models"; name a configuration file of llama-swap')
    data = resolved(raw)
    notes = Notes()
    models = {
        name: converted
        for name, model in data["models"].items()
        if (converted := convert_model(name, section(model), data, notes, one_line=one_line)) is not None
    }
    found: dict[str, Any] = {}
    _top_level(data, found, notes)
    _preload(data, models, notes)
    _priorities(data, models)
    _together(data, models, found, notes)
    endpoints = _peers(section(data.get("peers")), models, notes)
    _selectors(section(data.get("selectors")), models, notes)
    if not models:
        raise ConfigError(f"cannot import {source}: none of its models can be used here; {notes.summary()}")
    return Imported(
        data={**found, **({"endpoints": endpoints} if endpoints else {}), "models": models}, notes=tuple(notes.all)
    )


def _top_level(data: Data, found: dict[str, Any], notes: Notes) -> None:
    timeout = number(data, "healthCheckTimeout", notes)
    if timeout is not None:
        found["model_load_timeout"] = max(timeout, _SHORTEST_LOAD_S)
    idle = number(data, "globalTTL", notes)
    if idle:
        found["idle_timeout"] = idle
    if data.get("sendLoadingState"):
        notes.changed("sendLoadingState", 'how a load is shown depends on the client; "status": "reasoning" is its way')
    keys = {f"llama-swap-{number}": {"key": _key(text)} for number, text in enumerate(texts(data.get("apiKeys")), 1)}
    if keys:
        found["keys"] = keys
        notes.changed(
            "apiKeys",
            'they open the models; `"admin": true` lets one load, unload and read logs too. Those written out there '
            "are hashes here; those from the environment need 16 characters",
        )
    for key in data:
        why = _DROPPED.get(key, "llama-swap doesn't know this key either")
        if why is not None:
            notes.dropped(key, why)
    notes.changed(
        "", "llama-swap listens on all addresses at port 8080 unless told otherwise, the router on 127.0.0.1:8002"
    )


def _key(text: str) -> str:
    """A reference stays one; of a key that is written out, the hash is enough."""
    reference = later(text)
    return reference if reference != text else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _preload(data: Data, models: dict[str, dict[str, Any]], notes: Notes) -> None:
    for name in texts(section(section(data.get("hooks")).get("on_startup")).get("preload")):
        owner = _owner(name.strip(), models)
        if owner is None:
            notes.dropped("hooks.on_startup.preload", f'there is no model "{name}"')
        else:
            models[owner]["preload"] = True


def _priorities(data: Data, models: dict[str, dict[str, Any]]) -> None:
    scheduler = section(section(data.get("routing")).get("scheduler"))
    for name, priority in section(section(section(scheduler.get("settings")).get("fifo")).get("priority")).items():
        owner = _owner(str(name), models)
        if owner is not None and isinstance(priority, int):
            models[owner]["priority"] = priority


def _owner(name: str, models: Mapping[str, Data]) -> str | None:
    if name in models:
        return name
    return next((model for model, entry in models.items() if name in entry.get("aliases", ())), None)


# -- who may be loaded together


def _together(data: Data, models: dict[str, dict[str, Any]], found: dict[str, Any], notes: Notes) -> None:
    router = section(section(data.get("routing")).get("router"))
    settings = section(router.get("settings"))
    matrix = data.get("matrix") or (settings.get("matrix") if router.get("use") == "matrix" else None)
    own = [name for name, model in models.items() if "url" not in model]
    if isinstance(matrix, Mapping):
        named: list[groups.Group] = []
        pairs = groups.pairs_of_matrix(matrix, own)
        if matrix.get("evict_costs"):
            notes.changed("matrix.evict_costs", "what it costs to lose a model is learned from its loads")
    else:
        named = groups.read(section(data.get("groups") or settings.get("groups")), own)
        pairs = groups.pairs_of_groups(named)
        _pin(named, models, notes)
    if not pairs:
        found["memory"] = "exclusive"
        notes.changed("groups", 'one model at a time, as before; without "memory": "exclusive" those that fit share it')
        return
    found["groups"] = groups.groups(own, pairs, named)
    notes.changed(
        "groups", 'who may be loaded together is said for every two models; remove "never" groups to let memory decide'
    )


def _pin(named: Sequence[groups.Group], models: dict[str, dict[str, Any]], notes: Notes) -> None:
    for group in named:
        if not group.persistent:
            continue
        if group.swap and len(group.members) > 1:
            notes.dropped(
                f"groups.{group.name}.persistent", "its members replace each other, so none of them can be pinned"
            )
            continue
        for member in group.members:
            models[member]["pinned"] = True


# -- names of other things


def _selectors(selectors: Data, models: dict[str, dict[str, Any]], notes: Notes) -> None:
    for name, selector in selectors.items():
        key = f"selectors.{name}"
        targets = [_owner(target, models) for target in texts(section(selector).get("targets"))]
        first = next((target for target in targets if target is not None), None)
        if first is None or _owner(str(name), models) is not None:
            notes.dropped(key, "none of its targets is a model here")
            continue
        models[first].setdefault("aliases", []).append(str(name))
        if section(selector).get("strategy") != "pin":
            notes.changed(key, f'an alias of "{first}", its first target; which of several is ready isn\'t asked')


def _peers(peers: Data, models: dict[str, dict[str, Any]], notes: Notes) -> dict[str, Any]:
    """Endpoints; where requests are changed on their way, each model by itself."""
    found: dict[str, Any] = {}
    for name, peer in peers.items():
        own = section(peer)
        key = f"peers.{name}"
        url = later(str(own.get("proxy", "")))
        access = {"api_key": later(str(own["apiKey"]))} if own.get("apiKey") else {}
        parameters = filters(section(own.get("filters")), f"{key}.filters", notes)
        if own.get("timeouts"):
            notes.dropped(f"{key}.timeouts", 'a connection has 5 s; silence is bounded by "response_timeout"')
        listed = [now(model) for model in texts(own.get("models"))]
        if not parameters:
            found[str(name)] = {"url": url, **access, "prefix": f"{name}/", "models": listed}
            notes.changed(key, f'its models have names such as "{name}/{listed[0] if listed else "x"}", and no shorter')
            continue
        for model in listed:
            models[f"{name}/{model}"] = {
                "backend": "openai", "url": url, **access, "model_name": model, "parameters": parameters
            }  # fmt: skip
    return found
