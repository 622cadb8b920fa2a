"""Expands `${ENV_VAR}` in a configuration's strings. Counterpart: `load`, which reads the file."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llm_router.config.rules import Key, Mistake

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Known only when a model starts; the backend fills them in.
_LATER = frozenset({"PORT", "HOST", "MODEL"})
_LATER_KEYS = frozenset({"command", "args", "env", "url"})


def expand(data: object, variables: Mapping[str, str], mistakes: list[Mistake], key: Key = ()) -> object:
    """`data` with every `${NAME}` replaced; unset names are left in place and added to `mistakes`."""
    match data:
        case str():
            return _expand_text(data, variables, mistakes, key)
        case Mapping():
            return {name: expand(value, variables, mistakes, (*key, name)) for name, value in data.items()}
        case list():
            return [expand(value, variables, mistakes, (*key, index)) for index, value in enumerate(data)]
        case _:
            return data


def _expand_text(text: str, variables: Mapping[str, str], mistakes: list[Mistake], key: Key) -> str:
    def value_of(reference: re.Match[str]) -> str:
        name = reference[1]
        if name in _LATER and not _LATER_KEYS.isdisjoint(key):
            return reference[0]
        if name not in variables:
            mistakes.append(
                Mistake(
                    key=key,
                    message=f"the environment variable {name} is not set",
                    remedy=f"set {name} for the router, or write the value here",
                )
            )
        return variables.get(name, reference[0])

    return _REFERENCE.sub(value_of, text)
