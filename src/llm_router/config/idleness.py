"""What the steps in which an idle model leaves must agree on. Counterpart: `schema`, which knows each key by itself."""

from __future__ import annotations

from collections.abc import Iterator

from llm_router.config.rules import Key, Mistake
from llm_router.config.schema import UNPARKABLE, Config


def mistakes(config: Config) -> Iterator[Mistake]:
    """Models that can't be parked and are to be, and those that would be unloaded before they are parked."""
    for name, model in config.models.items():
        own: Key = ("models", name, "park_after")
        park_s, stop_s = config.park_after_s(name), config.idle_timeout_s(name)
        if park_s is None:
            continue
        if model.url is not None:
            yield Mistake(
                key=own,
                message="a server elsewhere can't be parked",
                remedy="take it out here, and write it where that server is started",
            )
        elif model.backend in UNPARKABLE:
            yield Mistake(
                key=own,
                message=f"{model.backend} can't park a model",
                remedy=_instead(model.backend),
            )
        elif stop_s is not None and park_s >= stop_s:
            yield Mistake(
                key=own if model.park_after is not None else ("park_after",),
                message=f"{name} would be unloaded first, after {stop_s:g}s without a request",
                remedy='make it shorter than "idle_timeout", or write "never"',
            )


def _instead(backend: str) -> str:
    if backend.startswith("tabbyapi"):
        return 'write "idle_timeout" instead: its model is unloaded then, and its server stays for the next'
    return 'write "idle_timeout" instead, or take it out; vllm and sglang can'
