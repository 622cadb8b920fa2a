"""How much of a file is cached: told from samples, for a file, for a folder, and never with an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_router.hardware import page_cache
from llm_router.hardware.page_cache import cached_fraction

MIB = 1 << 20


def drop(path: Path, start: int = 0, length: int = 0) -> None:
    """From the cache; pages that were never written to the disk would stay."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """8 MiB on a disk, none of it cached."""
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(8 * MIB))
    drop(path)
    if cached_fraction(path) != 0:
        pytest.skip("this file system keeps its files in memory")
    return path


def test_warm_and_cold_files_are_told_apart(cold: Path) -> None:
    assert cached_fraction(cold) == 0.0
    cold.read_bytes()
    assert cached_fraction(cold) == 1.0


def test_a_file_that_is_half_there_says_so(cold: Path) -> None:
    cold.read_bytes()
    drop(cold, 4 * MIB, 4 * MIB)
    assert cached_fraction(cold) == pytest.approx(0.5, abs=0.1)


def test_a_folder_counts_its_files_by_size(cold: Path) -> None:
    (cold.parent / "config.json").write_bytes(b"x" * 8 * MIB)
    assert cached_fraction(cold.parent) == pytest.approx(0.5)


def test_both_ways_of_asking_agree(cold: Path) -> None:
    cold.read_bytes()
    drop(cold, 0, 2 * MIB)
    windows = [(0, 3 * MIB), (4 * MIB, MIB + 5)]
    with cold.open("rb") as file:
        asked = page_cache._by_cachestat(file.fileno(), windows)
        if asked is None:
            pytest.skip("cachestat needs Linux 6.5")
        assert asked == page_cache._by_mincore(file.fileno(), windows)


def test_a_large_file_is_sampled_from_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.truncate(60 << 30)
    windows = list(page_cache._windows(60 << 30))
    assert (len(windows), windows[0]) == (128, (0, MIB))
    assert (60 << 30) - 2 * MIB < sum(windows[-1]) <= 60 << 30
    assert all(start % 4096 == 0 for start, _ in windows)
    assert cached_fraction(path) == 0.0


def test_what_cannot_be_read_is_cold(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "dangling", "nothing", "."):
        assert cached_fraction(tmp_path / name) == 0.0
