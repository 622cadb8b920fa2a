"""Hundreds of random switches between engines of every kind, with crashes, kills, hangs and clients that walk away:
no answer comes from another model than the one that was named, it always serves again, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from engines import KEY, program, tabby_home
from routing import Events, RouterProcess, Start, fake, leftovers, numbers

SWITCHES = int(os.environ.get("LLM_ROUTER_SWITCHES", "300"))
SEED = int(os.environ.get("LLM_ROUTER_SEED", "20261122"))
COUNT = 20

# What befalls a round beside its switch: to the engine that answers or the one that loads, to a client, the router.
MISFORTUNES = (
    "none",
    "engine killed in a stream",
    "engine killed while it loads",
    "engine killed idle",
    "engine hangs for a while",
    "client leaves in a stream",
    "client leaves while it waits",
    "fault",
    "fault",
    "router killed",
)
FAULTS = (
    *("die_before_byte", "die_after_2", "close_before_byte", "close_after_2", "garbage", "bad_chunk"),
    *("hang", "stall_after_2", "ping_after_2", "no_done", "error_in_stream", "error500", "error429", "slow:300"),
)


def mixed_models(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Six models on five kinds of backends, two of them in one TabbyAPI, and the settings they need."""
    pace = ("--count", str(COUNT), "--token-ms", "3")
    home = tabby_home(folder, "t1", "t2")
    models: dict[str, Any] = {
        "l": {"backend": "llamacpp", "path": str(folder / "l.gguf"), "context_length": 2048},
        "s": {"backend": "sglang", "path": str(folder), "api_key": KEY},
        "v": {"backend": "vllm", "path": str(folder)},
        "t1": {"backend": "tabbyapi", "path": str(home / "models/t1")},
        "t2": {"backend": "tabbyapi", "path": str(home / "models/t2")},
        "o": fake(*pace, "--startup-s", "0.1", "--spawn-child", "session", backend="hasty"),
    }
    (folder / "l.gguf").write_bytes(b"GGUF")
    llama = program(folder, "llama-server", "fake_backend.py", "--push-lines", "--second-term", *pace)
    sglang = program(folder, "sglang", "fake_sglang.py", "--term-tick-s", "0.05", "--startup-s", "0.1", *pace)
    vllm = program(folder, "vllm", "fake_vllm.py", "--startup-s", "0.1", *pace)
    tabby = program(folder, "tabby.sh", "fake_tabbyapi.py", "--startup-s", "0.1", "--endless-pings", *pace)
    keys = {"api_key": KEY, "admin_key": f"{KEY}-admin"}
    backends = {
        "llamacpp": {"binary": str(llama)},
        "sglang": {"binary": str(sglang)},
        "vllm": {"binary": str(vllm)},
        "tabbyapi": {"binary": str(tabby), "directory": str(home), **keys},
    }
    return models, backends


class Wilderness:
    """`names`: the models; each answers with its name and the numbers up to COUNT."""

    def __init__(self, router: RouterProcess, names: list[str], seed: int) -> None:
        self.router = router
        self.names = names
        self.chance = random.Random(seed)
        self.hits: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self._resident = names[0]
        self._chats: dict[asyncio.Task[Events | None], str] = {}

    async def run(self, switches: int) -> None:
        await self._serves(self._resident)
        for number in range(switches):
            misfortune = MISFORTUNES[number % len(MISFORTUNES)]
            target = self.chance.choice([name for name in self.names if name != self._resident])
            self.hits[misfortune] += 1
            try:
                await self._befall(misfortune, target)
                await self._check_answers()
                await self._serves(target)
            except BaseException:
                print(f"switch {number}: {misfortune}, {self._resident} to {target}, seed {SEED}", file=sys.stderr)
                raise

    async def _befall(self, misfortune: str, target: str) -> None:
        old = self._resident
        match misfortune:
            case "engine killed in a stream":
                self._send(old, max_tokens=100, ignore_eos=True)
                await self._moment()
                self._signal(await self._engine(old), signal.SIGKILL)
                self._send(target)
            case "engine killed while it loads":
                self._send(target)
                await self._moment(0.3)
                self._signal(await self._engine(target), signal.SIGKILL)
            case "engine killed idle":
                self._signal(await self._engine(old), signal.SIGKILL)
                self._send(target)
            case "engine hangs for a while":
                pid = await self._engine(old)
                self._signal(pid, signal.SIGSTOP)
                self._send(old)
                self._send(target)
                await self._moment(0.5)
                self._signal(pid, signal.SIGCONT)
            case "client leaves in a stream":
                self._leave(self._send(old, max_tokens=100, ignore_eos=True))
                self._send(target)
            case "client leaves while it waits":
                leaving = self._send(target)
                await self._moment()
                self._leave(leaving)
            case "fault":
                fault = self.chance.choice(FAULTS)
                self.hits[f"  {fault}"] += 1
                self._send(old, fault=fault)
                self._send(target)
            case "router killed":
                self._send(old)
                self._send(target)
                await self._moment(0.4)
                await self.router.kill()
                await self.router.start()
            case _:
                for name in (old, target, old):
                    self._send(name)

    # -- blows

    async def _moment(self, spread_s: float = 0.15) -> None:
        await asyncio.sleep(self.chance.uniform(0, spread_s))  # any moment will do: that is the point

    async def _engine(self, name: str) -> int | None:
        pid = (await self.router.status())[name]["pid"]
        return pid if isinstance(pid, int) else None

    def _signal(self, pid: int | None, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, number)

    def _leave(self, chat: asyncio.Task[Events | None]) -> None:
        asyncio.get_running_loop().call_later(self.chance.uniform(0, 0.1), chat.cancel)

    # -- what must hold

    def _send(self, name: str, **more: Any) -> asyncio.Task[Events | None]:
        chat = asyncio.ensure_future(self._chat(name, **more))  # noqa: TID251
        self._chats[chat] = name
        return chat

    async def _chat(self, name: str, **more: Any) -> Events | None:
        """None: nothing came back, because the router was dead."""
        try:
            return await self.router.chat(name, **more)
        except httpx.TransportError:
            return None

    async def _check_answers(self) -> None:
        chats, self._chats = self._chats, {}
        async with asyncio.timeout(30):
            await asyncio.wait(chats)
        for chat, name in chats.items():
            if not chat.cancelled() and (events := chat.result()) is not None:
                self._check_honest(events, name)

    def _check_honest(self, events: Events, name: str) -> None:
        """A right answer, the beginning of one that says it broke off, or an error; never another model's words."""
        right = numbers(name, COUNT)
        text = events.text
        is_whole = len(text) >= len(right)  # with ignore_eos the answer starts over
        assert text.startswith(right) if is_whole else right.startswith(text), (name, events)
        assert is_whole or events.error is not None or events.broken, (name, events)
        self.outcomes["whole" if events.error is None else events.error["code"]] += 1

    async def _serves(self, name: str) -> None:
        async with asyncio.timeout(30):
            events = await self.router.chat(name)
            while events.error is not None:
                # Its engine was killed or was left hanging, which is told honestly; a load by hand ends the back-off.
                self.outcomes[f"again: {events.error['code']}"] += 1
                async with self.router.client() as client:
                    await client.post("/admin/load", json={"model": name})
                events = await self.router.chat(name)
        assert events.text == numbers(name, COUNT), events
        self._resident = name


async def wander(start: Start, folder: Path, switches: int, seed: int) -> None:
    models, backends = mixed_models(folder)
    settings: dict[str, Any] = {"patience": "0.05s", "drain_timeout": "0.5s", "response_timeout": "1s"}
    router = await start(models, backends=backends, **settings)
    wilderness = Wilderness(router, list(models), seed)
    await wilderness.run(switches)
    assert len(router.loads()) >= switches
    assert await router.stop() == 0
    assert leftovers(router) == []
    print("befell:", dict(sorted(wilderness.hits.items())), "came of it:", dict(wilderness.outcomes.most_common()))


async def test_a_few_wild_switches(start: Start, tmp_path: Path) -> None:
    await wander(start, tmp_path, 10, SEED)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_hundreds_of_wild_switches(start: Start, tmp_path: Path) -> None:
    await wander(start, tmp_path, SWITCHES, SEED)
