"""`llm-router discover`: searches, names, reckons, prints, and hands what is new to a configuration file."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_router.cli.demo import Reporter
from llm_router.cli.options import backend_kinds
from llm_router.cli.show import print_out
from llm_router.cli.target import Outcome, Target
from llm_router.config import Config, ConfigUnreadable, examine, find
from llm_router.hardware.reading import open_reader
from llm_router.models import discover_entry, discover_places
from llm_router.models.discover import Discovery, discover, named
from llm_router.models.discovered import DiscoveryFailed, Found
from llm_router.models.report import Report

_PROGRAMS = {"sglang": "SGLang", "vllm": "vLLM", "tabbyapi": "TabbyAPI", "tabbyapi-exl2": "TabbyAPI's EXL2 branch"}
_HOST = "cpu"
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Patterns as in a shell, for a model's name, path or origin. `select` empty: all."""

    select: tuple[str, ...]
    exclude: tuple[str, ...]

    def takes(self, model: Found) -> bool:
        texts = [text.lower() for text in (model.name, *model.names, str(model.path), model.origin) if text]
        return (not self.select or _any(texts, self.select)) and not _any(texts, self.exclude)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A model as it is shown. `configured_as`: its name in the configuration; "" for a new one. `memory_mib`: with the
    context asked for, all of it; `gpu_memory_mib`: what of it a GPU holds."""

    model: Found
    backend: str
    configured_as: str
    memory_mib: int | None
    gpu_memory_mib: int | None
    notes: tuple[str, ...]

    def as_json(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        model = self.model
        return {
            "name": model.name,
            "configured_as": self.configured_as or None,
            "title": model.title,
            "path": str(model.path),
            "origin": model.origin or None,
            "format": model.format,
            "quantisation": model.quantisation or None,
            "use": model.use,
            "abilities": list(model.abilities),
            "parameters": model.parameters,
            "size_bytes": model.size_bytes,
            "context_length": model.context_length,
            "memory_mib": self.memory_mib,
            "gpu_memory_mib": self.gpu_memory_mib,
            "backend": self.backend,
            "backends": list(model.backends),
            "notes": list(self.notes),
            "entry": dict(entry),
        }


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
        raise DiscoveryFailed(_nothing(folders, found))
    if not rows:
        raise DiscoveryFailed(
            f"cannot select any of the {len(found.models)} models found; change --select or --exclude"
        )
    entries = {
        row.model.path: discover_entry.entry(row.model, backend=row.backend, context=context, aliases=aliases)
        for row, aliases in _with_aliases(rows, config)
    }
    if not as_json:
        _show(rows, found, context)
    new = {row.model.name: entries[row.model.path] for row in rows if not row.configured_as}
    outcome = target.put({"models": new}, quiet=as_json)
    if as_json:
        _print_json(found, rows, entries, outcome)
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
        sizes = [one.total_mib for name, one in reader.read().items() if name != _HOST]
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
        yield f"takes {_gib(need_mib)} of GPU memory with this context, and all GPUs together have {_gib(gpus_mib)}"


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


# -- what is printed


def _show(rows: Sequence[Row], found: Discovery, context: int) -> None:
    has_gpu = _gpus_mib() is not None
    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "USE", "FORMAT"):
        table.add_column(title, no_wrap=title == "NAME")
    for title in ("PARAMS", "SIZE", "CONTEXT", "GPU MEMORY" if has_gpu else "MEMORY"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("BACKEND")
    table.add_column("CONFIGURED")
    for row in rows:
        table.add_row(*(escape(cell) for cell in _cells(row, has_gpu=has_gpu)))
    print_out(table)
    for line in _footnotes(rows, found, context):
        print(line)


def _cells(row: Row, *, has_gpu: bool) -> Iterator[str]:
    model = row.model
    need = row.gpu_memory_mib if has_gpu else row.memory_mib
    others = [kind for kind in model.backends if kind != row.backend]
    yield model.name
    yield ", ".join((model.use, *model.abilities))
    yield f"{model.format} {model.quantisation}".strip()
    yield discover_entry.shown_parameters(model.parameters)
    yield f"{model.size_bytes / 1e9:.1f} GB" if model.size_bytes >= 1e8 else f"{model.size_bytes / 1e6:.1f} MB"
    yield str(model.context_length or "")
    yield _gib(need) if need is not None else "?"
    yield row.backend + (f" (or {', '.join(others)})" if others else "")
    yield "yes" if row.configured_as else ""


def _footnotes(rows: Sequence[Row], found: Discovery, context: int) -> Iterator[str]:
    yield ""
    yield f"Memory is an estimate for {context} tokens of context (--context), or the model's own where that is less."
    for row in rows:
        for note in row.notes:
            yield f"{row.model.name}: {note}"
    if found.left_out:
        yield ""
        yield f"Left out ({len(found.left_out)}):"
        for one in found.left_out[:_SHOWN]:
            yield f"  {one.path}: {one.reason}"
        if len(found.left_out) > _SHOWN:
            yield f"  … and {len(found.left_out) - _SHOWN} more; --json shows them all"


def _print_json(
    found: Discovery, rows: Sequence[Row], entries: Mapping[Path, Mapping[str, Any]], outcome: Outcome | None
) -> None:
    print(
        json.dumps(
            {
                "looked": [str(place) for place in found.looked],
                "models": [row.as_json(entries[row.model.path]) for row in rows],
                "left_out": [{"path": str(one.path), "reason": one.reason} for one in found.left_out],
                "written": outcome.as_json() if outcome else None,
            },
            indent=2,
        )
    )


def _nothing(folders: Sequence[Path], found: Discovery) -> str:
    looked = "".join(f"\n  {place}" for place in found.looked)
    seen = f"these folders were searched:{looked}" if looked else "none of the usual folders is there"
    left = "".join(f"\n  {one.path}: {one.reason}" for one in found.left_out[:_SHOWN])
    remedy = "name the folder with your models" if not folders else "name another folder"
    return (
        f"cannot find any model; {seen}" + (f"\nleft out:{left}" if left else "") + f"\n{remedy}, as in "
        "`llm-router discover /data/models`, download one, or try the router with `llm-router demo`"
    )


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib} MiB"
