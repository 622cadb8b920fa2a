"""Known-answer models: GGUF files of a few megabytes whose reply is known in advance, generated on the spot.

They prove which model answered and that a stream arrived whole and in order, with a real engine and without a
download. Counterpart: `demo`, which offers them beside real models. This module runs no engine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from llm_router.errors import LlmRouterError

Kind = Literal["chat", "embedding"]
Size = Literal["small", "slow"]


class GeneratorMissing(LlmRouterError):
    """The packages that write GGUF files are not installed."""

    code = "demo_not_installed"


def answer(name: str, count: int = 300) -> str:
    """What a chat model written with this name and count replies to everything."""
    return f" I am {name}: " + " ".join(str(number) for number in range(1, count + 1))


def write(path: Path, *, name: str, seed: int = 1, count: int = 300, kind: Kind = "chat", size: Size = "small") -> Path:
    """Write a known-answer model to `path` and return it. Same arguments, same bytes; whole or not at all.

    A chat model answers every chat and completion with `answer(name, count)` in `count` + 3 tokens and the end token;
    with `ignore_eos` the answer starts over. An embedding model gives 128 numbers (1024 if slow), closer for texts with
    more letters in common. `size` "small": 1–3 MB, ready in about 0.1 s; "slow": about 400 MB,
    half a second to a second to load, tens of tokens per second.

    Raises: GeneratorMissing without the extra `demo`; OSError where `path` can't be written.
    """
    try:
        from llm_router.models import tiny_weights
    except ModuleNotFoundError as error:
        raise GeneratorMissing(
            f"cannot generate known-answer models: {error.name} is missing; install it with "
            "`pip install 'llm-router[demo]'`"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        tiny_weights.generate(unfinished, name=name, seed=seed, count=count, kind=kind, size=size)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
