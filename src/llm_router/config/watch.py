"""Notices that the configuration file isn't what it was: edited, replaced, gone, back, or behind another link.

Counterpart: `load`, which then reads it. Watches folders, since most editors and tools put a new file in the place of
the old one, and every folder with a link on the way to it, since some exchange the link.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from asyncinotify import Inotify, Mask

_log = logging.getLogger(__name__)

_QUIET_S = 0.2  # a tool that replaces a file needs a few steps for it
_MOST_LINKS = 40  # as many as the kernel follows
# Not MODIFY: whoever writes isn't done before he closes.
_EVENTS = (
    Mask.CLOSE_WRITE
    | Mask.CREATE
    | Mask.DELETE
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.ATTRIB
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
)

_Fingerprint = tuple[str, bytes | int | None]


class FileWatch:
    """Calls `on_change` on the running loop, soon after the file has changed. `close` it.

    What counts is the file's content and real place: touching it changes nothing. Raises: OSError where the system
    gives no more watches.
    """

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        self._path = path.absolute()
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._inotify = _watching(folders(self._path))
        self._seen: _Fingerprint | None = _fingerprint(self._path)
        self._listen()

    def forget(self) -> None:
        """Somebody else has read the file, who knows in which state: whatever is there when something happens next
        counts as a change. Without this, a change that is read and taken back within a pause would stay in force."""
        self._seen = None

    def close(self) -> None:
        """Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._inotify.fd)
        self._inotify.close()

    def _listen(self) -> None:
        self._loop.add_reader(self._inotify.fd, self._stirred)

    def _stirred(self) -> None:
        """Something happened in one of the folders. A pause follows, so that a busy folder wakes nobody often."""
        self._loop.remove_reader(self._inotify.fd)
        self._pause = self._loop.call_later(_QUIET_S, self._look)

    def _look(self) -> None:
        """Watch anew before looking: the folders themselves may be others now, and nothing may slip between."""
        self._pause = None
        try:
            fresh = _watching(folders(self._path))
        except OSError as error:
            os.read(self._inotify.fd, 65536)
            _log.warning("cannot watch the folders of %s anew: %s; reload it by hand", self._path, error)
        else:
            self._inotify.close()
            self._inotify = fresh
        self._listen()
        seen = _fingerprint(self._path)
        if seen != self._seen:
            self._seen = seen
            self._on_change()


def folders(path: Path) -> list[Path]:
    """Where something can happen that makes `path` (absolute) another file: the folder of each link on the way, and the
    last one that is there."""
    found: list[Path] = []
    place, links = Path("/"), 0
    steps = deque(path.parts[1:])
    while steps:
        step = steps.popleft()
        inner = place.parent if step == ".." else place / step
        if inner.is_symlink() and links < _MOST_LINKS:
            links += 1
            found.append(place)
            target = inner.readlink()
            steps.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
            place = Path("/") if target.is_absolute() else place
        elif steps and inner.is_dir():
            place = inner
        else:
            break
    return list(dict.fromkeys([*found, place]))


def _watching(places: list[Path]) -> Inotify:
    """Raises: OSError."""
    inotify = Inotify()
    try:
        for place in places:
            try:
                inotify.add_watch(place, _EVENTS)
            except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                _log.debug("cannot watch %s: %s", place, error)
    except BaseException:
        inotify.close()
        raise
    return inotify


def _fingerprint(path: Path) -> _Fingerprint:
    """Its real place (relative paths in it start there) and its content, or why that can't be read."""
    place = os.path.realpath(path)
    try:
        return place, hashlib.blake2b(path.read_bytes()).digest()
    except OSError as error:
        return place, error.errno
