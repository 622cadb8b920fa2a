"""The benchmark isn't packaged: it is found from the repository's root."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.procs import Processes  # noqa: E402

from bench import procs  # noqa: E402 - the path comes first


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningUpstream:
    port: int
    pid: int


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as running:
        yield running


@pytest.fixture
def upstream(processes: Processes) -> RunningUpstream:
    port = procs.free_port()
    argv = [sys.executable, str(ROOT / "bench/upstream.py"), "--port", str(port), "--model", "tiny"]
    process = processes.start("upstream", argv)
    processes.wait_listening("upstream", process, port, "/health", 20)
    return RunningUpstream(port=port, pid=process.pid)
