"""`kill -9` in every phase, of the router or of an engine, hundreds of times: it serves each time, nothing is left
behind, and no answer comes from the wrong model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from routing import Events, RouterProcess, Start, fake, is_alive, leftovers, numbers

ROUNDS = int(os.environ.get("LLM_ROUTER_KILLS", "200"))
REAL_ROUNDS = int(os.environ.get("LLM_ROUTER_REAL_KILLS", "30"))

# When the blow falls: right after a spawn, in the middle of a load, the moment a model is ready, in a stream, while
# the resident drains, while it is being stopped, while a restarted router takes over, and at any time at all.
PHASES = ("spawn", "load", "ready", "stream", "drain", "stop", "takeover", "any")


class Rounds:
    """`names`: the models; each answers with its name and the numbers up to `count`."""

    def __init__(self, router: RouterProcess, names: list[str], count: int, seed: int) -> None:
        self.router = router
        self.names = names
        self.count = count
        self.chance = random.Random(seed)
        self.hits: Counter[str] = Counter()
        self._resident = names[0]
        self._chats: dict[asyncio.Task[Events | None], str] = {}
        self._log_read = 0

    async def run(self, rounds: int) -> None:
        await self._serves(self._resident)
        for number in range(rounds):
            # Each phase in its turn, so that none depends on luck; the moment within it is random.
            phase = PHASES[number % len(PHASES)]
            victim = "router" if phase == "takeover" or self.chance.random() < 0.6 else "engine"
            if not await self._reach(phase):
                phase = f"{phase} missed"
            self.hits[f"{victim}: {phase}"] += 1
            await (self._kill_router(phase) if victim == "router" else self._kill_engine())
            await self._check_answers()
            await self._serves(self.chance.choice(self.names))

    # -- the moment

    async def _reach(self, phase: str) -> bool:
        other = self.chance.choice([name for name in self.names if name != self._resident])
        self._log_read = self._log_size()
        match phase:
            case "spawn":
                self._send(other)
                return await self._logged(f"loading {other}", 0.05)
            case "load":
                self._send(other)
                return await self._logged(f"loading {other}", 0.25)
            case "ready":
                self._send(other)
                return await self._logged(f"{other} is ready", 0.02)
            case "stream":
                self._send(self._resident)
                return await self._seen(self._resident, "leases", 1)
            case "drain":
                self._send(self._resident)
                await self._seen(self._resident, "leases", 1)
                self._send(other)
                return await self._seen(self._resident, "state", "draining")
            case "stop":
                self._send(other)
                return await self._logged(f"stopping {self._resident}", 0.3)
            case "takeover":
                self._send(other)
                await asyncio.sleep(self.chance.uniform(0, 0.4))
                return True
            case _:
                for _ in range(self.chance.randint(1, 4)):
                    self._send(self.chance.choice(self.names))
                await asyncio.sleep(self.chance.uniform(0, 0.4))
                return True

    async def _logged(self, words: str, spread_s: float) -> bool:
        """Wait for a line in the router's log, and then at most `spread_s` more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while words not in self._log_since():  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
                await asyncio.sleep(self.chance.uniform(0, spread_s))
                return True
        return False

    async def _seen(self, name: str, key: str, value: object) -> bool:
        with contextlib.suppress(TimeoutError, httpx.TransportError):
            await self.router.when(name, lambda status: bool(status[key] == value), timeout_s=1)
            return True
        return False

    def _log_size(self) -> int:
        return self.router.log.stat().st_size

    def _log_since(self) -> str:
        with self.router.log.open() as log:
            log.seek(self._log_read)
            return log.read()

    # -- the blow

    async def _kill_router(self, phase: str) -> None:
        await self.router.kill()
        if phase == "takeover":
            self.router.spawn()
            await asyncio.sleep(self.chance.uniform(0, 0.3))
            await self.router.kill()
        await self.router.start()

    async def _kill_engine(self) -> None:
        engines = leftovers(self.router)
        if engines:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(engines), signal.SIGKILL)

    # -- what must hold

    def _send(self, name: str) -> None:
        self._chats[asyncio.ensure_future(self._chat(name))] = name  # noqa: TID251

    async def _chat(self, name: str) -> Events | None:
        """None: the router was dead before it said anything."""
        try:
            return await self.router.chat(name)
        except httpx.TransportError:
            return None

    async def _check_answers(self) -> None:
        chats, self._chats = self._chats, {}
        async with asyncio.timeout(30):
            await asyncio.wait(chats)
        for chat, name in chats.items():
            events = chat.result()
            assert events is None or self._is_honest(events, name), (name, events)

    def _is_honest(self, events: Events, name: str) -> bool:
        """A whole right answer, the beginning of one that says it broke off, or an error."""
        right = numbers(name, self.count)
        if events.text == right and events.done and events.error is None:
            return True
        return (events.broken or events.error is not None) and right.startswith(events.text)

    async def _serves(self, name: str) -> None:
        async with asyncio.timeout(20):
            events = await self.router.chat(name)
            while events.error is not None and events.error["code"] == "model_load_failed":
                # Its engine was killed while it loaded, and the back-off is honest; a load that someone asks for
                # by hand ends it.
                async with self.router.client() as client:
                    await client.post("/admin/load", json={"model": name})
                events = await self.router.chat(name)
        assert events.text == numbers(name, self.count), events
        self._resident = name

    async def check_the_end(self) -> None:
        """Nothing is left: no process, no zombie, no entry, and only so many logs."""
        state = self.router.folder / "state"
        assert _zombies_of(self.router.pid) == []
        assert len(list((state / "instances").glob("*.json"))) <= len(self.names)
        assert await self.router.stop() == 0
        assert [pid for pid in leftovers(self.router) if is_alive(pid)] == []
        assert list((state / "instances").iterdir()) == []
        assert len(list((state / "logs").iterdir())) <= 5 * len(self.names)
        print("killed:", ", ".join(f"{what} {count}" for what, count in sorted(self.hits.items())))


def _zombies_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] == "Z" and int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_kills_in_every_phase(start: Start) -> None:
    models = {
        "a": fake("--startup-s", "0.1", "--token-ms", "5"),
        "b": fake("--startup-s", "0.05", "--token-ms", "3", "--push-lines", "--ignore-term", backend="hasty"),
        "c": fake("--token-ms", "4", "--spawn-child", "group", backend="hasty"),
    }
    router = await start(models, drain_timeout="1s", patience="0.05s")
    rounds = Rounds(router, list(models), count=30, seed=20261122)
    await rounds.run(ROUNDS)
    await rounds.check_the_end()
    if ROUNDS >= 100:
        assert {phase for what in rounds.hits for phase in PHASES if what.endswith(f": {phase}")} == set(PHASES)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kills_with_a_real_engine(start: Start, tiny_models: dict[str, Any]) -> None:
    models = {name: tiny_models[name] for name in ("tiny-a", "tiny-b")}
    router = await start(models, drain_timeout="1s", patience="0.05s")
    rounds = Rounds(router, list(models), count=50, seed=20261123)
    await rounds.run(REAL_ROUNDS)
    await rounds.check_the_end()
