"""A cache that holds nothing but its size."""

from __future__ import annotations

from typing import Any


class CacheLayer_quant:  # noqa: N801 - its name there
    pass


class Cache:
    def __init__(self, model: Any, max_num_tokens: int = 0, **_: Any) -> None:
        self.max_num_tokens = max_num_tokens
