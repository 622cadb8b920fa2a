"""What a search for models brings: those that can be served, and what was left out and why. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llm_router.errors import LlmRouterError


class DiscoveryFailed(LlmRouterError):
    """A folder that can't be searched, or nothing that could be served anywhere."""

    code = "discovery_failed"


Use = Literal["chat", "completion", "embedding", "rerank"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model that can be served.

    `names`: what it could be called, the shortest first; `name`: which of them it got. `title`: what it calls itself.
    `origin`: its hub id, or the name Ollama gave it; "" for a file that somebody put there. `path`: the file, the first
    shard, or the folder.
    `quantisation`: as people write it, such as "Q4_K_M" or "AWQ"; "" for none. `use` "completion": a base model without
    a chat template. `abilities`: beyond its use: "vision", "audio", "tools", "reasoning". `parameters`: how many;
    None: its files don't say. `context_length`: what it was trained for, in tokens. `backends`: who can serve it, the
    first choice first. `args`: what must follow on their command line. `defaults`: request parameters that came with
    it. `notes`: what people should know.
    """

    names: tuple[str, ...]
    path: Path
    format: str
    quantisation: str
    use: Use
    size_bytes: int
    backends: tuple[str, ...]
    name: str = ""
    title: str = ""
    origin: str = ""
    abilities: tuple[str, ...] = ()
    parameters: int | None = None
    context_length: int | None = None
    args: tuple[str, ...] = ()
    defaults: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something that looks like a model and isn't offered. `reason`: why, and what can be done where something can."""

    path: Path
    reason: str


@dataclass(slots=True)
class Haul:
    """What one part of the search has brought."""

    found: list[Found] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave(self, path: Path, reason: str) -> None:
        self.left_out.append(LeftOut(path=path, reason=reason))

    def add(self, other: Haul) -> None:
        self.found += other.found
        self.left_out += other.left_out
