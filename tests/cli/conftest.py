"""Shared by the tests of the commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from fake_router import FakeRouter


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRouter]:
    with FakeRouter() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("LLM_ROUTER_URL", running.url)
        monkeypatch.setenv("COLUMNS", "200")
        yield running
        running.hold.set()
        running.shutdown()
        thread.join()
