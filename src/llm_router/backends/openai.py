"""Anything that speaks OpenAI: at a `url` (or several equal ones), or started from a `command` or `script`. Another
llm-router is one of these. Assumes nothing else about it."""

from __future__ import annotations

from functools import partial

from llm_router.backends import facts
from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan
from llm_router.backends.command import Asked, Habits, plain_launch, server_name


class OpenAI:
    kind = "openai"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        name = server_name(request)
        habits = Habits(
            ready_path="/health",
            older_path="/v1/models",  # who has no /health has this
            ready_needs_key=True,
            stop=StopPlan(grace_s=10.0),
            facts=(Asked(path="/v1/models", read=partial(facts.listing, name=name)),),
        )
        return plain_launch(request, habits, served_name=name)

    def claim(self, request: LaunchRequest) -> float | None:
        return None
