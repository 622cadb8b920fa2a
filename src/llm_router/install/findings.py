"""Finds engines that are on this machine already. Changes nothing. Counterpart: `models.local`, for models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Below a home, /opt and /srv: where the engines' own instructions, and people, put them.
_PLACES = {
    "llamacpp": ("llama.cpp/build/bin/llama-server", "llama.cpp/llama-server", ".local/bin/llama-server"),
    "sglang": ("venvs/sglang/bin/sglang", "sglang/.venv/bin/sglang", "sglang/venv/bin/sglang", "sglang/bin/sglang"),
    "vllm": ("venvs/vllm/bin/vllm", "vllm/.venv/bin/vllm", "vllm/venv/bin/vllm", "vllm/bin/vllm"),
}
_PROGRAMS = {"llamacpp": "llama-server", "sglang": "sglang", "vllm": "vllm"}
_TABBY = ("tabbyAPI", "TabbyAPI", "tabbyapi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """`key`: where the configuration has it, "binary" or "directory" of the backend."""

    backend: str
    key: str
    path: str


def engines(homes: Iterable[Path]) -> list[Engine]:
    """One of each kind: what is on PATH, else the first that is found below `homes`."""
    places = list(homes)
    found = [engine for backend in _PROGRAMS if (engine := _program(backend, places)) is not None]
    return [*found, *_tabby(places)]


def homes() -> list[Path]:
    """Where people keep engines and models: every home that we may look into, /opt and /srv."""
    people = [path for path in _children(Path("/home")) if os.access(path, os.R_OK | os.X_OK)]
    return list(dict.fromkeys((Path.home(), *people, Path("/opt"), Path("/srv"))))


def model_folders(places: Iterable[Path]) -> list[Path]:
    """Folders below `places` that usually hold GGUF files."""
    below = ("models", ".cache/huggingface/hub", ".lmstudio/models", "llama.cpp/models")
    return [folder for place in places for name in below if (folder := place / name).is_dir()] + [
        folder for folder in (Path("/models"), Path("/var/lib/models")) if folder.is_dir()
    ]


def _program(backend: str, places: Iterable[Path]) -> Engine | None:
    on_path = shutil.which(_PROGRAMS[backend])
    candidates = [place / relative for place in places for relative in _PLACES[backend]]
    found = [on_path] if on_path else [str(path) for path in candidates if os.access(path, os.X_OK) and path.is_file()]
    return Engine(backend=backend, key="binary", path=found[0]) if found else None


def _tabby(places: Iterable[Path]) -> Iterator[Engine]:
    for place in places:
        for name in _TABBY:
            if (place / name / "main.py").is_file():
                yield Engine(backend="tabbyapi", key="directory", path=str(place / name))
                return


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []
