"""Anything that speaks OpenAI: at a `url`, or started from a `command` or `script`. Assumes nothing else about it."""

from __future__ import annotations

from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan
from llm_router.backends.command import Habits, plain_launch, server_name

_HABITS = Habits(ready_path="/health", stop=StopPlan(grace_s=10.0))


class OpenAI:
    kind = "openai"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        return plain_launch(request, _HABITS, served_name=server_name(request))

    def claim(self, request: LaunchRequest) -> float | None:
        return None
