"""The table of docs/reference/compatibility.md: each row is a function that asks a router for one feature, of every
backend, and what the backend's engine was asked then decides what stands in the table.

Counterparts: `compatibility_rows`, the rows; `test_compatibility`, which holds the page against what is seen;
`docs/generate.py`, which writes it; `tests/programs/fake_featured.py`, the engines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from engines import program, tabby_home
from nursery import PROGRAMS
from routing import RouterProcess, leftovers

from llm_router.launchers.ports import Ports

BACKENDS = ("llamacpp", "sglang", "vllm", "tabbyapi", "openai")
NATIVE, TRANSLATED, ROUTER, NOT_POSSIBLE = "native", "translated", "router", "not possible"
COUNT = 5
# An embedding model has a server of its own, and lives beside the others.
EMBEDS = "-embed"
_SAME = {"/rerank": "/v1/rerank", "/v1/reranking": "/v1/rerank"}


class NotPossible(Exception):
    """The feature was refused, or is lost, in the way the row says it must be."""


@dataclass
class Asking:
    """One feature, asked of one backend. `journal`: what its engine has answered, also for earlier rows."""

    backend: str
    router: RouterProcess
    client: httpx.AsyncClient
    journal: Path
    paths: list[str] = field(default_factory=list)

    @property
    def model(self) -> str:
        return self.backend

    async def post(self, path: str, body: dict[str, Any] | None = None, **more: Any) -> httpx.Response:
        """Raises: NotPossible where the router says that there is no such thing."""
        self.paths.append(_SAME.get(path, path))
        answer = await self.client.post(path, **({} if body is None else {"json": body}), **more)
        if answer.status_code == 501:
            raise NotPossible(str(answer.json()["error"]))
        return answer

    async def json(self, path: str, body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        answer = await self.post(path, body, **more)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def answered(self) -> list[dict[str, Any]]:
        """What the engine was asked so far and had an endpoint for, oldest first: {"path", "body"}."""
        return [json.loads(line) for line in self.journal.read_text().splitlines()] if self.journal.exists() else []

    async def unloaded(self) -> None:
        """Whatever was before: the model isn't loaded now."""
        answer = await self.client.post("/admin/unload", json={"model": self.model})
        assert answer.status_code == 200, answer.text

    async def loaded(self) -> None:
        answer = await self.client.post("/admin/load", json={"model": self.model})
        assert '"ready":true' in answer.text.replace(" ", ""), answer.text


Row = Callable[[Asking], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """`why`: what a reader wants to know of a cell that isn't `native` or `translated`."""

    dialect: str
    name: str
    why: str
    ask: Row


FEATURES: dict[str, Feature] = {}


def feature(dialect: str, name: str, why: str = "") -> Callable[[Row], Row]:
    """Makes a function a row."""

    def add(ask: Row) -> Row:
        FEATURES[getattr(ask, "__name__")] = Feature(dialect=dialect, name=name, why=why, ask=ask)  # noqa: B009
        return ask

    return add


class Table:
    """One router before an engine of each kind."""

    def __init__(self, router: RouterProcess, client: httpx.AsyncClient, folder: Path) -> None:
        self._router = router
        self._client = client
        self._folder = folder

    async def seen(self, row: Feature) -> list[str]:
        """A word for each backend. Raises: whatever the row does where the feature isn't as it should be."""
        return [await self._of(backend, row) for backend in BACKENDS]

    async def _of(self, backend: str, row: Feature) -> str:
        asking = Asking(backend, self._router, self._client, self._folder / f"{backend}.jsonl")
        before = len(asking.answered())
        try:
            await row.ask(asking)
        except NotPossible:
            return NOT_POSSIBLE
        except BaseException as error:
            error.add_note(f"asked of {backend}")
            raise
        asked = {line["path"] for line in asking.answered()[before:]}
        if not asked:
            return ROUTER
        return NATIVE if asked <= set(asking.paths) else TRANSLATED


def _models(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The models, and the backends' settings."""

    def words(engine: str) -> tuple[str, ...]:
        # So long a load that who waits for it is told.
        pace = ("--count", str(COUNT), "--startup-s", "0.1")
        return (*pace, "--as", engine, "--journal", str(folder / f"{engine}.jsonl"))

    def stand_in(engine: str, name: str, *more: str) -> str:
        return str(program(folder, name, "fake_featured.py", *more, *words(engine)))

    def command(name: str) -> list[str]:
        start = [sys.executable, "-IS", str(PROGRAMS / "fake_featured.py"), "--port", "${PORT}", "--name", name]
        return [*start, "--style", "openai", *words("openai")]

    file = folder / "model.gguf"
    file.write_bytes(b"GGUF")
    home = tabby_home(folder, "tabbyapi", "tabbyapi-embed")
    backends = {
        "llamacpp": {"binary": stand_in("llamacpp", "llama-server", "--push-lines")},
        "sglang": {"binary": stand_in("sglang", "sglang", "--term-tick-s", "0.05", "--warmup-s", "0")},
        "vllm": {"binary": stand_in("vllm", "vllm")},
        "tabbyapi": {"binary": stand_in("tabbyapi", "tabby.sh"), "directory": str(home)},
    }
    models: dict[str, Any] = {
        "llamacpp": {"backend": "llamacpp", "path": str(file)},
        "sglang": {"backend": "sglang", "path": str(folder)},
        "vllm": {"backend": "vllm", "path": str(folder)},
        "tabbyapi": {"backend": "tabbyapi", "path": str(home / "models" / "tabbyapi")},
        "openai": {"backend": "openai", "command": command("openai")},
    }
    embedding = {
        name + EMBEDS: {**model, "capabilities": ["embedding", "rerank"]}
        for name, model in models.items()
        if name != "tabbyapi"
    }
    # Its own config.yml names the embedding model; the router can't.
    script = Path(stand_in("tabbyapi", "start.sh", "--port", "$PORT", "--model-name", "tabbyapi-embed"))
    script.write_text(script.read_text().replace("exec", f"cd {home}\nexec", 1))
    by_script = {"backend": "tabbyapi", "script": str(script), "port": Ports().take(), "capabilities": ["embedding"]}
    for model in models.values():
        model |= {"memory": "1MiB"}
    return {**models, **embedding, "tabbyapi-embed": by_script}, backends


@asynccontextmanager
async def table(folder: Path) -> AsyncIterator[Table]:
    """Starts the router; afterwards nothing of it is left."""
    models, backends = _models(folder)
    router = RouterProcess(folder / "router", models, backends=backends, memory="4GiB")
    await router.start()
    try:
        async with router.client() as client:
            yield Table(router, client, folder)
    finally:
        assert await router.stop() == 0, router.log.read_text()
    assert leftovers(router) == []


# -- the page

_HEAD = """# Compatibility

<!-- Generated by `python docs/generate.py` from what is seen: edit tests/e2e/compatibility_*.py, not this page. -->

What works in which dialect with which backend. Every cell is what was seen when a router was asked for it, with a
stand-in of each engine behind it that answers in that engine's own bytes; a test asks again and compares.

- **native**: the server's own endpoint is asked, with what the client sent. Whether the model that is loaded can do it
  is the server's to say.
- **translated**: another endpoint of the server is asked, and the reply is written anew in the client's dialect.
- **router**: the router answers by itself.
- **not possible**: refused with the dialect's own error, or lost; the last column says why.

`openai` is any other server that speaks OpenAI. What it has nobody knows, so it is tried: here it has everything but
Responses.

Other people's clients are tried too: `openai`, `anthropic`, `ollama` and LangChain (`langchain-openai`) by tests,
Open-WebUI in a browser ([how](../how-to/open-webui.md)). LangChain's `OpenAIEmbeddings` needs
`check_embedding_ctx_length=False`, as with any server but OpenAI's: else it sends numbers of tokens instead of texts.
"""


def line(row: Feature, seen: list[str]) -> str:
    return f"| {row.name} | {' | '.join(seen)} | {row.why} |".replace("|  |", "| |")


def page(seen: dict[str, list[str]]) -> str:
    """`seen`: by the rows' names."""
    dialects = dict.fromkeys(row.dialect for row in FEATURES.values())
    return "\n".join([_HEAD, *(_section(dialect, seen) for dialect in dialects)])


def _section(dialect: str, seen: dict[str, list[str]]) -> str:
    rows = [line(row, seen[name]) for name, row in FEATURES.items() if row.dialect == dialect]
    head = f"| | {' | '.join(BACKENDS)} | |"
    return "\n".join([f"## {dialect}\n", head, "| --- " * (len(BACKENDS) + 2) + "|", *rows, ""])
