"""Factories for router processes; afterwards each has ended cleanly and nothing it started is left."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from routing import RouterProcess, Start, leftovers

from llm_router.models import tiny

# The contract isn't packaged: it is found from the repository's root.
sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    routers: list[RouterProcess] = []

    async def start(models: dict[str, Any], **settings: Any) -> RouterProcess:
        folder = tmp_path / f"router-{len(routers)}"
        folder.mkdir()
        router = RouterProcess(folder, models, **settings)
        routers.append(router)
        await router.start()
        return router

    yield start
    await _end(routers)


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """As `start`, but who asks for the same models and settings gets the same router, as the test before left it."""
    routers: dict[str, RouterProcess] = {}

    async def share(models: dict[str, Any], **settings: Any) -> RouterProcess:
        asked = json.dumps([models, settings])
        if asked not in routers:
            routers[asked] = RouterProcess(tmp_path_factory.mktemp("shared"), models, **settings)
            await routers[asked].start()
        return routers[asked]

    yield share
    asyncio.run(_end(routers.values()))


async def _end(routers: Iterable[RouterProcess]) -> None:
    for router in routers:
        assert await router.stop() == 0
    for router in routers:
        assert "Traceback" not in router.log.read_text(), router.log.read_text()
        assert leftovers(router) == []


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Two known-answer chat models and an embedding model, for the real embedded llama.cpp."""
    folder = tmp_path_factory.mktemp("models")
    models: dict[str, dict[str, Any]] = {}
    for seed, name in enumerate(("tiny-a", "tiny-b"), start=1):
        path = tiny.write(folder / f"{name}.gguf", name=name, seed=seed, count=50)
        models[name] = {"backend": "llamacpp", "path": str(path), "context_length": 1024, "args": ["-t", "1"]}
    path = tiny.write(folder / "tiny-embed.gguf", name="tiny-embed", kind="embedding")
    models["tiny-embed"] = {
        "backend": "llamacpp",
        "path": str(path),
        "capabilities": ["embedding"],
        "args": ["-t", "1"],
    }
    return models
