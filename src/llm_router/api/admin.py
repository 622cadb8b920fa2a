"""What the command line talks to: status, load, unload, logs, why. Not part of any client's API."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from llm_router import __version__
from llm_router.api import explain
from llm_router.api.catalog import Catalog, Entry
from llm_router.api.errors import body_of
from llm_router.api.named import entry_named_in, entry_of
from llm_router.api.until_ready import UntilReady
from llm_router.config.problems import Problem
from llm_router.config.reload import Difference
from llm_router.core.views import InstanceView, Snapshot
from llm_router.errors import ConfigError, InvalidRequest
from llm_router.runtime.instances import Instance
from llm_router.runtime.supervisor import Supervisor

_TICK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What became of a reload. `difference` None: the file has fatal problems, and nothing has changed."""

    difference: Difference | None
    problems: Sequence[Problem]


class Reloading(Protocol):
    """Reads the configuration again. `problems`: of the file as it was read last. `needs_restart`: settings in it that
    aren't in force yet."""

    @property
    def problems(self) -> Sequence[Problem]: ...
    @property
    def needs_restart(self) -> Sequence[str]: ...
    async def reload(self) -> Reloaded: ...


class Admin:
    """`config_path`: shown in the status; None when the configuration came from elsewhere (the demo). `reloading`: set
    where there is a file to read again."""

    reloading: Reloading | None = None

    def __init__(
        self, supervisor: Supervisor, catalog: Catalog, config_path: str | None, now: Callable[[], float]
    ) -> None:
        self._supervisor = supervisor
        self._catalog = catalog
        self._config_path = config_path
        self._now = now
        self._started_at = now()

    def routes(self) -> APIRouter:
        router = APIRouter(prefix="/admin", tags=["admin"])
        router.get("/status")(self.status)
        router.post("/load")(self.load)
        router.post("/unload")(self.unload)
        router.post("/reload")(self.reload)
        router.get("/logs/{model:path}")(self.logs)
        router.get("/why/{model:path}")(self.why)
        router.get("/decisions")(self.decisions)
        return router

    async def status(self) -> dict[str, Any]:
        """The devices, and every configured model with its instance, if it has one."""
        snapshot, reloading = self._supervisor.handle.scheduler.snapshot(), self.reloading
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(self._now() - self._started_at, 1),
            "config": self._config_path,
            "config_problems": [] if reloading is None else _listed(reloading.problems),
            "needs_restart": [] if reloading is None else list(reloading.needs_restart),
            "devices": [asdict(device) for device in self._supervisor.devices()],
            "models": [self._model_status(entry, snapshot) for entry in self._catalog.entries.values()],
        }

    def _model_status(self, entry: Entry, snapshot: Snapshot) -> dict[str, Any]:
        now = self._now()
        instance = next((one for one in snapshot.instances if one.model == entry.name), None)
        record = None if instance is None else self._supervisor.effects.instances.get(instance.id)
        facts = self._supervisor.facts_of(entry.name)
        failure = snapshot.failing.get(entry.name)
        state = "unloaded" if failure is None else "failed"
        return {
            "id": entry.name,
            "name": entry.title,
            "backend": entry.backend,
            "state": state if instance is None else instance.state.value,
            "instance": None if instance is None else instance.id,
            "pid": record.process.pid if record is not None and record.process is not None else None,
            "port": record.spec.address.port if record is not None and record.spec is not None else None,
            "devices": [] if record is None else list(record.devices),
            "held_mib": {} if instance is None else dict(self._supervisor.held_mib(instance.id)),
            "context_length": facts.context_length,
            "slots": facts.slots,
            "build": facts.build,
            "leases": 0 if instance is None else instance.leases,
            "waiting": snapshot.waiting.get(entry.name, 0),
            "since_s": None if record is None else round(now - _in_state_since(record), 1),
            "idle_s": None if instance is None else _idle_s(instance, now),
            "idle_timeout_s": None if instance is None else instance.idle_timeout_s,
            "fraction": None if record is None or record.ready_at is not None else record.loading.fraction,
            "error": None if failure is None else failure.error,
            "retry_after_s": None if failure is None else round(max(0.0, failure.retry_at - now), 1),
        }

    async def load(self, request: Request) -> StreamingResponse:
        """Make a model ready. Answers with a line of JSON for each step; the last has `ready` or `error`."""
        entry = await entry_named_in(request, self._catalog)
        return StreamingResponse(self._loading(entry.name), media_type="application/x-ndjson")

    async def _loading(self, model: str) -> AsyncIterator[bytes]:
        supervisor = self._supervisor
        began = time.monotonic()
        supervisor.load(model)
        loaded = UntilReady(supervisor.leases)
        request = supervisor.leases.open(model, request_class="interactive", waiter=loaded)
        try:
            while not loaded.outcome.done():
                progress = supervisor.progress(request)
                if progress is not None:
                    yield _line(asdict(progress))
                await asyncio.wait([loaded.outcome], timeout=_TICK_S)
            error = loaded.outcome.result()
            if error is None:
                yield _line({"ready": True, "elapsed_s": round(time.monotonic() - began, 3)})
            else:
                yield _line(body_of(error))
        finally:
            supervisor.leases.close(request)  # the load itself goes on

    async def unload(self, request: Request) -> JSONResponse:
        """Unload a model after its running requests; answers when it is gone."""
        entry = await entry_named_in(request, self._catalog)
        instance = self._supervisor.instance_of(entry.name)
        if instance is not None:
            self._supervisor.unload(entry.name)
            while self._supervisor.instance_of(entry.name) == instance:
                await self._supervisor.changed()
        return JSONResponse({"unloaded": instance is not None})

    async def reload(self) -> JSONResponse:
        """Read the configuration again and do what it says. Answers when that is in force; models that must leave for
        it leave afterwards."""
        if self.reloading is None:
            raise InvalidRequest(
                "cannot reload: this router has no configuration file; start it with `llm-router serve`"
            )
        outcome = await self.reloading.reload()
        problems = _listed(outcome.problems)
        if outcome.difference is None:
            fatal = [problem for problem in outcome.problems if problem.fatal]
            more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
            error = ConfigError(f"cannot use the changed configuration, so the one before stays: {fatal[0]}{more}")
            return JSONResponse({**body_of(error), "reloaded": False, "problems": problems}, 422)
        return JSONResponse({"reloaded": True, **asdict(outcome.difference), "problems": problems})

    async def logs(self, model: str, follow: int = 0, lines: int = 50) -> StreamingResponse:
        """The output of the model's server, as plain text; `follow=1` goes on until the instance is gone."""
        entry = entry_of(model, self._catalog)
        return StreamingResponse(
            self._log_lines(entry.name, bool(follow), lines), media_type="text/plain; charset=utf-8"
        )

    async def _log_lines(self, model: str, follow: bool, lines: int) -> AsyncIterator[bytes]:
        process = self._supervisor.effects.last_process_of(model)
        if process is None:
            yield f"{model} has not been started since the router runs\n".encode()
            return
        if not follow:
            for line in process.output.tail(lines):
                yield line.encode() + b"\n"
            return
        async for line in process.output.follow(lines):
            yield line.encode() + b"\n"

    async def why(self, model: str) -> dict[str, Any]:
        """What the model waits for, what it needs, where that room is, and the last decisions about it."""
        found = self._supervisor.handle.scheduler.why(entry_of(model, self._catalog).name)
        assert found is not None, "what the catalogue has, the scheduler knows"
        return explain.why(found, self._clocks())

    async def decisions(self, model: str | None = None) -> dict[str, Any]:
        """The last decisions with their reasons, oldest first; `model`: only those about it."""
        name = None if model is None else entry_of(model, self._catalog).name
        return {"decisions": explain.decisions(self._supervisor.handle.scheduler.decisions(name), self._clocks())}

    def _clocks(self) -> explain.Clocks:
        return explain.Clocks(self._now(), time.time())


def _idle_s(instance: InstanceView, now: float) -> float | None:
    """How long nobody has used it; None: it loads."""
    if instance.ready_at is None:
        return None
    return 0.0 if instance.leases else round(max(0.0, now - instance.last_used_at), 1)


def _listed(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [problem.as_json() for problem in problems]


def _in_state_since(record: Instance) -> float:
    return max(record.since, record.ready_at or 0.0, record.parked_at or 0.0)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
