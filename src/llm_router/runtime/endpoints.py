"""Which models endpoints elsewhere have: asked at the start and every few minutes, and told when that changes.

Counterparts: `backends`, which say how an endpoint is asked; `app`, which makes models of ours of what is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from llm_router.backends.base import Address, HttpCall
from llm_router.errors import LaunchError
from llm_router.launchers.calls import Answer

_log = logging.getLogger(__name__)

_REFRESH_S = 300.0
_RETRY_S = 30.0

Ask = Callable[[Address, HttpCall], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`addresses`: equal ones, the first that answers counts. `call`: what lists its models. `prefix`: put before their
    names. `patterns`: which of them, as in a shell."""

    name: str
    addresses: tuple[Address, ...]
    call: HttpCall
    prefix: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """A model of an endpoint. `name`: ours for it; `id`: the endpoint's. `context_length` in tokens, None: it doesn't
    say."""

    name: str
    id: str
    endpoint: str
    context_length: int | None = None


class Endpoints:
    """`is_taken`: whether a name already means another model, which then wins. `tell`: called with all models of all
    endpoints whenever they change."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        ask: Ask,
        is_taken: Callable[[str], bool],
        tell: Callable[[Sequence[RemoteModel]], None],
    ) -> None:
        self._endpoints = endpoints
        self._ask = ask
        self._is_taken = is_taken
        self._tell = tell
        self._found: dict[str, tuple[RemoteModel, ...]] = {}
        self._silent: set[str] = set()
        self._told: tuple[RemoteModel, ...] = ()
        self._others = asyncio.Event()

    def configure(self, endpoints: Sequence[Endpoint]) -> tuple[RemoteModel, ...]:
        """These from now on. Returns the models known of those that were there before, which count as told; the new
        ones are asked at once, as far as `keep_up` runs."""
        same = {endpoint.name for endpoint in endpoints if endpoint in self._endpoints}
        self._found = {name: models for name, models in self._found.items() if name in same}
        self._silent &= same
        if list(endpoints) != list(self._endpoints):
            self._others.set()
        self._endpoints = endpoints
        self._told = self._all()
        return self._told

    async def keep_up(self) -> None:
        """Ask now and again, for ever. Cancelling leaves what was told last."""
        while True:
            self._others.clear()
            await self.refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S if self._silent else _REFRESH_S):
                    await self._others.wait()

    async def refresh(self) -> None:
        """Ask each endpoint once, all at the same time, and tell what has changed. Who doesn't answer keeps the models
        it had: a request for one of them may find it back."""
        await asyncio.gather(*map(self._refresh, self._endpoints))
        merged = self._all()
        if merged != self._told:
            self._told = merged
            self._tell(merged)

    def _all(self) -> tuple[RemoteModel, ...]:
        return tuple({model.name: model for model in self._merged()}.values())

    def _merged(self) -> Iterator[RemoteModel]:
        """In the order of the endpoints, backwards: where two have a name in common, the first one comes last."""
        for endpoint in reversed(self._endpoints):
            for model in reversed(self._found.get(endpoint.name, ())):
                if not self._is_taken(model.name):
                    yield model

    async def _refresh(self, endpoint: Endpoint) -> None:
        mistake = ""
        for address in endpoint.addresses:
            try:
                answer = await self._ask(address, endpoint.call)
            except LaunchError as error:
                mistake = error.message
                continue
            models = models_of(answer.body, endpoint) if answer.status == 200 else None
            if models is not None and endpoint in self._endpoints:
                self._found[endpoint.name] = models
                self._silent.discard(endpoint.name)
                return
            if endpoint not in self._endpoints:  # taken out while it was asked
                return
            mistake = f"cannot ask {address.host}:{address.port} for {endpoint.call.path}: it answered {answer.status}"
        if endpoint.name not in self._silent:
            self._silent.add(endpoint.name)
            _log.warning("%s; the models of %s are asked for again every %ds", mistake, endpoint.name, _RETRY_S)


def models_of(body: bytes, endpoint: Endpoint) -> tuple[RemoteModel, ...] | None:
    """What an OpenAI listing says, as far as the endpoint's patterns want it; None: it is no listing."""
    try:
        entries = msgspec.json.decode(body)["data"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None
    if not isinstance(entries, list):
        return None
    found = [
        RemoteModel(
            name=endpoint.prefix + entry["id"],
            id=entry["id"],
            endpoint=endpoint.name,
            context_length=_context(entry),
        )
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]
    ]
    return tuple(model for model in found if any(fnmatchcase(model.id, pattern) for pattern in endpoint.patterns))


def _context(entry: Mapping[str, Any]) -> int | None:
    """`max_model_len` of vLLM and SGLang, `context_length` of other routers."""
    known = entry.get("max_model_len") or entry.get("context_length")
    return known if isinstance(known, int) and known > 0 else None
