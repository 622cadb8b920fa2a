"""What a model's names say about it, where they are unmistakable. Used only where the configuration is silent."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal

_RERANK = re.compile(r"rerank|(?<![a-z0-9])colbert", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|minilm|(?<![a-z0-9])(?:bge|gte|e5)(?![a-z0-9])", re.IGNORECASE)


def capability(*names: str | None) -> Literal["rerank", "embedding"] | None:
    """`names`: the model's names and its path, of which only the last part counts. None: they say nothing."""
    words = [PurePosixPath(name).name for name in names if name]
    if any(_RERANK.search(word) for word in words):
        return "rerank"
    if any(_EMBEDDING.search(word) for word in words):
        return "embedding"
    return None
