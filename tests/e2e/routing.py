"""A real router process over real sockets, for end-to-end tests; its models are fake backends or known-answer GGUFs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nursery
from nursery import PROGRAMS, Child

FAKE = PROGRAMS / "fake_backend.py"

# The fixture `start`: starts a router for these models, with these settings.
Start = Callable[..., Awaitable["RouterProcess"]]


def fake(*options: str, **more: Any) -> dict[str, Any]:
    """A model served by the fake backend, with these options."""
    command = [sys.executable, "-IS", str(FAKE), "--port", "${PORT}", "--name", "${MODEL}", "--count", "30", *options]
    return {"backend": "openai", "command": command, **more}


def numbers(name: str, count: int) -> str:
    """What a known-answer model says."""
    return f" I am {name}: " + " ".join(str(i) for i in range(1, count + 1))


@dataclass
class Events:
    """A streamed chat, taken apart. `text` is the model's alone; `written` what the router put into the content."""

    status: int
    chunks: list[dict[str, Any]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    done: bool = False
    broken: bool = False

    @property
    def content(self) -> str:
        return "".join(
            choice.get("delta", {}).get("content") or "" for chunk in self.chunks for choice in chunk.get("choices", [])
        )

    @property
    def text(self) -> str:
        return "".join(part for i, part in enumerate(self.content.split("\u2063")) if i % 2 == 0)

    @property
    def written(self) -> str:
        return "".join(part for i, part in enumerate(self.content.split("\u2063")) if i % 2 == 1)

    @property
    def error(self) -> dict[str, Any] | None:
        return next((chunk["error"] for chunk in self.chunks if "error" in chunk), None)


class RouterProcess:
    """`llm-router serve` with its own state folder, as a process of its own. `run`: what that does."""

    run = staticmethod(nursery.run)

    def __init__(self, folder: Path, models: dict[str, Any], **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = folder / "router_config.json"
        settings.setdefault("router_port", 0)
        settings.setdefault("memory", "exclusive")  # the models are small, and the tests are about taking turns
        settings.setdefault("longest_turn", "0s")  # turns are as long as a test says, however slow the machine loads
        settings.setdefault("state_dir", str(folder / "state"))
        self.config.write_text(json.dumps({**settings, "models": models}))
        self.process: Child | None = None
        self._is_told = False  # to end
        self.url = ""
        self.log = folder / "router.log"

    def spawn(self) -> None:
        """Begin to start it, and no more."""
        self.process = Child(["serve", "--config", str(self.config)], self.log, self.run)
        self._is_told = False

    async def start(self) -> None:
        self.spawn()
        assert self.process is not None
        async with asyncio.timeout(30):
            words = (await self.process.first_line()).split()
        url = next((word for word in words if word.startswith("http://127.0.0.1:")), None)
        assert url is not None, f"the router did not start: {self.log.read_text()}"
        self.url = url.removesuffix("/v1")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        self._is_told |= number in (signal.SIGTERM, signal.SIGINT)
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """As `kill -9` does."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None and not self._is_told:
            self.signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            return await self.process.wait()

    def client(self) -> httpx.AsyncClient:
        # Without `verify=False` each one reads the machine's certificates, which takes 30 ms.
        limits = httpx.Limits(max_connections=None)
        # Longer than a silent server is waited for: half a minute until it is looked at, and the time it gets then.
        return httpx.AsyncClient(base_url=self.url, timeout=90, limits=limits, verify=False)

    async def chat(self, model: str, *, headers: dict[str, str] | None = None, **more: Any) -> Events:
        """One streamed chat, from begin to end."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}], **more}
        async with (
            self.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response,
        ):
            events = Events(response.status_code)
            if response.headers["content-type"].startswith("application/json"):
                events.chunks.append(json.loads(await response.aread()))
                return events
            try:
                async for line in response.aiter_lines():
                    if line.startswith(":"):
                        events.comments.append(line[1:].strip())
                    elif line == "data: [DONE]":
                        events.done = True
                    elif line.startswith("data: "):
                        events.chunks.append(json.loads(line[6:]))
            except httpx.TransportError:
                events.broken = True
            return events

    async def status(self) -> dict[str, dict[str, Any]]:
        async with self.client() as client:
            return await _status(client)

    async def when(self, model: str, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 15) -> dict[str, Any]:
        """Wait until this holds of the model's status; returns that."""
        status: dict[str, Any] = {}
        async with self.client() as client:

            async def has_come() -> bool:
                status.update((await _status(client))[model])
                return holds(status)

            await until(has_come, timeout_s)
        return status

    async def until(self, model: str, state: str) -> dict[str, Any]:
        return await self.when(model, lambda status: status["state"] == state)

    async def until_running(self, model: str, count: int) -> None:
        """Wait until the model's fake backend is busy with so many requests."""

        async def has_come() -> bool:
            return bool((await self.stats(model))["running"] == count)

        await until(has_come)

    async def stats(self, model: str) -> dict[str, Any]:
        """What the model's fake backend counted."""
        async with self.client() as client:
            answer: dict[str, Any] = (await client.get(f"/upstream/{model}/stats")).json()
        return answer

    def loads(self) -> list[str]:
        """The models loaded so far, in order, by the router's own log."""
        return [line.split()[-1] for line in self.log.read_text().splitlines() if " loading " in line]


async def _status(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    answer = (await client.get("/admin/status")).json()
    return {model["id"]: model for model in answer["models"]}


async def until(is_true: Callable[[], Awaitable[bool]], timeout_s: float = 10) -> None:
    """Ask again and again, where there is no event to wait for."""
    async with asyncio.timeout(timeout_s):
        while not await is_true():  # noqa: ASYNC110 - the router has no event for everything
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def leftovers(router: RouterProcess) -> list[int]:
    """Every process that carries a token of this router's state folder: engines it started and theirs."""
    folders = (router.folder / "state").glob("**/id")
    tokens = [f"LLM_ROUTER_INSTANCE={file.read_text().strip()}:".encode() for file in folders]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                if any(token in environment for token in tokens) and is_alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
