"""TabbyAPI (EXL3). It has no command of its own: a script or unit runs its main.py in its own folder.

`/health` there says nothing about a model, so readiness is asked of `/v1/model`, which needs the key.
"""

from __future__ import annotations

from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan
from llm_router.backends.command import Habits, plain_launch, server_name

_HABITS = Habits(
    ready_path="/v1/model",
    remote_ready_path="/v1/model",
    ready_needs_key=True,
    stop=StopPlan(grace_s=10.0),
    env={"PYTHONUNBUFFERED": "1"},
)


class TabbyAPI:
    kind = "tabbyapi"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        return plain_launch(request, _HABITS, served_name=server_name(request))

    def claim(self, request: LaunchRequest) -> float | None:
        return None
