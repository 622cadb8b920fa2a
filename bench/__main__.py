"""`python -m bench`: the router beside nginx and a direct connection, then its switches. See README.md.

Exit code 0, whatever the verdicts: a slow machine is not an error. 2: something broke, and the output says what.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from bench import data, nginx, procs, report, router, switch
from bench.data import DataPlane, Target
from bench.load import Endpoint
from bench.procs import BenchFailed, Processes

_PASS_THROUGH = (("X-LLM-Router-Performance", "never"),)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    procs.allow_many_files()
    # Ctrl-C and TERM both leave every `with` block, which ends what it started. INT is the one that event loops handle
    # well, and a shell's background jobs begin with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console(stderr=True)
    began_s, busy = time.monotonic(), os.getloadavg()[0]

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began_s:6.1f} s  {text}", style="dim", markup=False, highlight=False)

    plane = switching = None
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        try:
            if options.only != "switch":
                plane = _data(options, folder, say)
            if options.only != "data":
                switching = switch.measure(folder, switch.QUICK if options.quick else switch.FULL, say)
        except BenchFailed as error:
            console.print(str(error), style="red", markup=False, highlight=False)
            return 2
        except KeyboardInterrupt:
            console.print("interrupted; everything that was started has been ended")
            return 130
    report.show(Console(width=None if sys.stdout.isatty() else 160), plane, switching, busy)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(plane, switching, busy), indent=2) + "\n")
    broken = (plane is not None and plane.broken) or (switching is not None and switching.broken)
    return 2 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What the router costs, beside nginx.")
    parser.add_argument("--quick", action="store_true", help="one round and few switches: under 45 s, rough figures")
    parser.add_argument("--only", choices=("data", "switch"), help="half of it")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of the data rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, too")
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        type=_proxy,
        metavar="NAME=URL[,PID]",
        help="a running proxy in front of the upstream's port, for the data rows; without PID its CPU isn't known",
    )
    parser.add_argument("--upstream-port", type=int, metavar="N", help="port of the fake upstream; any free one")
    parser.add_argument("--model", default=data.MODEL, help=f"name that the --proxy targets know ({data.MODEL})")
    return parser


def _proxy(text: str) -> Target:
    name, _, rest = text.partition("=")
    url, _, pid = rest.partition(",")
    parts = urlsplit(url)
    if not name or parts.scheme != "http" or not parts.hostname or (pid and not pid.isdigit()):
        raise argparse.ArgumentTypeError(f'cannot use "{text}": write NAME=http://127.0.0.1:PORT[,PID]')
    endpoint = Endpoint(host=parts.hostname, port=parts.port or 80, prefix=parts.path.rstrip("/").removesuffix("/v1"))
    return Target(name=name, endpoint=endpoint, pid=int(pid) if pid else None)


def _data(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> DataPlane:
    scale = data.QUICK if options.quick else data.FULL
    if options.rounds:
        scale = replace(scale, rounds=options.rounds)
    with Processes(folder) as processes:
        port = options.upstream_port or procs.free_port()
        program = str(Path(__file__).with_name("upstream.py"))
        argv = [sys.executable, program, "--port", str(port), "--model", data.MODEL, "--spread"]
        upstream = processes.start("upstream", argv)
        processes.wait_listening("upstream", upstream, port, "/health", 10)
        targets = [Target(name=report.DIRECT, endpoint=Endpoint(port=port))]
        failures: dict[str, str] = {}
        targets += _nginx(processes, folder, port, say)
        try:
            targets += _router(processes, folder, port)
        except BenchFailed as error:
            failures[report.ROUTER] = str(error)
            say(str(error))
        targets += [replace(target, model=options.model) for target in options.proxy]
        plane = data.measure(targets, upstream.pid, scale, say)
        for name, log in ((report.ROUTER, "router"), (report.PASS_THROUGH, "router-pass")):
            if name in plane.broken:
                plane.broken[name] += f"; the router said:\n{processes.log(log)}"
        plane.broken |= failures
        return plane


def _nginx(processes: Processes, folder: Path, upstream_port: int, say: Callable[[str], None]) -> list[Target]:
    binary = nginx.find()
    if binary is None:
        say("nginx isn't installed: there is nothing to hold the figures against; install it (Debian: nginx-light)")
        return []
    own = folder / "nginx"
    own.mkdir()
    port = procs.free_port()
    process = processes.start("nginx", nginx.argv(binary, own, port, upstream_port))
    processes.wait_listening("nginx", process, port, "/health", 10)
    return [Target(name=report.REFERENCE, endpoint=Endpoint(port=port), pid=process.pid)]


def _router(processes: Processes, folder: Path, upstream_port: int) -> list[Target]:
    """The router twice: as it comes, and asked to change as little as it can. A process each, for their memory."""
    models = {data.MODEL: {"backend": "openai", "url": f"http://127.0.0.1:{upstream_port}"}}
    plain = router.start(processes, "router", models, folder)
    passing = router.start(processes, "router-pass", models, folder)
    return [
        Target(name=report.ROUTER, endpoint=Endpoint(port=plain.port), pid=plain.process.pid),
        Target(
            name=report.PASS_THROUGH,
            endpoint=Endpoint(port=passing.port, headers=_PASS_THROUGH),
            pid=passing.process.pid,
            include_usage=True,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
