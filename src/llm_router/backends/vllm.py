"""vLLM: `vllm serve`, or its server module where `binary` is an interpreter. Refuses names it wasn't given, so the name
is part of its command line.

It is parked by its sleep mode at level 1: the weights go to the host's memory, the KV cache is dropped. Beside its
option that needs the development endpoints, which its key doesn't guard (0.33: entrypoints/serve/dev).

Its `--help` takes ten seconds, so it isn't asked: every option here is at least as old as 0.6.4. Its engine process
outlives a killed parent, which is why stopping means the whole process group, as it does for every server here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from llm_router.backends import facts
from llm_router.backends.base import HttpCall, LaunchRequest, LaunchSpec, Parking, Rest, StopPlan
from llm_router.backends.command import (
    HOST,
    Asked,
    Habits,
    fraction,
    is_python,
    option,
    plain_launch,
    server_name,
    started,
)
from llm_router.backends.signals import read_vllm

_MEMORY = "--gpu-memory-utilization"
_AUTOMATIC = 0.92  # config/cache.py, 0.33
# v1/engine/exceptions.py, 0.32: said to whoever waits, by a 500 or in a stream of 200, seconds before the server ends.
_ENGINE_DEAD = "EngineCore encountered an issue"
_PARK_S = 60.0  # 100 GB into the host's memory, over a slow bus

_PARKING = Parking(
    park=HttpCall(method="POST", path="/sleep?level=1", limit_s=_PARK_S),
    wake=HttpCall(method="POST", path="/wake_up"),
    rest=Rest(call=HttpCall(method="GET", path="/is_sleeping"), read=facts.is_sleeping),
)


class VLLM:
    kind = "vllm"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        name = server_name(request)
        if request.path is None:
            return plain_launch(request, _habits(request), served_name=name)
        binary = request.binary or "vllm"
        module = ("-m", "vllm.entrypoints.openai.api_server", "--model")
        start = module if is_python(binary) else ("serve",)
        return started(request, (binary, *start, request.path, *_options(request)), _habits(request), served_name=name)

    def claim(self, request: LaunchRequest) -> float | None:
        if request.url is not None or request.devices == ():
            return None
        return fraction(option(request, _MEMORY)) or _declared(request) or _AUTOMATIC


def _habits(request: LaunchRequest) -> Habits:
    key = {"VLLM_API_KEY": request.api_key} if request.api_key else {}
    return Habits(
        ready_path="/health",
        remote_ready_path="/health",  # it notices a dead engine; the listing doesn't
        remote_older_path="/v1/models",  # what stands before it may let only /v1 through
        stop=StopPlan(grace_s=10.0),
        read_line=read_vllm,
        env={"PYTHONUNBUFFERED": "1", **key, **({"VLLM_SERVER_DEV_MODE": "1"} if request.parks else {})},
        parking=_PARKING if request.parks else None,
        facts=(
            Asked(path="/v1/models", read=partial(facts.listing, name=server_name(request))),
            Asked(path="/version", read=facts.version),
        ),
        last_words=(_ENGINE_DEAD,),
    )


def _options(request: LaunchRequest) -> Iterator[str]:
    yield from ("--host", HOST, "--port", str(request.port), "--served-model-name", server_name(request))
    yield "--enable-prompt-tokens-details"  # cached tokens in `usage`; costs nothing
    if request.parks:
        yield "--enable-sleep-mode"
    if request.context_length is not None:
        yield from ("--max-model-len", str(request.context_length))
    share = _declared(request)
    if share is not None and option(request, _MEMORY) is None:
        yield from (_MEMORY, f"{share:.3f}")
    yield from request.args


def _declared(request: LaunchRequest) -> float | None:
    """The declared memory as a share of the device; None where one of the two is unknown. Everything vLLM takes is in
    it. Never more than its own default: with a larger share it refuses to start, because a little is always in use."""
    if request.memory_mib is None or request.device_mib is None or request.devices == ():
        return None
    return min(request.memory_mib / request.device_mib, _AUTOMATIC)
