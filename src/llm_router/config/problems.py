"""Mistakes as people see them: file, line, key, what is wrong, what to write instead.

Counterparts: `load` collects them; `schema` and `rules` find most of them. Translates pydantic's errors, so that
nobody else sees its wording.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from llm_router.config.rules import Key, Mistake
from llm_router.config.schema import (
    BackendConfig,
    Config,
    EndpointConfig,
    GroupConfig,
    KeyConfig,
    ModelConfig,
    Parameters,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`line` counts from 1; 0: the file as a whole. `key`: dotted path, empty for the whole file. `fatal` False:
    everything else still works."""

    file: Path
    line: int
    key: str
    message: str
    remedy: str
    fatal: bool = True

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "file": str(self.file),
            "line": self.line,
            "key": self.key,
            "message": self.message,
            "remedy": self.remedy,
            "fatal": self.fatal,
        }

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{where}: {self.key + ': ' if self.key else ''}{self.message}: {self.remedy}"


def unknown_backend(key: Key, kind: str, kinds: Iterable[str]) -> Mistake:
    """A backend kind that isn't installed."""
    known = sorted(kinds)
    return Mistake(key=key, message=f'there is no backend "{kind}"', remedy=_instead(kind, known))


def from_validation(error: ValidationError) -> Iterator[Mistake]:
    """What the schema refused. Conflicts between keys come as one mistake without a key: `rules` has each of them."""
    for detail in error.errors(include_url=False):
        yield _translated(detail["loc"], detail["type"], detail["msg"], detail["input"], detail.get("ctx", {}))


def _translated(key: Key, kind: str, text: str, value: object, context: dict[str, Any]) -> Mistake:
    match kind:
        case "conflict":
            return Mistake(key=(), message="some values don't go together", remedy=text)
        case "extra_forbidden":
            return Mistake(key=key, message="there is no such key", remedy=_instead(str(key[-1]), _keys_at(key[:-1])))
        case "missing":
            return Mistake(key=key, message="it is missing", remedy=_MISSING.get(str(key[-1]), "add it"))
        case "value_error":
            message, _, remedy = str(context["error"]).partition(": ")
            return Mistake(key=key, message=message, remedy=remedy)
        case "literal_error":
            options = context["expected"].replace("'", '"')
            return Mistake(
                key=key, message=f"{_shown(key, value)} is not one of the choices", remedy=f"write {options}"
            )
        case "greater_than_equal" | "less_than_equal":
            limit = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
            return Mistake(key=key, message=f"{_shown(key, value)} is out of range", remedy=f"write {limit}")
        case "string_pattern_mismatch":
            message, remedy = _PATTERNS[str(key[-1])]
            return Mistake(key=key, message=f"{_shown(key, value)} is not {message}", remedy=remedy)
    expected = _EXPECTED.get(kind)
    if expected is not None:
        message, remedy = expected
        return Mistake(key=key, message=f"{_shown(key, value)} is not {message}", remedy=remedy)
    return Mistake(key=key, message=f"{_shown(key, value)} can't be used", remedy=text[:1].lower() + text[1:])


_MISSING = {
    "models": 'add "models": {"NAME": {"backend": "llamacpp", "path": "/models/FILE.gguf"}}',
    "together": 'add "together": "never" or "allowed"',
    "backend": 'add "backend": "llamacpp", or whichever server runs this model',
}
_WHOLE_NUMBER = ("a whole number", "write one without quotes or decimals, as in 8002")
_YES_OR_NO = ("true or false", "write true or false")
_TEXT = ("text", 'write it in quotes, as in "text"')
_SECTION = ("a section", 'write keys and values in braces, as in {"key": "value"}')
_LIST = ("a list", 'write it in brackets, as in ["one", "two"]')
_EXPECTED = {
    "int_parsing": _WHOLE_NUMBER,
    "int_type": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "bool_parsing": _YES_OR_NO,
    "bool_type": _YES_OR_NO,
    "string_type": _TEXT,
    "path_type": _TEXT,
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "tuple_type": _LIST,
}
_PATTERNS = {
    "ready_path": ("a path", 'start it with "/", as in "/health"'),
}


def _keys_at(key: Key) -> list[str]:
    section: type[BaseModel]
    match key:
        case ("models", _):
            section = ModelConfig
        case ("models", _, "parameters"):
            section = Parameters
        case ("backends", _):
            section = BackendConfig
        case ("endpoints", _):
            section = EndpointConfig
        case ("keys", _):
            section = KeyConfig
        case ("groups", _):
            section = GroupConfig
        case _:
            section = Config
    return sorted(section.model_fields)


def _instead(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f'did you mean "{close[0]}"?' if close else "remove it, or use one of " + ", ".join(known)


def _shown(key: Key, value: object) -> str:
    """The value as JSON, short; never a key's."""
    if not {"api_key", "admin_key", "key", "keys"}.isdisjoint(key):
        return "this"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
