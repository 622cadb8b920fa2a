"""Reads Ollama's store: manifests that name blobs, of which one is the model, a plain GGUF file.

Counterpart: `discover_gguf`, which judges that file. Layout after Ollama's manifests and types of
layers (server/manifest.go, server/images.go, August 2026).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_router.models import discover_gguf
from llm_router.models.discovered import Found, Haul

_MEDIA = "application/vnd.ollama.image."
_USUAL_HOST, _USUAL_OWNER, _USUAL_TAG = "registry.ollama.ai", "library", "latest"
_LARGEST = 1024**2
# Ollama's names of request parameters that OpenAI's bodies have too, or llama-server takes besides.
_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}


def is_store(folders: tuple[str, ...]) -> bool:
    return "manifests" in folders and "blobs" in folders


def search(store: Path, haul: Haul) -> None:
    """Every model of the store, by the name Ollama gives it."""
    blobs = store / "blobs"
    try:
        names = sorted(entry.name for entry in os.scandir(blobs))
    except OSError as error:
        haul.leave(blobs, f"it can't be looked into: {error.strerror}")
        return
    for name in names:
        if name.endswith("-partial"):
            haul.leave(blobs / name, "a download of Ollama's that isn't finished; `ollama pull` goes on with it")
    for manifest, name in _manifests(store / "manifests"):
        _judge(manifest, name, blobs, haul)


def _manifests(folder: Path) -> Iterator[tuple[Path, str]]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(place, file)
            parts = path.relative_to(folder).parts
            if len(parts) >= 4:
                yield path, _name(parts)


def _name(parts: tuple[str, ...]) -> str:
    """As Ollama shows it: what is usual isn't said, apart from the tag where it says something."""
    host, *middle, model, tag = parts
    owner = "/".join(middle)
    shown = model if owner == _USUAL_OWNER else f"{owner}/{model}"
    shown = shown if host == _USUAL_HOST else f"{host}/{owner}/{model}"
    return shown if tag == _USUAL_TAG else f"{shown}:{tag}"


def _judge(manifest: Path, name: str, blobs: Path, haul: Haul) -> None:
    try:
        layers = _layers(manifest, blobs)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        haul.leave(manifest, "this manifest of Ollama's can't be read")
        return
    model = layers.get("model")
    if model is None:
        reason = "it runs in Ollama's cloud, or in a form only Ollama reads; nothing here can be served"
        haul.leave(manifest, f"{name}: {reason}")
        return
    own = Haul()
    ggufs = _read(model, own)
    if not ggufs:
        haul.left_out += [replace(one, reason=f"{name}: {one.reason}") for one in own.left_out]
        return
    projectors = _read(layers["projector"], own) if "projector" in layers else []
    unfit = discover_gguf.unfit(ggufs[0])
    if unfit is not None:
        haul.leave(model, f"{name}: {unfit}")
        return
    found = discover_gguf.found(ggufs[0], repository="", owner="", projector=next(iter(projectors), None))
    haul.found.append(_with_layers(found, name, layers))


def _read(blob: Path, haul: Haul) -> list[discover_gguf.Gguf]:
    """Its name has no ending, so it is handed over by itself."""
    try:
        size = blob.stat().st_size
    except OSError as error:
        haul.leave(blob, f"it can't be read: {error.strerror}")
        return []
    return discover_gguf.read_files([(blob,)], {blob.name: size}, haul)


def _layers(manifest: Path, blobs: Path) -> dict[str, Path]:
    """The blob of each kind of layer."""
    if manifest.stat().st_size > _LARGEST:
        raise ValueError("too large to be true")
    listed = json.loads(manifest.read_bytes())["layers"]
    return {
        str(layer["mediaType"]).removeprefix(_MEDIA): blobs / str(layer["digest"]).replace(":", "-").replace("/", "-")
        for layer in listed
    }


def _with_layers(found: Found, name: str, layers: Mapping[str, Path]) -> Found:
    notes: list[str] = []
    args = found.args
    if "adapter" in layers:
        args = (*args, "--lora", str(layers["adapter"]))
        notes.append("its adapter needs a llama-server of your own: the built-in one has no --lora")
    if "template" in layers and found.use == "completion":
        notes.append("its chat template is in Ollama's own language; llama.cpp will use a plain one")
    if "system" in layers:
        notes.append("Ollama gives it a system prompt, which isn't taken over")
    return replace(
        found,
        names=(name.rpartition("/")[2].lower(), name.lower().replace("/", "-")),
        origin=name,
        use="chat" if "template" in layers and found.use == "completion" else found.use,
        args=args,
        defaults=_defaults(layers.get("params")),
        notes=(*found.notes, *notes),
    )


def _defaults(params: Path | None) -> dict[str, object]:
    if params is None:
        return {}
    try:
        found: Any = json.loads(params.read_bytes()) if params.stat().st_size <= _LARGEST else {}
    except (OSError, ValueError, RecursionError):
        return {}
    given = found if isinstance(found, dict) else {}
    return {ours: given[theirs] for theirs, ours in _PARAMETERS.items() if theirs in given}
