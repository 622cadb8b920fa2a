"""llama.cpp's own management of models, at the root: what front ends that know a llama-server in router mode call to
list, load and eject (Open-WebUI, llama.cpp's web interface). Facts from its `server-models.cpp`, build b11434.

Counterparts: `catalog`, which knows the models; `admin`, which is our own word for the same things. Nothing here waits
for a load: llama-server answers when it has begun, and so do we.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from llm_router.api.catalog import Catalog, may_know
from llm_router.api.named import entry_named_in
from llm_router.errors import NotSupported
from llm_router.relay.gate import asking
from llm_router.runtime.supervisor import Supervisor

_TICK_S = 0.1
_PING_S = 15.0  # llama-server sends none; proxies cut a connection that is silent for a minute

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """How it is with a model that has an instance. `instance`: its id. `fraction`: 0.0–1.0 of its load, `stage`: which
    part of it; None and empty where nothing is known or it isn't loading."""

    instance: int
    value: str
    fraction: float | None = None
    stage: str = ""


class Management:
    """Lists, loads and unloads as llama-server does, and tells whoever listens."""

    def __init__(self, supervisor: Supervisor, catalog: Catalog) -> None:
        self._supervisor = supervisor
        self._catalog = catalog

    def routes(self) -> APIRouter:
        router = APIRouter(tags=["llama.cpp"])
        router.get("/models")(self.models)
        router.post("/models/load")(self.load)
        router.post("/models/unload")(self.unload)
        router.get("/models/sse")(self.events)
        router.post("/models")(self.download)
        router.delete("/models")(self.delete)
        return router

    async def models(self) -> dict[str, Any]:
        """All models that aren't hidden, each with `status.value`: unloaded, loading, loaded or sleeping."""
        return self._catalog.listing()

    async def load(self, request: Request) -> dict[str, bool]:
        """Begin to load a model. What is loaded already stays so."""
        model = (await entry_named_in(request, self._catalog)).name
        caller = asking.get()
        if caller is not None:  # it counts like any request, but nothing of it goes on after this
            caller.enter(model)
            caller.leave()
        self._supervisor.load(model)
        return {"success": True}

    async def unload(self, request: Request) -> dict[str, bool]:
        """Unload a model once its running requests are done; one that is still loading at once."""
        self._supervisor.unload((await entry_named_in(request, self._catalog)).name)
        return {"success": True}

    async def download(self) -> None:
        """llama-server fetches models; this router's are in its configuration."""
        raise NotSupported('cannot download a model: fetch its files, then add it to "models" in the configuration')

    async def delete(self) -> None:
        raise NotSupported('cannot delete a model: take it out of "models" in the configuration')

    async def events(self) -> StreamingResponse:
        """Each change of a model's state as it happens, `{"model", "event", "data"}`, from now on; of models that
        whoever listens may use."""
        return StreamingResponse(
            self._events(),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    async def _events(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        before = self._phases()
        quiet_since = loop.time()
        yield b": from now on\n\n"
        while not self._supervisor.is_leaving:
            await asyncio.sleep(_TICK_S)  # a load's progress has no event to wait for
            now = self._phases()
            said = b"".join(changes(before, now))
            before = now
            if not said and loop.time() - quiet_since >= _PING_S:
                said = b": ping\n\n"
            if said:
                quiet_since = loop.time()
                yield said

    def _phases(self) -> dict[str, Phase]:
        states = self._catalog.states()
        found = {}
        for record in self._supervisor.effects.instances.values():
            if record.model in states and may_know(record.model):
                value = self._catalog.value_of(states[record.model])
                loading = record.loading if value == "loading" else None
                found[record.model] = Phase(
                    instance=record.id,
                    value=value,
                    fraction=None if loading is None else loading.fraction,
                    stage="" if loading is None else loading.stage,
                )
        return found


def changes(before: Mapping[str, Phase], now: Mapping[str, Phase]) -> list[bytes]:
    """What happened between two looks, as events. A model that became another instance's was unloaded in between, and
    what is ready was loading, however short that was.

    A load's begin is called `model_status` and everything after it `status_change`, as llama-server's code says, whose
    documentation knows the first only.
    """
    out = []
    for model in before.keys() | now.keys():
        old, new = before.get(model), now.get(model)
        if old is not None and (new is None or new.instance != old.instance):
            out.append(_event(model, "status_change", {"status": "unloaded"}))
            old = None
        if new is None or new == old:
            continue
        if old is None:
            out.append(_event(model, "model_status", {"status": "loading"}))
        if new.value == "loading" and new.fraction is not None:
            progress = {"stages": [new.stage], "current": new.stage, "value": new.fraction}
            out.append(_event(model, "status_change", {"status": "loading", "progress": progress}))
        elif new.value != "loading" and (old is None or old.value != new.value):
            out.append(_event(model, "status_change", {"status": new.value}))
    return out


def _event(model: str, event: str, data: Mapping[str, object]) -> bytes:
    return b"data: " + _encode({"model": model, "event": event, "data": data}) + b"\n\n"
