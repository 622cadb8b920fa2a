from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llm_router.backends.base import StopPlan
from llm_router.launchers.process import ProcessLauncher
from llm_router.models import tiny


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Known-answer models: a.gguf, b.gguf (chat), embed.gguf, and bad.gguf, which is cut short."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("a", "b"):
        tiny.write(folder / f"{name}.gguf", name=name, count=60)
    tiny.write(folder / "embed.gguf", name="embed", kind="embedding")
    (folder / "bad.gguf").write_bytes((folder / "a.gguf").read_bytes()[:1000])
    return folder


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[ProcessLauncher]:
    launcher = ProcessLauncher(tmp_path / "state")
    yield launcher
    for process in list(launcher.running):
        await process.stop(StopPlan(grace_s=0, kill_after_s=0))
    launcher.close()
