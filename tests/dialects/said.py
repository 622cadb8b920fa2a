"""Chunks and replies as the relay hands them on, and a clock that stands still."""

from __future__ import annotations

import json
from typing import Any

from llm_router.dialects import completion
from llm_router.dialects.completion import Completion

FIGURES: dict[str, Any] = {
    "usage": {"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 20}},
    "timings": {"cache_n": 20, "prompt_n": 10, "prompt_ms": 12.5, "predicted_n": 5, "predicted_ms": 40.0},
}


def chunk(finish: str | None = None, /, *, choice: dict[str, Any] | None = None, **delta: Any) -> Completion:
    """One with the finish has the figures too."""
    about = {"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}
    return read({"id": "x", "choices": [about], **(FIGURES if finish else {})})


def piece(index: int, arguments: str = "", **more: Any) -> dict[str, Any]:
    """A piece of a tool call; `id` and `name` in the first one."""
    function = {"arguments": arguments, **({"name": more.pop("name")} if "name" in more else {})}
    return {"index": index, "function": function, **more}


def read(value: dict[str, Any]) -> Completion:
    return completion.read(json.dumps(value).encode())


def reply(finish: str = "stop", /, *, choice: dict[str, Any] | None = None, **message: Any) -> bytes:
    about = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **(choice or {})}
    return json.dumps({"id": "x", "choices": [about], **FIGURES}).encode()


class StoppedClock:
    def wall_s(self) -> float:
        return 1_795_366_831.25

    def elapsed_s(self) -> float:
        return 2.5

    def loading_s(self) -> float:
        return 1.5
