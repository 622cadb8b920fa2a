"""`python -m bench.memory`: three real models of which any two fit the memory they may have, under a mixed load.

The same seeded load twice: with the memory as the budget, and one model at a time. Seen from outside: what the engines
really hold (the sum of their proportional set sizes, four times a second), how often a model was loaded, how long each
request waited for its first token, held against the bound that the policy states. Exit code 1 where the budget was
exceeded, somebody waited beyond the bound, a request failed, or sharing needed no fewer loads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench import procs, router
from bench.procs import Processes
from llm_router.core.policy import wait_bound_s
from llm_router.core.specs import PolicySpec
from llm_router.models import tiny

_NAMES = ("ann", "bob", "cy")
_CLIENTS = 4
_THINK_S = 1.5
_ANSWER_TOKENS = 6
_LOOK_S = 0.25
_QUIETLY = {"X-LLM-Router-Status": "off", "X-LLM-Router-Performance": "never"}
_PATIENCE_S, _DRAIN_S = 5.0, 20.0


@dataclass(slots=True)
class Seen:
    """`held_mib`: the most that all engines held together. `waits_s`: request to first token, each. `loads`: how long
    each took, in seconds."""

    label: str
    held_mib: int = 0
    waits_s: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="how long each of the two loads lasts (300)")
    parser.add_argument("--seed", type=int, default=1, help="of the load (1)")
    options = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as name, Processes(Path(name)) as processes:
        folder = Path(name)
        console.print("writing three models of 400 MB ...", style="dim")
        for number, model in enumerate(_NAMES):
            tiny.write(folder / f"{model}.gguf", name=model, seed=number, count=40, size="slow")
        budget_mib = _budget_for_two(processes, folder)
        seen = [
            _measure(processes, folder, f"{budget_mib} MiB", f"{budget_mib}MiB", options),
            _measure(processes, folder, "one at a time", "exclusive", options),
        ]
    return _report(seen, budget_mib, options.seconds)


def _budget_for_two(processes: Processes, folder: Path) -> int:
    """What the two that take most hold together, and half of another: two fit, three don't."""
    seen = asyncio.run(_load(processes, folder, "sizing", "exclusive", rounds=len(_NAMES)))
    return int(seen.held_mib * 2.5)


def _measure(processes: Processes, folder: Path, label: str, memory: str, options: argparse.Namespace) -> Seen:
    Console(stderr=True).print(f"{label}: {options.seconds:g} s of mixed load ...", style="dim")
    return asyncio.run(_load(processes, folder, label, memory, seconds=options.seconds, seed=options.seed))


async def _load(
    processes: Processes,
    folder: Path,
    label: str,
    memory: str,
    *,
    seconds: float = 0.0,
    rounds: int = 0,
    seed: int = 0,
) -> Seen:
    """`rounds`: one request to each model in turn, so many times; else random ones for so many seconds."""
    models = {
        name: {"backend": "llamacpp", "path": str(folder / f"{name}.gguf"), "args": ["-t", "1", "-c", "1024"]}
        for name in _NAMES
    }
    log = f"router-{label.replace(' ', '-')}"
    settings = {"memory": memory, "patience": _PATIENCE_S, "drain_timeout": _DRAIN_S}
    running = router.start(processes, log, models, folder, **settings)
    seen = Seen(label)
    watching = asyncio.create_task(_watch(running.process.pid, seen))  # noqa: TID251 -- a program's own main task
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}", timeout=300) as client:
            if rounds:
                for number in range(rounds):
                    await _ask(client, _NAMES[number % len(_NAMES)], seen)
                    await asyncio.sleep(2 * _LOOK_S)
            else:
                until = time.monotonic() + seconds
                await asyncio.gather(*(_client(client, random.Random(seed * 100 + n), until, seen)
                                       for n in range(_CLIENTS)))  # fmt: skip
    finally:
        watching.cancel()
        running.process.terminate()
        await asyncio.to_thread(running.process.wait, 60)
    seen.loads = list(_load_times(processes.log(log, lines=100_000)))
    return seen


async def _client(client: httpx.AsyncClient, choice: random.Random, until: float, seen: Seen) -> None:
    """Somebody who asks, reads, thinks, and mostly stays with a model for a while."""
    model = choice.choice(_NAMES)
    while time.monotonic() < until:
        if choice.random() < 0.3:
            model = choice.choice(_NAMES)
        await _ask(client, model, seen)
        await asyncio.sleep(choice.expovariate(1 / _THINK_S))


async def _ask(client: httpx.AsyncClient, model: str, seen: Seen) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": _ANSWER_TOKENS,
        "stream": True,
    }
    asked, text = time.monotonic(), ""
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=_QUIETLY) as reply:
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                seen.failures.append(str(event["error"]))
            for choice in event.get("choices", ()):
                said = choice.get("delta", {}).get("content") or ""
                if said and not text:
                    seen.waits_s.append(time.monotonic() - asked)
                text += said
    if not tiny.answer(model, 40).startswith(text.split("\n")[0].rstrip()) or not text:
        seen.failures.append(f"{model} answered {text!r}")


async def _watch(pid: int, seen: Seen) -> None:
    while True:
        held = await asyncio.to_thread(_held_mib, pid)
        seen.held_mib = max(seen.held_mib, held)
        await asyncio.sleep(_LOOK_S)


def _held_mib(pid: int) -> int:
    """The engines below the router, without itself. Shared pages count once: proportional set sizes."""
    total_kib = 0
    for engine in procs.tree(pid)[1:]:
        try:
            text = Path(f"/proc/{engine}/smaps_rollup").read_text()
        except OSError:
            continue
        total_kib += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total_kib // 1024


def _load_times(log: str) -> Iterator[float]:
    for line in log.splitlines():
        before, found, after = line.partition(" is ready after ")
        if found and before:
            yield float(after.split("s ")[0])


def _report(seen: list[Seen], budget_mib: int, seconds: float) -> int:
    shared, exclusive = seen
    policy = PolicySpec(patience_s=_PATIENCE_S, drain_timeout_s=_DRAIN_S)
    table = Table(title=f"Three models, any two fit {budget_mib} MiB; {_CLIENTS} clients, {seconds:g} s each")
    for title in (
        "memory",
        "requests",
        "loads",
        "per 100",
        "most held, MiB",
        "wait p50, s",
        "p95, s",
        "worst, s",
        "bound, s",
    ):
        table.add_column(title, justify="right")
    bounds = []
    for one in seen:
        dearest = max(one.loads, default=0.0)
        bound = wait_bound_s(policy, own_load_s=dearest, rival_loads_s=[dearest] * (len(_NAMES) - 1), stop_s=3.0)
        bounds.append(bound)
        waits = sorted(one.waits_s)
        cells = (
            len(waits),
            len(one.loads),
            round(_per_100(one)),
            one.held_mib,
            *(f"{w:.2f}" for w in (*_at(waits), bound)),
        )
        table.add_row(one.label, *map(str, cells))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    wrong = [failure for one in seen for failure in one.failures[:3]]
    if shared.held_mib > budget_mib:
        wrong.append(f"the engines held {shared.held_mib} MiB of {budget_mib}")
    wrong += [
        f"{one.label}: somebody waited {max(one.waits_s):.1f} s"
        for one, bound in zip(seen, bounds, strict=True)
        if max(one.waits_s) > bound
    ]
    if _per_100(shared) >= _per_100(exclusive):  # who waits less asks more, so the mere number says nothing
        wrong.append(f"{_per_100(shared):.0f} loads per 100 requests when sharing, {_per_100(exclusive):.0f} without")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _per_100(seen: Seen) -> float:
    return 100 * len(seen.loads) / len(seen.waits_s)


def _at(waits: list[float]) -> tuple[float, float, float]:
    last = len(waits) - 1
    return waits[last // 2], waits[int(last * 0.95)], waits[last]


if __name__ == "__main__":
    sys.exit(main())
