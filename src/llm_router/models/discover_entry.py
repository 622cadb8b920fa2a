"""A found model as an entry of a configuration, and what it will take in memory. Returns plain data.

Counterparts: `discover`, which finds it; `footprint`, which reckons.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from llm_router.models import footprint
from llm_router.models.discovered import Found

_BILLION, _MILLION = 10**9, 10**6


def context_of(model: Found, wanted: int) -> int | None:
    """Tokens: as wanted, but never more than it was trained for. None for models that embed or rank: their window is
    their own, and small."""
    if model.use in ("embedding", "rerank"):
        return None
    return min(wanted, model.context_length) if model.context_length else wanted


def memory_mib(model: Found, wanted: int, *, gpu: bool) -> int | None:
    """What it will take with that context: of GPU memory, or all. None: its files don't say."""
    return footprint.estimate(model.path, context_length=context_of(model, wanted), args=model.args, gpu=gpu)


def backend_of(model: Found, usable: Collection[str]) -> str:
    """The first choice among those that are `usable` here, else the first choice."""
    return next((kind for kind in model.backends if kind in usable), model.backends[0])


def entry(model: Found, *, backend: str, context: int, aliases: Collection[str] = ()) -> dict[str, Any]:
    """`context`: as wanted, in tokens. `aliases`: further names, such as its hub id."""
    length = context_of(model, context)
    found: dict[str, Any] = {"backend": backend, "path": str(model.path)}
    if aliases:
        found["aliases"] = list(aliases)
    found["description"] = description(model)
    if length is not None:
        found["context_length"] = length
    if model.args:
        found["args"] = list(model.args)
    if model.defaults:
        found["parameters"] = {"defaults": dict(model.defaults)}
    found["capabilities"] = [model.use, *model.abilities]
    return found


def description(model: Found) -> str:
    """One line, for listings."""
    parameters = shown_parameters(model.parameters)
    parts = [
        f"{parameters} parameters" if parameters else "",
        model.quantisation or model.format,
        f"{model.size_bytes / _BILLION:.1f} GB" if model.size_bytes >= 50 * _MILLION else "",
        f"from {model.origin}" if model.origin else "",
    ]
    return ", ".join(part for part in parts if part)


def shown_parameters(count: int | None) -> str:
    """`8.2B`, `270M`; nothing for None, nor for fewer than any real model has."""
    if count is None or count < 0.1 * _MILLION:
        return ""
    if count >= 0.95 * _BILLION:
        return f"{count / _BILLION:.1f}B" if count < 99.5 * _BILLION else f"{count / _BILLION:.0f}B"
    return f"{count / _MILLION:.0f}M" if count >= 10 * _MILLION else f"{count / _MILLION:.1f}M"
