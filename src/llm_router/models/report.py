"""How long work in this room tells what it is doing."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    def __call__(self, message: str, fraction: float | None = None) -> None:
        """`message`: what is being done now. `fraction`: how much of it is done, 0.0–1.0; None: nobody knows."""
        ...
