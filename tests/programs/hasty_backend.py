"""A backend from another package, as the router finds them: like `openai`, but with little patience when it stops."""

from dataclasses import replace

from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan
from llm_router.backends.openai import OpenAI


class Hasty(OpenAI):
    kind = "hasty"

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        return replace(super().launch(request, probe_output), stop=StopPlan(grace_s=0.3, kill_after_s=0.2))
