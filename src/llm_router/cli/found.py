"""What a search for models is to people and programs: a table with footnotes, or JSON. Counterpart: `finding`, which
searches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from llm_router.cli.show import memory, print_out
from llm_router.cli.target import Outcome
from llm_router.models import discover_entry
from llm_router.models.discover import Discovery
from llm_router.models.discovered import Found

_SHOWN = 20


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


def show(rows: Sequence[Row], found: Discovery, *, context: int, has_gpu: bool) -> None:
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
    print("\n".join(_footnotes(rows, found, context)), flush=True)  # before what goes to stderr, in one pipe too


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
    yield memory(need) or "?"
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


def print_json(
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


def nothing(folders: Sequence[Path], found: Discovery) -> str:
    looked = "".join(f"\n  {place}" for place in found.looked)
    seen = f"these folders were searched:{looked}" if looked else "none of the usual folders is there"
    left = "".join(f"\n  {one.path}: {one.reason}" for one in found.left_out[:_SHOWN])
    remedy = "name the folder with your models" if not folders else "name another folder"
    return (
        f"cannot find any model; {seen}" + (f"\nleft out:{left}" if left else "") + f"\n{remedy}, as in "
        "`llm-router discover /data/models`, download one, or try the router with `llm-router demo`"
    )
