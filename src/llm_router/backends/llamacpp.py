"""llama.cpp: the `llama-server` program where one is configured, else the server that comes with the package.

Counterpart: `engine.llamacpp`, the program behind the second form. Which options a llama-server has changes from build
to build, and an unknown one ends it, so only those that its `--help` shows are used.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from llm_router.backends import facts
from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan
from llm_router.backends.command import HOST, Asked, Habits, plain_launch, server_name, started
from llm_router.backends.signals import read_llamacpp

# With a stream open it waits for its next ping (1 s as we start it, 30 s as others do). A second TERM ends it at once
# (server.cpp), and there is nothing to lose: it is stopped only after its last request.
_STOP = StopPlan(grace_s=0.5, second_term=True, kill_after_s=2.0)
# As a child of a router llama-server reads its stdin, and after a TERM it waits for that to end (b11434) unless told
# this. The embedded one ends by itself.
_STOP_CHILD = replace(_STOP, farewell="cmd_router_to_child:exit")
_PING_S = "1"

# Switches that cost nothing where they exist.
_WANTED = ("--jinja", "--no-ui", "--no-webui")

# Without a context length llama-server takes the model's own and then, silently, cuts it to the memory that is free at
# that moment, down to 4096 (common/fit.cpp, b11434), which is less than one long document. Below this floor layers go
# to the CPU instead. Neither alternative is better: with `--fit off` a model of 128k fails to load on most cards, and
# with `-c 0` it pushes its layers to the CPU for a context that few need. What became of it is read back (`facts`).
_LEAST_CONTEXT = "8192"
# More layers than any model has: all of them. Builds from before `--fit` put none, or all, on the GPU by themselves.
_ALL_LAYERS = "999"


class LlamaCpp:
    """`embedded`: the command of the server in the package."""

    kind = "llamacpp"

    def __init__(self, embedded: tuple[str, ...] = (sys.executable, "-m", "llm_router.engine.llamacpp")) -> None:
        self._embedded = embedded

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return (request.binary, "--help") if request.path is not None and request.binary is not None else None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        habits = Habits(ready_path="/health", stop=_STOP, facts=_facts(request))
        if request.path is None:
            # A shell script may hand its server an stdin that ends (`server &` does), and then the child protocol,
            # which its environment would switch on, makes it exit.
            return plain_launch(request, habits, served_name=None)
        if request.binary is None:
            argv = (*self._embedded, *_common(request), *_no_gpu(request), "--sse-ping-interval", _PING_S)
        else:
            argv = (request.binary, *_common(request), *_supported(request, probe_output))
        habits = replace(
            habits,
            stop=_STOP if request.binary is None else _STOP_CHILD,
            read_line=read_llamacpp,
            env={"LLAMA_SERVER_ROUTER_PORT": str(request.port), **_key(request)},
        )
        return started(request, (*argv, *request.args), habits, served_name=None)

    def claim(self, request: LaunchRequest) -> float | None:
        return None


def _facts(request: LaunchRequest) -> tuple[Asked, ...]:
    """Slots are in `/props` alone. Its context is asked after the listing's, which a server that has several models
    answers for ours."""
    return (
        Asked(path="/v1/models", read=partial(facts.listing, name=server_name(request))),
        Asked(path="/props", read=facts.llamacpp_props),
    )


def _common(request: LaunchRequest) -> Iterator[str]:
    yield from ("-m", request.path or "", "--host", HOST, "--port", str(request.port), "--alias", server_name(request))
    if request.context_length is not None:
        yield from ("-c", str(request.context_length))
    if "embedding" in request.capabilities:
        yield "--embeddings"
    if "rerank" in request.capabilities:
        yield "--rerank"


def _no_gpu(request: LaunchRequest) -> Iterator[str]:
    if request.devices == ():
        yield from ("-ngl", "0")


def _supported(request: LaunchRequest, help_text: str) -> Iterator[str]:
    has = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_text))
    webui = [flag for flag in _WANTED if flag in has]
    if "--no-ui" in webui and "--no-webui" in webui:  # two names of one switch
        webui.remove("--no-webui")
    yield from webui
    if "--sse-ping-interval" in has:
        yield from ("--sse-ping-interval", _PING_S)
    # `--fit` measures what is free, not what the device has, so a declared `memory` can't be passed on as its margin:
    # beside another model it would count that one's memory as ours.
    if request.context_length is None and "--fit-ctx" in has:
        yield from ("--fit-ctx", _LEAST_CONTEXT)
    yield from _layers(request, has)


def _layers(request: LaunchRequest, has: set[str]) -> Iterator[str]:
    if request.devices == ():
        # CUDA_VISIBLE_DEVICES hides no card from a Vulkan build.
        yield from ("--device", "none") if "--device" in has else _no_gpu(request)
    elif "--fit" not in has and "--n-gpu-layers" in has:
        yield from ("--n-gpu-layers", _ALL_LAYERS)


def _key(request: LaunchRequest) -> dict[str, str]:
    """In the environment: a command line is there for every user to read."""
    return {"LLAMA_API_KEY": request.api_key} if request.api_key else {}
