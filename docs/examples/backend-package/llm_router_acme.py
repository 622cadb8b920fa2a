"""acme-server for llm-router: how it starts, when it is ready, how it stops, what it says of itself.

A backend describes; the router acts. Nothing here starts a process, opens a connection or reads a file.
"""

from __future__ import annotations

import json
import re

from llm_router.backends.base import Facts, LaunchRequest, LaunchSpec, Loading, Ready, Signal, StopPlan
from llm_router.backends.command import HOST, Asked, Habits, plain_launch, server_name, started

_LAYERS = re.compile(r"^loading layer (\d+) of (\d+)$")


class Acme:
    kind = "acme"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        """What `launch` wants to see the output of; only where we build the command line ourselves."""
        return (_program(request), "--help") if request.path is not None else None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        habits = Habits(
            ready_path="/ready",
            stop=StopPlan(grace_s=5.0),
            read_line=read_line,
            # In the environment, because every user of the machine can read a command line.
            env={"ACME_KEY": request.api_key} if request.api_key else {},
            facts=(Asked(path="/info", read=read_info),),
        )
        if request.path is None:  # "url", "command", "script": alike for all servers
            return plain_launch(request, habits, served_name=server_name(request))
        argv = [_program(request), "--model", request.path, "--listen", f"{HOST}:{request.port}"]
        argv += ["--name", server_name(request)]
        if request.context_length is not None:
            argv += ["--context", str(request.context_length)]
        if "--no-telemetry" in probe_output:  # newer builds; older ones end at an option they don't know
            argv.append("--no-telemetry")
        return started(request, (*argv, *request.args), habits, served_name=server_name(request))

    def claim(self, request: LaunchRequest) -> float | None:
        """It takes as much memory as its model needs. A server that fills the device says here how much of it."""
        return None


def read_line(line: str) -> Signal | None:
    """A line of its output: how far the load is, or that it is over."""
    if line == "ready":
        return Ready()
    match = _LAYERS.match(line)
    return Loading(fraction=int(match[1]) / max(1, int(match[2])), stage="layers") if match else None


def read_info(body: bytes) -> Facts:
    """What `/info` answers. Never raises: a body may hold anything, and what can't be read is left out."""
    try:
        info = json.loads(body)
    except (ValueError, RecursionError):
        return Facts()
    if not isinstance(info, dict):
        return Facts()
    context = info.get("context")
    return Facts(context_length=context if isinstance(context, int) and context > 0 else None)


def _program(request: LaunchRequest) -> str:
    return request.binary or "acme-server"
