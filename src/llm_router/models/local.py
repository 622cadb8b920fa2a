"""Finds GGUF models that are already on this machine, and says what each is good for. Reads headers only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_router.models import header
from llm_router.models.header import Header, NotGguf

Use = Literal["chat", "completion", "embedding", "rerank"]

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})$")
_EMBEDDING_FAMILIES = ("bert", "t5encoder", "gemma-embedding")
_RANK = 4  # pooling types: 0 none, 1 mean, 2 first token, 3 last token, 4 rank


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """`path`: the file, or the first shard. `size_bytes`: of all shards. `use` "completion": a base model without a
    chat template. `title`: the name the file gives itself."""

    path: Path
    name: str
    title: str
    use: Use
    size_bytes: int


def folders() -> list[Path]:
    """Where people keep GGUF files: $LLM_ROUTER_MODELS, ~/models, the Hugging Face cache, LM Studio's folder."""
    home = Path.home()
    hub = Path(os.environ.get("HF_HOME") or home / ".cache" / "huggingface") / "hub"
    chosen = os.environ.get("LLM_ROUTER_MODELS")
    return [
        *([Path(chosen)] if chosen else []),
        home / "models",
        Path(os.environ.get("HF_HUB_CACHE") or hub),
        home / ".lmstudio" / "models",
    ]


def find(places: Iterable[Path], *, largest_bytes: int | None = None) -> list[LocalModel]:
    """Models in and below `places`, smallest first. Left out: what isn't a whole model by itself (projectors, adapters,
    later shards, vocabularies) and, with `largest_bytes`, what is larger. Files that can't be read are passed over."""
    found: dict[Path, LocalModel] = {}
    for path in _gguf_files(places):
        real = path.resolve()
        model = None if real in found else _judge(path)
        if model is not None and (largest_bytes is None or model.size_bytes <= largest_bytes):
            found[real] = model
    return sorted(found.values(), key=lambda model: (model.size_bytes, model.name))


def _gguf_files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for folder, _, names in os.walk(place):
            yield from (Path(folder, name) for name in sorted(names) if name.endswith(".gguf"))


def _judge(path: Path) -> LocalModel | None:
    shard = _SHARD.match(path.stem)
    if shard is not None and int(shard[2]) != 1:
        return None
    try:
        described = header.read(path)
        size_bytes = _size(path, shard)
    except (OSError, NotGguf):
        return None
    if not _is_whole_model(path, described):
        return None
    stem = shard[1] if shard is not None else path.stem
    return LocalModel(
        path=path,
        name=re.sub(r"[^a-z0-9._-]+", "-", stem.lower()),
        title=str(described.fields.get("general.name") or stem),
        use=_use(described),
        size_bytes=size_bytes,
    )


def _size(path: Path, shard: re.Match[str] | None) -> int:
    if shard is None:
        return path.stat().st_size
    parts = (path.with_name(f"{shard[1]}-{number:05}-of-{shard[3]}.gguf") for number in range(1, int(shard[3]) + 1))
    return sum(part.stat().st_size for part in parts)  # a missing shard is an OSError: the model can't be loaded


def _is_whole_model(path: Path, described: Header) -> bool:
    return (
        described.tensors > 0
        and described.architecture not in ("", "clip")
        and described.fields.get("general.type", "model") == "model"
        and not described.fields.get("split.no", 0)
        and "mmproj" not in path.name.lower()
    )


def _use(described: Header) -> Use:
    pooling = described.of_architecture("pooling_type")
    if pooling == _RANK:
        return "rerank"
    if pooling or any(family in described.architecture for family in _EMBEDDING_FAMILIES):
        return "embedding"
    return "chat" if "tokenizer.chat_template" in described.fields else "completion"
