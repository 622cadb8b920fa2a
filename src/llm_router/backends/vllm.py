"""vLLM. Refuses names it wasn't given, so the name is part of its command line."""

from __future__ import annotations

from collections.abc import Iterator

from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan
from llm_router.backends.command import HOST, Habits, plain_launch, server_name, started
from llm_router.backends.signals import read_safetensors


class VLLM:
    kind = "vllm"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        name = server_name(request)
        if request.path is None:
            return plain_launch(request, _habits(request), served_name=name)
        argv = (request.binary or "vllm", *_options(request))
        return started(request, argv, _habits(request), served_name=name)

    def claim(self, request: LaunchRequest) -> float | None:
        return None


def _habits(request: LaunchRequest) -> Habits:
    key = {"VLLM_API_KEY": request.api_key} if request.api_key else {}
    return Habits(
        ready_path="/health",
        stop=StopPlan(grace_s=10.0),
        read_line=read_safetensors,
        env={"PYTHONUNBUFFERED": "1", **key},
    )


def _options(request: LaunchRequest) -> Iterator[str]:
    yield from ("serve", request.path or "", "--host", HOST, "--port", str(request.port))
    yield from ("--served-model-name", server_name(request))
    if request.context_length is not None:
        yield from ("--max-model-len", str(request.context_length))
    yield from request.args
