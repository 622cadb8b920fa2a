"""Starts the router under test as a user would: `llm-router serve --config FILE --port N`, all else by default."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.procs import BenchFailed, Processes, free_port

_START_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRouter:
    name: str
    port: int
    process: subprocess.Popen[bytes]


def start(
    processes: Processes, name: str, models: Mapping[str, object], folder: Path, **settings: object
) -> RunningRouter:
    """Writes a configuration with these `models` and `settings` into `folder`, starts it and waits for it.

    Raises: BenchFailed."""
    program = Path(sys.executable).with_name("llm-router")
    if not program.exists():
        raise BenchFailed(f"cannot start the router: there is no {program}; install the project into this environment")
    config = folder / f"{name}.json"
    said = {"state_dir": str(folder / f"{name}-state"), **settings, "models": models}
    config.write_text(json.dumps(said, indent=2))
    port = free_port()
    process = processes.start(name, [str(program), "serve", "--config", str(config), "--port", str(port)])
    processes.wait_listening(name, process, port, "/health", _START_LIMIT_S)
    return RunningRouter(name=name, port=port, process=process)
