"""The GGUF models that are already on this machine, for whoever wants a few to begin with.

Counterpart: `discover`, which finds and judges them, and knows much more about each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llm_router.models.discover import discover, named
from llm_router.models.discover_entry import description
from llm_router.models.discover_places import well_known
from llm_router.models.discovered import Use

_LIMIT_S = 15.0  # for each place: somebody waits to see something


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """`path`: the file, or the first shard. `size_bytes`: of all shards. `use` "completion": a base model without a
    chat template. `title`: what it calls itself and what it is, in one line."""

    path: Path
    name: str
    title: str
    use: Use
    size_bytes: int


def folders() -> list[Path]:
    """Where models usually are."""
    return well_known(os.environ, Path.home())


def find(places: Iterable[Path], *, largest_bytes: int | None = None) -> list[LocalModel]:
    """Models in and below `places`, smallest first; with `largest_bytes`, none larger."""
    found = [
        LocalModel(
            path=model.path,
            name=model.name,
            title=f"{model.title}, {description(model)}",
            use=model.use,
            size_bytes=model.size_bytes,
        )
        for model in named(discover(list(places), _silent, limit_s=_LIMIT_S).models)
        if model.format == "GGUF" and (largest_bytes is None or model.size_bytes <= largest_bytes)
    ]
    return sorted(found, key=lambda model: (model.size_bytes, model.name))


def _silent(message: str, fraction: float | None = None) -> None:
    """Nobody is told."""
