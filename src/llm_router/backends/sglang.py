"""SGLang: `sglang serve`, or `python -m sglang.launch_server` where `binary` is an interpreter, which all builds have.

Its `--help` takes ten seconds and more, so it isn't asked: every option here is at least as old as 0.4, but those for
parking, which only a model with `park_after` is given.

Parked, it gives back everything it allocated; the weights come back from the host's memory, else they were lost. It
can't be asked whether it is parked, dies of a request while it is, and of being woken when it isn't
(managers/scheduler_components/weight_updater.py, 0.5.23).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

from llm_router.backends import facts
from llm_router.backends.base import HttpCall, LaunchRequest, LaunchSpec, Parking, StopPlan
from llm_router.backends.command import (
    HOST,
    Asked,
    Habits,
    bearer,
    fraction,
    is_python,
    option,
    plain_launch,
    server_name,
    started,
)
from llm_router.backends.signals import read_sglang

_MEMORY = "--mem-fraction-static"
# Weights and KV pool are that fraction; beside it are the CUDA context, the graphs and a running batch. SGLang's own
# least reserve for these is 1.5 GiB and an eighth for each GPU (arg_groups/memory_hook.py, 0.5.23).
_BESIDE_POOL_MIB = 2048
_PARK_S = 60.0  # 100 GB into the host's memory, over a slow bus
_CANARY_S = 30.0

_ENV = {
    "PYTHONUNBUFFERED": "1",
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
    # When one of its processes has died, crashed or stopped by us, it would stay for 5 s, and up to 60 s more, to look
    # into the others (managers/tokenizer_manager.py, 0.5.23), and nothing can be started in its place.
    "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
    "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
}


class SGLang:
    kind = "sglang"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        name = server_name(request)
        if request.path is None:
            return plain_launch(request, _habits(request), served_name=name)
        binary = request.binary or "sglang"
        start = (binary, "-m", "sglang.launch_server") if is_python(binary) else (binary, "serve")
        return started(request, (*start, *_options(request)), _habits(request), served_name=name)

    def claim(self, request: LaunchRequest) -> float | None:
        if request.url is not None or request.devices == ():
            return None
        if request.device_mib is None:
            # Nothing to reckon with: what the user wrote, else all of it.
            return fraction(option(request, _MEMORY)) or 1.0
        pool = fraction(option(request, _MEMORY)) or _pool(request) or _automatic(request.device_mib)
        return min(1.0, pool + _BESIDE_POOL_MIB / request.device_mib)


def _habits(request: LaunchRequest) -> Habits:
    return Habits(
        ready_path="/ready",
        # Builds without /ready have a /health that either checks a flag or, with this variable, does no more.
        older_path="/health",
        remote_ready_path="/ready",
        # Not /health: elsewhere it may generate a token each time it is asked.
        remote_older_path="/v1/models",
        # Its parts end at a TERM to the group, and it follows. Should one of them hold out, it looks for a pending TERM
        # every 5 s, waits for its requests without limit unless they are given up, then for its schedulers up to 15 s.
        stop=StopPlan(before=_abort(request), grace_s=30.0),
        read_line=read_sglang,
        env=_ENV,
        parking=_parking(request) if request.parks else None,
        facts=(
            Asked(path="/server_info", read=facts.sglang_info),
            Asked(path="/v1/models", read=partial(facts.listing, name=server_name(request))),
            Asked(path="/v1/loads?include=core", read=facts.sglang_loads),
        ),
    )


def _abort(request: LaunchRequest) -> HttpCall:
    return _post(_managing(request), "/abort_request", {"abort_all": True}, limit_s=2.0)


def _parking(request: LaunchRequest) -> Parking:
    """What it answers to being woken proves little: it says 200 even where it was started without its memory saver."""
    is_embedding = "embedding" in request.capabilities
    one_token = {"text": "1", **({} if is_embedding else {"sampling_params": {"max_new_tokens": 1}})}
    return Parking(
        park=_post(_managing(request), "/release_memory_occupation", {}, limit_s=_PARK_S),
        wake=_post(_managing(request), "/resume_memory_occupation", {}),
        canary=_post(request.api_key, "/encode" if is_embedding else "/generate", one_token, limit_s=_CANARY_S),
    )


def _managing(request: LaunchRequest) -> str | None:
    return request.admin_key or request.api_key


def _post(key: str | None, path: str, body: object, limit_s: float = 5.0) -> HttpCall:
    return HttpCall(
        method="POST",
        path=path,
        body=json.dumps(body).encode(),
        headers=(("Content-Type", "application/json"), *bearer(key)),
        limit_s=limit_s,
    )


def _options(request: LaunchRequest) -> Iterator[str]:
    yield from ("--model-path", request.path or "", "--host", HOST, "--port", str(request.port))
    yield from ("--served-model-name", server_name(request), "--enable-cache-report")
    if request.context_length is not None:
        yield from ("--context-length", str(request.context_length))
    if "embedding" in request.capabilities:
        yield "--is-embedding"
    if request.parks:
        yield from ("--enable-memory-saver", "--enable-weights-cpu-backup")
    pool = _pool(request)
    if pool is not None and option(request, _MEMORY) is None:
        yield from (_MEMORY, f"{pool:.3f}")
    if request.api_key and option(request, "--config") is None:
        # It reads a key from no environment, and an option is there for every user to see. A YAML file may hold it.
        yield from ("--api-key", request.api_key)
    yield from request.args


def _pool(request: LaunchRequest) -> float | None:
    """The fraction that keeps the whole server within the declared memory; None where that or the device is unknown.
    Never more than SGLang's own choice: it needs the rest for its batches."""
    if request.memory_mib is None or request.device_mib is None or request.devices == ():
        return None
    pool_mib = max(request.memory_mib - _BESIDE_POOL_MIB, request.memory_mib // 2)
    return min(pool_mib / request.device_mib, _automatic(request.device_mib))


def _automatic(device_mib: int) -> float:
    """What it chooses by itself on one GPU of this size: all but 512 MiB, 1.5 MiB for each token of a prefill chunk,
    2 MiB for each request in the largest graph; at least 10 GiB above 60 GiB (arg_groups/memory_hook.py, 0.5.23)."""
    sizes = ((20, 2048, 8), (35, 4096, 48), (60, 4096, 32), (160, 8192, 256))
    chunk, batch = next(((chunk, batch) for gib, chunk, batch in sizes if device_mib < gib * 1024), (16384, 512))
    reserved_mib = 512 + 1.5 * chunk + 2 * batch + 128
    if device_mib > 60 * 1024:
        reserved_mib = max(reserved_mib, 10 * 1024)
    return max(0.1, 1.0 - reserved_mib / device_mib)
