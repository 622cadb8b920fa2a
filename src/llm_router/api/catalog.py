"""What `/v1/models` says of each model: made from memory, so it answers at once whatever is loading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_router.backends.base import Facts
from llm_router.core.scheduler import Scheduler
from llm_router.dialects.ollama_request import untagged
from llm_router.relay.gate import asking


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A configured model as clients see it. `title`: for people; `capabilities`: chat, completion, embedding …"""

    name: str
    backend: str
    title: str
    description: str | None
    aliases: tuple[str, ...]
    capabilities: tuple[str, ...]
    context_length: int | None
    hidden: bool


class Catalog:
    """`facts_of`: what a model's server says of itself. `created`: seconds since the epoch, the same for all: when this
    router started."""

    def __init__(
        self, entries: Sequence[Entry], scheduler: Scheduler, facts_of: Callable[[str], Facts], created: int
    ) -> None:
        self._own = tuple(entries)
        self._scheduler = scheduler
        self._facts_of = facts_of
        self._created = created
        self.merge(())

    def configure(self, entries: Sequence[Entry], others: Sequence[Entry] = ()) -> None:
        """These are the configured ones from now on."""
        self._own = tuple(entries)
        self.merge(others)

    def merge(self, others: Sequence[Entry]) -> None:
        """These, from elsewhere, stand behind the configured ones from now on, instead of those merged before."""
        entries = (*self._own, *others)
        self.entries: Mapping[str, Entry] = {entry.name: entry for entry in entries}
        self._by_name = {alias: entry for entry in entries for alias in (*entry.aliases, entry.name)}

    def find(self, name: str) -> Entry | None:
        """By name or alias, with or without Ollama's `:latest`."""
        return self._by_name.get(name) or self._by_name.get(untagged(name))

    def find_known(self, name: str) -> Entry | None:
        """By name or alias, if whoever asks may know of it."""
        entry = self.find(name)
        return entry if entry is not None and may_know(entry.name) else None

    def shown(self) -> list[Entry]:
        """What is listed for whoever asks."""
        return [entry for entry in self.entries.values() if not entry.hidden and may_know(entry.name)]

    def listing(self) -> dict[str, Any]:
        states, failing = self.states(), self.failing()
        data = [self._describe(entry, states, failing) for entry in self.shown()]
        return {"object": "list", "data": data}

    def describe(self, entry: Entry) -> dict[str, Any]:
        return self._describe(entry, self.states(), self.failing())

    def states(self) -> dict[str, str]:
        """The state of each model that has an instance."""
        return {instance.model: instance.state.value for instance in self._scheduler.snapshot().instances}

    def failing(self) -> frozenset[str]:
        """The models whose last load failed."""
        return frozenset(self._scheduler.snapshot().failing)

    @staticmethod
    def value_of(state: str | None) -> str:
        """llama.cpp's word for a state of ours; None: there is no instance."""
        return _LLAMACPP_WORDS.get(state, "loaded")

    def _describe(self, entry: Entry, states: Mapping[str, str], failing: frozenset[str]) -> dict[str, Any]:
        value = self.value_of(states.get(entry.name))
        status: dict[str, Any] = {"value": value}
        if entry.name in failing:
            status["failed"] = True
        described: dict[str, Any] = {
            "id": entry.name,
            "object": "model",
            "created": self._created,
            "owned_by": "llm-router",
            "name": entry.title,
            "aliases": list(entry.aliases),
            "tags": [],
            "backend": entry.backend,
            "capabilities": list(entry.capabilities),
            "architecture": _modalities(entry.capabilities),
            "source": "preset",
            "can_remove": False,
            "loaded": value == "loaded",
            "status": status,
            "info": {"meta": _meta(entry)},
        }
        if entry.description is not None:
            described["description"] = entry.description
        context_length = self._facts_of(entry.name).context_length or entry.context_length
        if context_length is not None:
            described["context_length"] = context_length
        return described


# Ours for a state, theirs for it; all that serve are loaded. llama-server lets its own models sleep.
_LLAMACPP_WORDS = {
    None: "unloaded",
    "starting": "loading",
    "waking": "loading",
    "parking": "sleeping",
    "parked": "sleeping",
}


def may_know(model: str) -> bool:
    """Whether whoever asks may know of the model (by its canonical name): he may if he may use it."""
    caller = asking.get()
    return caller is None or caller.may_use(model)


def _modalities(capabilities: Sequence[str]) -> dict[str, list[str]]:
    """As llama-server tells them."""
    inputs = ["text", *(name for name, word in (("image", "vision"), ("audio", "audio")) if word in capabilities)]
    outputs = [name for name, word in (("audio", "speech"), ("image", "image")) if word in capabilities]
    return {"input_modalities": inputs, "output_modalities": outputs or ["text"]}


def _meta(entry: Entry) -> dict[str, Any]:
    """What Open-WebUI reads. A model that the configuration says all about isn't sent what it can't use: pictures, the
    schemas of three dozen tools. One that doesn't talk isn't offered for it."""
    meta: dict[str, Any] = {"capabilities": {}}
    if entry.description is not None:
        meta["description"] = entry.description
    if not entry.capabilities:
        return meta
    if "chat" in entry.capabilities:
        meta["capabilities"] = {
            "vision": "vision" in entry.capabilities,
            "builtin_tools": "tools" in entry.capabilities,
        }
    elif not {"completion", "vision", "tools", "reasoning"} & set(entry.capabilities):
        meta["hidden"] = True
    return meta
