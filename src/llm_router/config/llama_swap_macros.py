"""Fills in the macros of a llama-swap configuration, in its order and by its rules. Pure, apart from the environment.

Counterpart: `llama_swap`, which understands the rest. After llama-swap's internal/config/macros.go, August 2026: a
macro may use those defined before it, a model's own win over the global ones, and a text that is nothing but a macro
takes the macro's type. References to the environment, `${env.NAME}`, are left in place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llm_router.config.rules import dotted
from llm_router.errors import ConfigError

_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_-]+)\}")
_ENVIRONMENT = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_OURS = ("PORT", "HOST", "MODEL")  # these mean something else in a configuration of ours
PORT = "${PORT}"
_USUAL_PROXY = "http://localhost:${PORT}"
_FIRST_PORT = 5800
# Where a port of our choosing can be filled in, and where none is needed.
_KNOWS_PORT = ("cmd", "cmdStop", "proxy", "metadata", "name", "description")

Data = Mapping[str, Any]


def resolved(raw: Data) -> dict[str, Any]:
    """`raw` without macros. `${PORT}` is left in a model's `cmd` and `proxy`, unless the model needs the number
    elsewhere too: then it gets the one that llama-swap would give it.

    Raises: ConfigError for a macro that nobody defined.
    """
    shared = _defined(raw.get("macros"))
    found = {key: _filled(value, shared) for key, value in raw.items() if key not in ("macros", "models")}
    first = found.get("startPort")
    port = first if isinstance(first, int) else _FIRST_PORT
    models = raw.get("models")
    sections = {now(str(name)): model for name, model in models.items()} if isinstance(models, Mapping) else {}
    ready: dict[str, Any] = {}
    for name in sorted(sections):
        ready[name] = _model(name, sections[name], shared)
        if isinstance(ready[name], dict) and PORT in str(ready[name].get("cmd", "")):
            ready[name] = _with_port(ready[name], port)
            port += 1
    found["models"] = {name: ready[name] for name in sections}
    for key, text in _unknown(found):
        raise ConfigError(f'cannot import {dotted(key)}: nobody defines "{text}"; add it to "macros" there')
    return found


def now(text: str) -> str:
    """With what the environment says today. Raises: ConfigError for a variable that isn't set."""

    def value(reference: re.Match[str]) -> str:
        if reference[1] not in os.environ:
            raise ConfigError(f"cannot import: the environment variable {reference[1]} is not set; set it, as there")
        return os.environ[reference[1]]

    return _ENVIRONMENT.sub(value, text)


def later(text: str) -> str:
    """As a configuration of ours refers to the environment, so that secrets stay out of the file."""
    return _ENVIRONMENT.sub(lambda found: now(found[0]) if found[1] in _OURS else f"${{{found[1]}}}", text)


def without_comments(command: str) -> str:
    return "\n".join(line for line in command.split("\n") if not line.strip().startswith("#"))


def _model(name: str, section: object, shared: Data) -> object:
    if not isinstance(section, Mapping):
        return section
    own = {key: value for key, value in section.items() if key != "macros"}
    for key in ("cmd", "cmdStop"):
        if isinstance(own.get(key), str):
            own[key] = without_comments(own[key])
    own["proxy"] = own.get("proxy") or _USUAL_PROXY
    # The model's name stands first, so that every other macro may use it.
    return _filled(own, {"MODEL_ID": name, **shared, **_defined(section.get("macros"))}, in_keys=True)


def _defined(macros: object) -> dict[str, Any]:
    return {str(name): value for name, value in macros.items()} if isinstance(macros, Mapping) else {}


def _filled(value: Any, macros: Data, *, in_keys: bool = False) -> Any:
    """The last defined first, because it may use the others."""
    for name in reversed(list(macros)):
        value = _with(value, "${" + name + "}", macros[name], in_keys=in_keys)
    return value


def _with(value: Any, reference: str, meaning: Any, *, in_keys: bool = False) -> Any:
    match value:
        case str() if value == reference:
            return meaning
        case str():
            return value.replace(reference, _shown(meaning))
        case Mapping():
            return {
                str(key).replace(reference, _shown(meaning)) if in_keys else key: _with(
                    one, reference, meaning, in_keys=in_keys
                )
                for key, one in value.items()
            }
        case list():
            return [_with(one, reference, meaning, in_keys=in_keys) for one in value]
        case _:
            return value


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_port(model: dict[str, Any], port: int) -> dict[str, Any]:
    fixed = PORT not in str(model["proxy"])
    elsewhere = any(PORT in str(value) for key, value in model.items() if key not in _KNOWS_PORT)
    if not fixed and not elsewhere:
        return model
    found: dict[str, Any] = _with(model, PORT, port, in_keys=True)
    return found


def _unknown(value: object, key: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    match value:
        case str():
            spared = ("PORT", "PID") if "cmdStop" in key or "metadata" in key else ("PORT",)
            yield from ((key, found[0]) for found in _REFERENCE.finditer(value) if found[1] not in spared)
        case Mapping():
            for name, one in value.items():
                yield from _unknown(one, (*key, str(name)))
        case list():
            for index, one in enumerate(value):
                yield from _unknown(one, (*key, index))
