"""Says from a model's files what it will take in memory, before it has ever been loaded.

The door to `gguf_memory` (llama.cpp) and `safetensors_memory` (the others). An estimate is what stands between
"unknown", which means a whole device, and the first load, after which the measured value counts. Loads no weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from llm_router.models import gguf_memory, safetensors_memory
from llm_router.models.header import NotGguf
from llm_router.models.memory import Footprint
from llm_router.units import mib

log = logging.getLogger(__name__)


def estimate(path: Path, *, context_length: int | None, args: Sequence[str], gpu: bool = False) -> int | None:
    """In MiB; None where nothing can be said. Never raises, whatever the file.

    `path`: a GGUF file (the first of a split) or a folder with safetensors. `args`: what follows on the engine's
    command line; its own context length goes before `context_length`. `gpu`: what it takes of GPU memory, all GPUs
    together, rather than all that it takes.
    """
    found = measure(path, context_length=context_length, args=args)
    if found is None:
        return None
    return mib(found.on_gpu if gpu else found.total)


def measure(path: Path, *, context_length: int | None, args: Sequence[str]) -> Footprint | None:
    """`estimate` with its parts, in bytes."""
    try:
        if path.is_dir():
            return safetensors_memory.measure(path, context_length=context_length, args=args)
        return gguf_memory.measure(path, context_length=context_length, args=args)
    except (OSError, NotGguf, ValueError, TypeError, ArithmeticError, LookupError) as error:
        # A value of the wrong type, a zero where nobody puts one: files are made by strangers.
        log.debug("no estimate for %s: %s", path, error)
        return None
