import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop
from launching import AT_ONCE

from llm_router.launchers.process import ProcessLauncher


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def pytest_itemcollected(item: pytest.Item) -> None:
    """The router runs on uvloop alone; that nothing here depends on it is seen by CI."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and asyncio.new_event_loop in callspec.params.values():
        item.add_marker("slow")


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[ProcessLauncher]:
    launcher = ProcessLauncher(tmp_path / "state")
    yield launcher
    for process in list(launcher.running):
        await process.stop(AT_ONCE)
    launcher.close()


@pytest.fixture(autouse=True)
def open_files_are_closed() -> Iterator[None]:
    yield
    # Loops and pytest keep a few of their own; a leak of pidfds or watches shows up as a growing number.
    assert len(list(Path("/proc/self/fd").iterdir())) < 60
