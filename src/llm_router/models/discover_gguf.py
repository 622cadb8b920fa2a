"""Judges the GGUF files of one folder: which are models, which belong to one, and which are of no use, and why.

Counterparts: `header` and `gguf_inventory`, which read them; `projectors`, which finds a model's eyes and ears. Reads
headers only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_router.models import about, discover_names, gguf_inventory
from llm_router.models.discovered import Found, Haul, Use
from llm_router.models.gguf_inventory import Inventory
from llm_router.models.header import Header, NotGguf

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})$")
_EMBEDDING_FAMILIES = ("bert", "t5encoder", "gemma-embedding")
_MOST_SHARDS = 1000
_RANK = 4  # pooling types: 0 none, 1 mean, 2 first token, 3 last token, 4 rank
_DRAFTS = ("mtp-", "dspark-", "dflash-")  # llama.cpp's own words (common/preset.cpp, b11434)
# What ComfyUI and stable-diffusion.cpp keep in such files.
_PICTURES = frozenset({
    "flux", "sd1", "sdxl", "sd3", "qwen_image", "wan", "hidream", "ltxv", "cosmos", "lumina2", "hyvid", "aura",
})  # fmt: skip
_PARTS = {
    "adapter": "a LoRA adapter, no model: give it to the model it was made for, with `--lora` in its `args`",
    "imatrix": "an importance matrix, for quantising",
    "vocab": "a vocabulary without weights",
}


# How llama.cpp's own downloads are called: OWNER_REPOSITORY_FILE.
_FLAT = re.compile(r"(?P<owner>[^_]+)_(?P<name>.+-GGUF)_(?P<stem>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """One model's file, or all its shards. `files`: the first one first. `stem`: its name without shard and ending.
    `repository`: its hub id, where its name has that in it. `missing_bytes`, `parameters`: of all of them."""

    files: tuple[Path, ...]
    stem: str
    repository: str
    header: Header
    parameters: int
    missing_bytes: int
    size_bytes: int

    @property
    def path(self) -> Path:
        return self.files[0]

    @property
    def width(self) -> int | None:
        found = self.header.of_architecture("embedding_length")
        return found if isinstance(found, int) else None

    @property
    def is_projector(self) -> bool:
        return (
            self.header.architecture == "clip"
            or self.header.fields.get("general.type") == "mmproj"
            or "mmproj" in self.path.name.lower()
        )


def read_all(folder: Path, files: Mapping[str, int], haul: Haul) -> list[Gguf]:
    """Every GGUF in the folder that can be read; the others go to `haul` with the reason. `files`: names and sizes."""
    groups = _grouped(name for name in files if name.lower().endswith(".gguf"))
    return read_files([tuple(folder / name for name in names) for names in groups], files, haul)


def read_files(groups: Iterable[tuple[Path, ...]], sizes: Mapping[str, int], haul: Haul) -> list[Gguf]:
    """The same for files of any name. `groups`: the shards of each, in their order; `sizes`: by name."""
    found = []
    for paths in groups:
        lacking = _lacking(paths)
        if lacking:
            haul.leave(paths[0], lacking)
            continue
        try:
            parts = [gguf_inventory.read(path) for path in paths]
        except NotGguf as error:
            reason = f"it is damaged, or not downloaded to its end: {error}" if sizes[paths[0].name] else "it is empty"
            haul.leave(paths[0], reason)
        except OSError as error:
            haul.leave(paths[0], f"it can't be read: {error.strerror}")
        else:
            found.append(_whole(paths, parts, sum(sizes[path.name] for path in paths)))
    return found


def unfit(gguf: Gguf) -> str | None:
    """Why it is no model to be served; None: it is one."""
    kind = str(gguf.header.fields.get("general.type", "model"))
    name = gguf.path.name.lower()
    if kind in _PARTS:
        return _PARTS[kind]
    if gguf.header.tensors == 0 or kind == "vocab":
        return _PARTS["vocab"]
    if gguf.missing_bytes:
        there = 100 * gguf.size_bytes // (gguf.size_bytes + gguf.missing_bytes)
        return f"its end is missing: {there}% of it is there; download it again"
    if name.startswith(_DRAFTS):
        return "a draft model, for speculation together with the model it lies beside"
    if gguf.header.architecture in _PICTURES:
        return f'it makes pictures ("{gguf.header.architecture}"), and no backend here does'
    if not gguf.header.architecture or kind != "model":
        return f'no language model: it calls itself "{kind}"' if kind != "model" else "it doesn't say what it is"
    return None


def found(gguf: Gguf, *, repository: str, owner: str, projector: Gguf | None) -> Found:
    """The model in the search's words. `repository`: its hub id, "" without one. `owner`: the folder it lies in."""
    stem, said = discover_names.split(gguf.stem)
    fields = gguf.header.fields
    template = str(fields.get("tokenizer.chat_template", ""))
    quantisation = said.upper() or about.read(gguf.path).quantisation
    context = gguf.header.of_architecture("context_length")
    origin = repository or gguf.repository
    publisher, _, repository_name = origin.rpartition("/")
    title, family = (str(fields.get(f"general.{key}", "")) for key in ("name", "basename"))
    speaking = (stem, repository_name, title, family, owner)
    return Found(
        names=discover_names.candidates(*speaking, quantisation=quantisation, owner=publisher or owner),
        path=gguf.path,
        title=title or stem,
        origin=origin,
        format="GGUF",
        quantisation=quantisation,
        use=use(gguf.header),
        abilities=(*_senses(projector), *abilities(template)),
        size_bytes=gguf.size_bytes,
        parameters=gguf.parameters,
        context_length=context if isinstance(context, int) and context > 0 else None,
        backends=("llamacpp",),
        args=("--mmproj", str(projector.path)) if projector else (),
    )


def use(header: Header) -> Use:
    pooling = header.of_architecture("pooling_type")
    if pooling == _RANK:
        return "rerank"
    if pooling or any(family in header.architecture for family in _EMBEDDING_FAMILIES):
        return "embedding"
    return "chat" if "tokenizer.chat_template" in header.fields else "completion"


def abilities(template: str) -> tuple[str, ...]:
    """What a chat template shows that the model was made for."""
    shown = about.About(template=template)
    return (*(("tools",) if shown.takes_tools else ()), *(("reasoning",) if shown.thinks else ()))


def _senses(projector: Gguf | None) -> tuple[str, ...]:
    if projector is None:
        return ()
    hears = bool(projector.header.fields.get("clip.has_audio_encoder", False))
    sees = bool(projector.header.fields.get("clip.has_vision_encoder", not hears))
    return (*(("vision",) if sees else ()), *(("audio",) if hears else ()))


def _grouped(names: Iterable[str]) -> list[list[str]]:
    """Shards of one model together, in their order."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        shard = SHARD.match(Path(name).stem)
        groups.setdefault((shard["stem"], shard["count"]) if shard else (name, ""), []).append(name)
    return list(groups.values())


def _lacking(paths: tuple[Path, ...]) -> str | None:
    shard = SHARD.match(paths[0].stem)
    if shard is None:
        return None
    there = {int(part["number"]) for path in paths if (part := SHARD.match(path.stem))}
    count = int(shard["count"])
    gone = [number for number in range(1, min(count, _MOST_SHARDS) + 1) if number not in there]
    if not gone:
        return None
    listed = ", ".join(map(str, gone[:5])) + (", …" if len(gone) > 5 else "")
    return f"part {listed} of {count} is missing" if len(gone) == 1 else f"parts {listed} of {count} are missing"


def _whole(paths: tuple[Path, ...], parts: list[Inventory], size_bytes: int) -> Gguf:
    shard = SHARD.match(paths[0].stem)
    stem = shard["stem"] if shard else paths[0].stem
    flat = _FLAT.fullmatch(stem)
    return Gguf(
        files=paths,
        stem=flat["stem"] if flat else stem,
        repository=f"{flat['owner']}/{flat['name']}" if flat else "",
        header=parts[0].header,
        parameters=sum(part.parameters for part in parts),
        missing_bytes=sum(part.missing_bytes for part in parts),
        size_bytes=size_bytes,
    )
