"""SGLang. `/ready` is a flag check; its `/health` generates a token each time it is asked."""

from __future__ import annotations

from collections.abc import Iterator

from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan
from llm_router.backends.command import HOST, Habits, plain_launch, server_name, started
from llm_router.backends.signals import read_safetensors

_HABITS = Habits(
    ready_path="/ready",
    # It looks for a pending TERM every 5 s, then waits for its schedulers up to 15 s.
    stop=StopPlan(grace_s=30.0),
    read_line=read_safetensors,
    env={"PYTHONUNBUFFERED": "1"},
)


class SGLang:
    kind = "sglang"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        name = server_name(request)
        if request.path is None:
            return plain_launch(request, _HABITS, served_name=name)
        return started(request, (request.binary or "sglang", *_options(request)), _HABITS, served_name=name)

    def claim(self, request: LaunchRequest) -> float | None:
        return None


def _options(request: LaunchRequest) -> Iterator[str]:
    yield from ("serve", "--model-path", request.path or "", "--host", HOST, "--port", str(request.port))
    yield from ("--served-model-name", server_name(request))
    if request.context_length is not None:
        yield from ("--context-length", str(request.context_length))
    if "embedding" in request.capabilities:
        yield "--is-embedding"
    if request.api_key:
        yield from ("--api-key", request.api_key)  # it reads the key from nowhere else
    yield from request.args
