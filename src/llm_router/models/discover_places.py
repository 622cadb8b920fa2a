"""Where models usually are on a machine: the folders of the programs that download them. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def well_known(environment: Mapping[str, str], home: Path) -> list[Path]:
    """Each once, whether or not it exists. A program's own variable goes before its usual folder: it looks nowhere
    else then."""
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(environment.get("HF_HOME") or cache / "huggingface") / "hub"
    chosen = environment.get("LLM_ROUTER_MODELS")
    ollama = environment.get("OLLAMA_MODELS")
    places = [
        *([Path(chosen)] if chosen else []),
        home / "models",
        Path("/models"),
        Path("/opt/models"),
        Path(environment.get("HF_HUB_CACHE") or hub),
        home / ".lmstudio" / "models",
        home / ".cache" / "lm-studio" / "models",
        Path(environment.get("LLAMA_CACHE") or cache / "llama.cpp"),
        *([Path(ollama)] if ollama else [home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]),
    ]
    return list(dict.fromkeys(place.expanduser() for place in places))
