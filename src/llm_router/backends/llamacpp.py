"""llama.cpp: the `llama-server` program where one is configured, else the server that comes with the package.

Counterpart: `engine.llamacpp`, the program behind the second form. Which options a llama-server has changes from build
to build, and an unknown one ends it, so only those that its `--help` shows are used.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace

from llm_router.backends.base import LaunchRequest, LaunchSpec, StopPlan
from llm_router.backends.command import HOST, Habits, plain_launch, server_name, started
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


class LlamaCpp:
    """`embedded`: the command of the server in the package."""

    kind = "llamacpp"

    def __init__(self, embedded: tuple[str, ...] = (sys.executable, "-m", "llm_router.engine.llamacpp")) -> None:
        self._embedded = embedded

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return (request.binary, "--help") if request.path is not None and request.binary is not None else None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        if request.path is None:
            # A shell script may hand its server an stdin that ends (`server &` does), and then the child protocol,
            # which its environment would switch on, makes it exit.
            return plain_launch(request, Habits(ready_path="/health", stop=_STOP), served_name=None)
        if request.binary is None:
            argv = (*self._embedded, *_common(request), "--sse-ping-interval", _PING_S)
        else:
            argv = (request.binary, *_common(request), *_supported(request, probe_output))
        habits = Habits(
            ready_path="/health",
            stop=_STOP if request.binary is None else _STOP_CHILD,
            read_line=read_llamacpp,
            env={"LLAMA_SERVER_ROUTER_PORT": str(request.port), **_key(request)},
        )
        return started(request, (*argv, *request.args), habits, served_name=None)

    def claim(self, request: LaunchRequest) -> float | None:
        return None


def _common(request: LaunchRequest) -> Iterator[str]:
    yield from ("-m", request.path or "", "--host", HOST, "--port", str(request.port), "--alias", server_name(request))
    if request.context_length is not None:
        yield from ("-c", str(request.context_length))
    if "embedding" in request.capabilities:
        yield "--embeddings"
    if "rerank" in request.capabilities:
        yield "--rerank"


def _supported(request: LaunchRequest, help_text: str) -> Iterator[str]:
    has = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_text))
    webui = [flag for flag in _WANTED if flag in has]
    if "--no-ui" in webui and "--no-webui" in webui:  # two names of one switch
        webui.remove("--no-webui")
    yield from webui
    if "--sse-ping-interval" in has:
        yield from ("--sse-ping-interval", _PING_S)
    # llama-server fits a model to the memory that is free at that moment: layers may go to the CPU, as its users
    # expect, but a context that someone asked for is never made smaller.
    if request.context_length is not None and "--fit-ctx" in has:
        yield from ("--fit-ctx", str(request.context_length))
    elif request.context_length is not None and "--fit" in has:
        yield from ("--fit", "off")


def _key(request: LaunchRequest) -> dict[str, str]:
    """In the environment: a command line is there for every user to read."""
    return {"LLAMA_API_KEY": request.api_key} if request.api_key else {}
