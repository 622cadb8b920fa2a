"""What an import says about itself: what is different now, and what is lost. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`key`: in the other tool's file; "" for the whole of it. "changed": it has a counterpart that behaves otherwise;
    "dropped": it has none; "attention": what was made of it doesn't work by itself."""

    key: str
    kind: Literal["changed", "dropped", "attention"]
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.key + ': ' if self.key else ''}{self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """`data`: a configuration."""

    data: dict[str, Any]
    notes: tuple[Note, ...]


@dataclass(slots=True)
class Notes:
    all: list[Note] = field(default_factory=list)

    def changed(self, key: str, message: str) -> None:
        self.all.append(Note(key=key, kind="changed", message=message))

    def dropped(self, key: str, message: str) -> None:
        self.all.append(Note(key=key, kind="dropped", message=message))

    def attention(self, key: str, message: str) -> None:
        self.all.append(Note(key=key, kind="attention", message=message))

    def summary(self) -> str:
        return "; ".join(f"{note.key}: {note.message}" for note in self.all if note.kind != "changed")
