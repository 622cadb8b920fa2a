"""Paths in a configuration: made absolute, and looked up. Counterpart: `load`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_router.config.rules import Mistake
from llm_router.config.schema import Config, ModelConfig

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def absolute(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`data` with `~` and relative paths in it resolved from `folder`, the configuration file's."""
    found = dict(data)
    for section, keys in (("models", ("path", "script")), ("backends", ("binary", "directory")), ("keys", ("file",))):
        if isinstance(found.get(section), Mapping):
            found[section] = {name: _resolved(value, keys, folder) for name, value in found[section].items()}
    return found


def _resolved(section: object, keys: tuple[str, ...], folder: Path) -> object:
    if not isinstance(section, Mapping):
        return section
    changed = {key: _resolved_path(section[key], folder) for key in keys if isinstance(section.get(key), str)}
    return {**section, **changed}


def _resolved_path(text: str, folder: Path) -> str:
    try:
        path = folder / Path(text).expanduser()
    except RuntimeError:  # ~SOMEBODY whom nobody knows: a path that doesn't exist
        return text
    if path.exists():
        return str(path)
    # A bare name is found through PATH, and OWNER/NAME may be a hub id: both are left to whoever uses them.
    return text if "/" not in text or _is_hub_id(text) else str(path)


def _is_hub_id(text: str) -> bool:
    return _HUB_ID.fullmatch(text) is not None and not text.endswith(".gguf") and not text.startswith(".")


def text_in(folder: str | None, name: str) -> str:
    """What a file of a server's own folder says; empty where there is none that can be read."""
    try:
        return "" if folder is None else (Path(folder) / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def missing(config: Config) -> Iterator[Mistake]:
    """Files that the models need and that can't be used. None of it stops the other models."""
    for kind, backend in config.backends.items():
        if backend.binary is not None and shutil.which(backend.binary) is None:
            yield Mistake(
                key=("backends", kind, "binary"),
                message=f'there is no executable "{backend.binary}"',
                remedy="install it, or write the full path of one",
            )
        if backend.directory is not None and not Path(backend.directory).is_dir():
            yield Mistake(
                key=("backends", kind, "directory"),
                message=f"there is no folder {backend.directory}",
                remedy="write the path of the folder that the server runs in",
            )
    for name, model in config.models.items():
        yield from _missing_for(name, model)


def _missing_for(name: str, model: ModelConfig) -> Iterator[Mistake]:
    if model.script is not None:
        yield from _script(name, Path(model.script))
    if model.path is not None and not _is_hub_id(model.path) and not os.access(model.path, os.R_OK):
        seen = "can't be read" if Path(model.path).exists() else "doesn't exist"
        remedy = (
            "let the router's user read it" if seen == "can't be read" else "write the path of a model file or folder"
        )
        yield Mistake(key=("models", name, "path"), message=f"{model.path} {seen}", remedy=remedy)
    if model.command and "$" not in model.command[0] and shutil.which(model.command[0]) is None:
        yield Mistake(
            key=("models", name, "command"),
            message=f'there is no executable "{model.command[0]}"',
            remedy="install it, or write the full path of one",
        )


def _script(name: str, script: Path) -> Iterator[Mistake]:
    key = ("models", name, "script")
    if not script.is_file():
        yield Mistake(key=key, message=f"{script} doesn't exist", remedy="write the path of an executable script")
    elif not os.access(script, os.X_OK):
        yield Mistake(key=key, message=f"{script} isn't executable", remedy=f"run `chmod +x {script}`")
