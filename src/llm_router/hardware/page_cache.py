"""How much of a file is in the page cache: whether a start will be warm. Counterpart: `runtime`, which asks."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

_WINDOWS, _WINDOW = 128, 1 << 20  # so that 60 GB cost 128 calls rather than a walk over 15 million pages
_CACHESTAT = 451  # the number of the call on every architecture; since Linux 6.5
_libc = ctypes.CDLL(None, use_errno=True)


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def cached_fraction(path: Path) -> float:
    """0 (none) to 1 (all) of a file, or of the files in a folder by their size. From samples spread evenly, so it costs
    a millisecond or less a file. 0 where there is nothing to read or the system doesn't tell. Never raises."""
    try:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    except OSError:
        return 0.0
    sampled = [_sampled(file) for file in files]
    size = sum(size for size, _ in sampled)
    return sum(size * fraction for size, fraction in sampled) / size if size else 0.0


def _sampled(path: Path) -> tuple[int, float]:
    """Size in bytes, and which part of it is cached."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return 0, 0.0
    try:
        size = os.fstat(descriptor).st_size
        windows = list(_windows(size))
        cached = _by_cachestat(descriptor, windows)
        if cached is None:
            cached = _by_mincore(descriptor, windows)
        pages = sum(_pages(length) for _, length in windows)
        return size, min(cached / pages, 1.0) if pages else 0.0
    except OSError:
        return 0, 0.0
    finally:
        os.close(descriptor)


def _windows(size: int) -> Iterator[tuple[int, int]]:
    """Start and length of each sample, on page boundaries."""
    if size <= _WINDOWS * _WINDOW:
        if size:
            yield 0, size
        return
    step = (size - _WINDOW) // (_WINDOWS - 1)
    for number in range(_WINDOWS):
        yield number * step // mmap.PAGESIZE * mmap.PAGESIZE, _WINDOW


def _by_cachestat(descriptor: int, windows: list[tuple[int, int]]) -> int | None:
    """Cached pages; None where the kernel has no such call, or doesn't tell us about this file."""
    counts, cached = _Counts(), 0
    for start, length in windows:
        part = _Range(start, length)
        if _libc.syscall(_CACHESTAT, descriptor, ctypes.byref(part), ctypes.byref(counts), 0) != 0:
            return None
        cached += int(counts.cached)
    return cached


def _by_mincore(descriptor: int, windows: list[tuple[int, int]]) -> int:
    """Cached pages. 0 for a file that is someone else's: the kernel says "all" then, whatever the truth (since 5.2)."""
    if os.fstat(descriptor).st_uid != os.geteuid() and os.geteuid() != 0:
        return 0
    cached = 0
    for start, length in windows:
        # Private and writable only because ctypes asks for a buffer that is; nothing is written.
        with mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY, offset=start) as content:
            answer = (ctypes.c_ubyte * _pages(length))()
            first = ctypes.c_char.from_buffer(content)
            try:
                if _libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), answer) != 0:
                    return 0
            finally:
                del first  # or the map couldn't be closed
            cached += sum(byte & 1 for byte in answer)
    return cached


def _pages(length: int) -> int:
    return -(-length // mmap.PAGESIZE)
