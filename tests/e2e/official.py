"""Other people's clients, by their own names: `official.openai.AsyncOpenAI`.

Each is imported when something first asks for it: together they take seconds, which every process of the tests would
pay to collect the tests, also those that run none of theirs.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name not in ("anthropic", "ollama", "openai"):
        raise AttributeError(name)
    return importlib.import_module(name)
