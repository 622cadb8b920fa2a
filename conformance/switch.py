"""From engine to engine through one endpoint of one router: llama.cpp, vLLM, SGLang, back to llama.cpp, and to vLLM
once more, whose load time is known by then.

Counterpart: `points`, which are asked of one engine at a time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from routing import Events, RouterProcess, is_alive, leftovers, numbers

from conformance import real
from conformance.install import COUNT
from conformance.points import of_session
from conformance.real import Prepare, Prepared
from conformance.result import DIFFERS, WORKS, Result

NAME = "switch from engine to engine"
# Each serves a model of a name of its own, so that an answer from the wrong one would be known.
STOPS: Mapping[str, Prepare] = {
    "llama-server": partial(real.llama_server, name="on-llama-server"),
    "vLLM": partial(real.vllm, name="on-vllm", shards=6),
    "SGLang": partial(real.sglang, name="on-sglang", shards=6),
}
TOUR = ("llama-server", "vLLM", "SGLang", "llama-server", "vLLM")
_WAITING = re.compile(r"⏳ (?:Loading model\.\.\. \d+s / \d+s|Switching models\.\.\. \d+s)")
_READY = re.compile(r"✓ Model ready! \(([\d.]+)s\)")
_FIGURES = re.compile(r"\[Performance: .*\]")


async def run(result: Result, stops: Mapping[str, Prepared], folder: Path, say: Callable[[str], None]) -> str:
    """Fills `result`, a row for each switch. Returns what the client received."""
    models = {_model(name): prepared.model for name, prepared in stops.items()}
    backends = {kind: settings for prepared in stops.values() for kind, settings in prepared.backends.items()}
    router = RouterProcess(folder, models, backends=backends, **real.SETTINGS)
    await router.start()
    received = ""
    sessions: set[int] = set()
    try:
        for number, (before, after) in enumerate(zip((None, *TOUR[:-1]), TOUR, strict=True), start=1):
            name = f"{number}. {before or 'nothing'} → {after}"
            try:
                events, said = await _switch(router, stops, before, after, is_known=after in TOUR[: number - 1])
            except Exception as error:  # noqa: BLE001 - whatever goes wrong in a switch is what it found
                result.points[name] = DIFFERS, f"{type(error).__name__}: {error}"[:600]
            else:
                result.points[name] = WORKS, said
                sessions.add((await router.status())[_model(after)]["pid"])
                received += f"== {name}\n{events.content.replace(chr(0x2063), '')}\n\n"
            say(f"{NAME}: {name}: {': '.join(result.points[name])}")
    finally:
        await router.stop()
    left = [*leftovers(router), *(pid for session in sessions for pid in of_session(session))]
    result.points["nothing_is_left_of_it"] = (DIFFERS, f"processes {left}") if left else (WORKS, "")
    return received


async def _switch(
    router: RouterProcess, stops: Mapping[str, Prepared], before: str | None, after: str, *, is_known: bool
) -> tuple[Events, str]:
    """One chat with a model that isn't loaded. `is_known`: it was, so how long that takes can be told."""
    old = None if before is None else (await router.status())[_model(before)]
    model, traits = _model(after), stops[after].traits
    began = time.monotonic()
    async with asyncio.timeout(traits.get("load_s", 60.0)):
        chat = asyncio.ensure_future(router.chat(model))  # noqa: TID251 - awaited below
        told = await _fractions(router, model, chat)
        events = await chat
    took_s = time.monotonic() - began
    assert events.error is None, events.error
    assert events.text == numbers(model, COUNT), events.text
    ready, figures = _READY.search(events.written), _FIGURES.search(events.written)
    assert _WAITING.search(events.written), events.written
    assert ready is not None, events.written
    assert figures is not None, events.written
    finish = next(chunk for chunk in events.chunks if chunk.get("usage"))
    assert finish["usage"]["completion_tokens"] == finish["timings"]["predicted_n"] > COUNT, finish
    if traits.get("percent"):
        assert told, "it never said how far it was"
        assert told == sorted(told), told
    assert not is_known or not traits.get("percent") or "about " in events.written, "an estimate was due"
    if old is not None:
        assert not is_alive(old["pid"]), f"{before} is still there"
    percent = f", status at {', '.join(f'{100 * one:.0f} %' for one in dict.fromkeys(told))}" if told else ""
    return events, f"{took_s:.1f} s to the end of the answer, ready after {ready[1]} s{percent}; `{figures[0]}`"


async def _fractions(router: RouterProcess, model: str, chat: asyncio.Future[Any]) -> list[float]:
    told = []
    while not chat.done():
        fraction = (await router.status())[model]["fraction"]
        told += [] if fraction is None else [fraction]
    return told


def _model(engine: str) -> str:
    return f"on-{engine.lower()}"
