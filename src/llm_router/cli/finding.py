"""`llm-router discover`: searches, names, reckons, and hands what is new to a configuration file. Counterpart: `found`,
which shows it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from llm_router.cli.demo import Reporter
from llm_router.cli.found import Row, nothing, print_json, show
from llm_router.cli.options import backend_kinds
from llm_router.cli.show import memory
from llm_router.cli.target import Target
from llm_router.config import Config, ConfigUnreadable, examine, find
from llm_router.hardware.base import CPU
from llm_router.hardware.reading import open_reader
from llm_router.models import discover_entry, discover_places
from llm_router.models.discover import Discovery, discover, named
from llm_router.models.discovered import DiscoveryFailed, Found
from llm_router.models.report import Report

_PROGRAMS = {"sglang": "SGLang", "vllm": "vLLM", "tabbyapi": "TabbyAPI", "tabbyapi-exl2": "TabbyAPI's EXL2 branch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Patterns as in a shell, for a model's name, path or origin. `select` empty: all."""

    select: tuple[str, ...]
    exclude: tuple[str, ...]

    def takes(self, model: Found) -> bool:
        texts = [text.lower() for text in (model.name, *model.names, str(model.path), model.origin) if text]
        return (not self.select or _any(texts, self.select)) and not _any(texts, self.exclude)


def run(
    folders: Sequence[Path], target: Target, choice: Choice, *, context: int, limit_s: float, as_json: bool
) -> None:
    """Raises: DiscoveryFailed where nothing is found; ConfigError where it can't be written."""
    target.check()
    config = target.config() or _usual_config()
    with _progress() as report:
        found = discover(_places(folders), report, limit_s=limit_s)
        rows = list(_rows(found, choice, config, context, report))
    if not found.models:
        raise DiscoveryFailed(nothing(folders, found))
    if not rows:
        raise DiscoveryFailed(
            f"cannot select any of the {len(found.models)} models found; change --select or --exclude"
        )
    entries = {
        row.model.path: discover_entry.entry(row.model, backend=row.backend, context=context, aliases=aliases)
        for row, aliases in _with_aliases(rows, config)
    }
    if not as_json:
        show(rows, found, context=context, has_gpu=_gpus_mib() is not None)
    new = {row.model.name: entries[row.model.path] for row in rows if not row.configured_as}
    outcome = target.put({"models": new}, quiet=as_json)
    if as_json:
        print_json(found, rows, entries, outcome)
    elif outcome is None:
        print("\nTo use them: llm-router discover --write config/router_config.json", file=sys.stderr)


def _places(folders: Sequence[Path]) -> list[Path]:
    for folder in folders:
        if not folder.is_dir():
            seen = "it is no folder" if folder.exists() else "there is no such folder"
            raise DiscoveryFailed(
                f"cannot look into {folder}: {seen}; name one that is there, or none for the usual ones"
            )
    return [folder.absolute() for folder in folders] or discover_places.well_known(os.environ, Path.home())


def _usual_config() -> Config | None:
    """The configuration that is in use, to say what is in it already; one with mistakes says nothing."""
    try:
        return examine(find(), kinds=backend_kinds(), look_at_files=False).config
    except ConfigUnreadable:
        return None


def _rows(found: Discovery, choice: Choice, config: Config | None, context: int, report: Report) -> Iterator[Row]:
    configured = _configured(config)
    new = [model for model in found.models if os.path.realpath(model.path) not in configured]
    taken = {*config.models, *(alias for one in config.models.values() for alias in one.aliases)} if config else set()
    old = [(model, configured[os.path.realpath(model.path)]) for model in found.models if model not in new]
    called = [*named(new, taken), *(replace(model, name=known_as) for model, known_as in old)]
    usable, gpus_mib = _usable(config), _gpus_mib()
    for model in sorted(called, key=lambda model: (model.name, str(model.path))):
        if not choice.takes(model):
            continue
        report(f"reckoning what {model.path.name} takes")
        backend = discover_entry.backend_of(model, usable)
        on_gpu = discover_entry.memory_mib(model, context, gpu=True)
        yield Row(
            model=model,
            backend=backend,
            configured_as=configured.get(os.path.realpath(model.path), ""),
            memory_mib=discover_entry.memory_mib(model, context, gpu=False),
            gpu_memory_mib=on_gpu,
            notes=(*model.notes, *_needs(model, backend, usable), *_too_large(on_gpu, gpus_mib)),
        )


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar on a terminal; silence elsewhere, where a line for each folder would drown the result."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda message, fraction=None: None
        return
    with Reporter(console) as report:
        yield report


def _configured(config: Config | None) -> dict[str, str]:
    """Names in the configuration by the files that they use."""
    if config is None:
        return {}
    found: dict[str, str] = {}
    for name, model in config.models.items():
        words = [model.path] if model.path else [word for word in (*(model.command or ()), *model.args) if "/" in word]
        for word in words:
            found.setdefault(os.path.realpath(word), name)
    return found


def _usable(config: Config | None) -> set[str]:
    """The backends that this machine has: in the package, in PATH, or where the configuration says."""
    named = {kind for kind, one in config.backends.items() if one.binary or one.directory} if config else set()
    return {"llamacpp"} | named | {kind for kind in ("sglang", "vllm") if shutil.which(kind)}


def _gpus_mib() -> int | None:
    """Memory of all GPUs together; None without any."""
    reader = open_reader()
    try:
        sizes = [one.total_mib for name, one in reader.read().items() if name != CPU]
    finally:
        reader.close()
    return sum(sizes) or None


def _needs(model: Found, backend: str, usable: set[str]) -> Iterator[str]:
    if backend in usable:
        return
    key = "directory" if backend.startswith("tabbyapi") else "binary"
    others = [kind for kind in model.backends if kind != backend]
    instead = f", or use {' or '.join(others)} instead" if others else ""
    program = _PROGRAMS.get(backend, backend)
    yield f'{program} was not found here: install it and name it as "{key}" of the backend "{backend}"{instead}'


def _too_large(need_mib: int | None, gpus_mib: int | None) -> Iterator[str]:
    if need_mib is not None and gpus_mib is not None and need_mib > gpus_mib:
        yield f"takes {memory(need_mib)} of GPU memory with this context, and all GPUs together have {memory(gpus_mib)}"


def _with_aliases(rows: Sequence[Row], config: Config | None) -> Iterator[tuple[Row, tuple[str, ...]]]:
    """With the hub id as an alias where a whole repository is one model, and nothing else has that name."""
    taken = {*config.models, *(alias for one in config.models.values() for alias in one.aliases)} if config else set()
    taken |= {row.model.name for row in rows}
    for row in rows:
        origin = row.model.origin
        free = row.model.format == "safetensors" and origin and origin not in taken
        if free:
            taken.add(origin)
        yield row, (origin,) if free else ()


def _any(texts: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatch(text, pattern.lower()) for text in texts for pattern in patterns)
