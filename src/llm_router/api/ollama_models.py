"""What Ollama's clients are told of the models: the list, what is loaded, one in detail. Counterpart: `ollama`.

Ollama knows its models by the hash of their files; here a hash of the file's path, size and date stands for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_router.api.catalog import Catalog, Entry
from llm_router.core.views import InstanceState, InstanceView
from llm_router.dialects.ollama_reply import timestamp
from llm_router.dialects.ollama_request import tagged
from llm_router.hardware.base import CPU
from llm_router.models import about
from llm_router.models.about import About
from llm_router.runtime.supervisor import Supervisor

_MIB = 1024**2
_NEVER = "9999-12-31T23:59:59Z"  # loaded until something else needs the room
_LONG_S = 100 * 365.25 * 86400  # a year of five digits is no date
_RESIDENT = (InstanceState.READY, InstanceState.SUSPECT, InstanceState.DRAINING)


class Shelf:
    """The models as Ollama shows them, to whom may know of them. `path_of`: a model's files; None: it has none that the
    router knows."""

    def __init__(
        self, catalog: Catalog, supervisor: Supervisor, path_of: Callable[[str], str | None], created: float
    ) -> None:
        self._catalog = catalog
        self._supervisor = supervisor
        self._path_of = path_of
        self._created = created
        self._read: dict[tuple[str, float], About] = {}

    async def tags(self) -> dict[str, Any]:
        entries = self._catalog.shown()
        said = await self._about(entries)
        return {"models": [self._card(entry, said[entry.name]) for entry in entries]}

    async def loaded(self) -> dict[str, Any]:
        """What is ready to answer, with the memory that it really holds, where that can be measured."""
        entries = {entry.name: entry for entry in self._catalog.shown()}
        found = [
            (entries[instance.model], instance)
            for instance in self._supervisor.handle.scheduler.snapshot().instances
            if instance.model in entries and instance.state in _RESIDENT
        ]
        said = await self._about([entry for entry, _ in found])
        return {"models": [self._resident(entry, said[entry.name], instance) for entry, instance in found]}

    async def show(self, entry: Entry, *, verbose: bool) -> dict[str, Any]:
        said = (await self._about([entry]))[entry.name]
        info: dict[str, Any] = {"general.architecture": said.family}
        length = entry.context_length or said.context_length
        if length is not None and said.family:
            info[f"{said.family}.context_length"] = length
        if verbose or said.format == "gguf":
            info = {**said.fields, **info}
        return {
            "license": "",
            "modelfile": f"# served by llm-router with {entry.backend}\nFROM {tagged(entry.name)}\n",
            "parameters": "",
            "template": said.template,
            "details": _details(entry, said),
            "model_info": info,
            "capabilities": _capabilities(entry, said),
            "modified_at": timestamp(said.modified_at or self._created),
        }

    def _card(self, entry: Entry, said: About) -> dict[str, Any]:
        return {
            "name": tagged(entry.name),
            "model": tagged(entry.name),
            "modified_at": timestamp(said.modified_at or self._created),
            "size": said.size_bytes,
            "digest": self._digest(entry, said),
            "details": _details(entry, said),
            "capabilities": _capabilities(entry, said),
        }

    def _resident(self, entry: Entry, said: About, instance: InstanceView) -> dict[str, Any]:
        held: Mapping[str, int] = self._supervisor.held_mib(instance.id)
        record = self._supervisor.effects.instances.get(instance.id)
        length = None if record is None else record.facts.context_length
        found = self._card(entry, said) | {
            "size": sum(held.values()) * _MIB or said.size_bytes,
            "size_vram": sum(mib for device, mib in held.items() if device != CPU) * _MIB,
            "expires_at": _expiry(instance),
            "context_length": length or entry.context_length or said.context_length or 0,
        }
        del found["modified_at"], found["capabilities"]
        return found

    def _digest(self, entry: Entry, said: About) -> str:
        what = f"{entry.name}\n{self._path_of(entry.name)}\n{said.size_bytes}\n{said.modified_at}"
        return hashlib.sha256(what.encode()).hexdigest()

    async def _about(self, entries: Sequence[Entry]) -> dict[str, About]:
        """By name. Headers lie on disks that may be slow, so they are read on a thread, and again only when a file
        changed."""
        paths = {entry.name: self._path_of(entry.name) for entry in entries}
        return await asyncio.to_thread(lambda: {name: self._about_file(path) for name, path in paths.items()})

    def _about_file(self, path: str | None) -> About:
        if path is None:
            return About()
        try:
            key = (path, Path(path).stat().st_mtime)
        except OSError:
            return About()
        found = self._read.get(key)
        if found is None:
            found = self._read[key] = about.read(Path(path))
        return found


def _expiry(instance: InstanceView) -> str:
    """When it is unloaded if nobody uses it any more; who needs its room may have it before."""
    if instance.idle_timeout_s is None or instance.idle_timeout_s >= _LONG_S:
        return _NEVER
    idle_s = 0.0 if instance.leases else time.monotonic() - instance.last_used_at
    return timestamp(time.time() + instance.idle_timeout_s - idle_s)


def _details(entry: Entry, said: About) -> dict[str, Any]:
    family = said.family or entry.backend
    return {
        "parent_model": "",
        "format": said.format,
        "family": family,
        "families": [family],
        "parameter_size": said.parameters,
        "quantization_level": said.quantisation,
    }


def _capabilities(entry: Entry, said: About) -> list[str]:
    """In Ollama's words. Where no template can be read, a chat model is taken to know tools: its server does."""
    if "embedding" in entry.capabilities or "rerank" in entry.capabilities:
        return ["embedding"]
    found = ["completion"]
    if "tools" in entry.capabilities or said.takes_tools or ("chat" in entry.capabilities and not said.template):
        found.append("tools")
    if "vision" in entry.capabilities:
        found.append("vision")
    if "reasoning" in entry.capabilities or said.thinks:
        found.append("thinking")
    return found
