"""Values of a llama-swap configuration, read with its own tolerance. Counterpart: `llama_swap`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_router.config.llama_swap_macros import later, now
from llm_router.config.llama_swap_notes import Notes

Data = Mapping[str, Any]


def section(value: object) -> Data:
    return value if isinstance(value, Mapping) else {}


def texts(value: object) -> list[str]:
    return [str(one) for one in value if one is not None] if isinstance(value, list) else []


def number(data: Data, key: str, notes: Notes, *, under: str = "") -> int | None:
    """None where it isn't given, or is no number."""
    value = data.get(key)
    text = now(str(value)) if value is not None else ""
    if text.removeprefix("-").isdecimal():
        return int(text)
    if value is not None:
        notes.dropped(f"{under}{key}", f'"{text}" is no whole number')
    return None


def flag(data: Data, key: str) -> bool:
    return now(str(data.get(key, False))).lower() == "true"


def anywhere(value: Any) -> Any:
    """With references to the environment as ours, in every text."""
    match value:
        case str():
            return later(value)
        case Mapping():
            return {str(key): anywhere(one) for key, one in value.items()}
        case list():
            return [anywhere(one) for one in value]
        case _:
            return value


def filters(found: Data, key: str, notes: Notes, *, model: str = "") -> dict[str, Any]:
    """As `parameters`. The name of the model is never touched, there as here. `model`: whose they are."""
    overrides = {name: anywhere(value) for name, value in section(found.get("setParams")).items() if name != "model"}
    defaults: dict[str, Any] = {}
    by_name = {str(name): section(params) for name, params in section(found.get("setParamsByID")).items()}
    own = {name: anywhere(value) for name, value in by_name.pop(model, {}).items() if name != "model"}
    if by_name:
        defaults = own
        notes.changed(
            f"{key}.setParamsByID",
            "one set of parameters for all names of a model: those of its own name are defaults now, and the other "
            f"names ({', '.join(by_name)}) are aliases without parameters of their own",
        )
    else:
        overrides |= own
    stripped = now(str(found.get("stripParams") or found.get("strip_params") or ""))
    names = dict.fromkeys(name.strip() for name in stripped.split(","))
    removals = [name for name in names if name and name != "model" and name not in overrides]
    parts = {"defaults": defaults, "overrides": overrides, "removals": removals}
    return {name: part for name, part in parts.items() if part}
