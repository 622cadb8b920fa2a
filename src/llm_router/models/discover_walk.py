"""Goes through a folder and all below it, once each, however the links lie and however long it would take.

Counterpart: `discover`, which looks at what is in the folders. Opens no file.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_DEEPEST = 16
_MOST_ENTRIES = 500_000
# Not files, or not models: and some of the files below /proc and /sys never end.
_NOT_BELOW = ("/proc", "/sys", "/dev", "/run")
_NEVER = frozenset({".git", "node_modules", "__pycache__", "site-packages", "lost+found", "$RECYCLE.BIN"})
WEIGHTS = (".gguf", ".safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """`files`: the regular files by name, with their size in bytes; links count as what they lead to. `broken`: names
    of weights that are links to nothing, or no regular files. `top`: where the walk began."""

    path: Path
    top: Path
    files: dict[str, int]
    folders: tuple[str, ...]
    broken: tuple[str, ...] = ()


@dataclass(slots=True)
class Walk:
    """`limit_s`: no folder is entered after so long. `trouble`: what couldn't be looked at, and why."""

    limit_s: float
    clock: Callable[[], float] = time.monotonic
    trouble: list[tuple[Path, str]] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def below(self, top: Path) -> Iterator[Folder]:
        """`top` first, then what is in it, by name. The caller may `skip` what is below the folder it has just got."""
        deadline = self.clock() + self.limit_s
        waiting = [(top, 0)]
        entries = 0
        while waiting:
            if self.clock() >= deadline or entries > _MOST_ENTRIES:
                why = f"after {self.limit_s:g} s" if entries <= _MOST_ENTRIES else f"after {entries} files"
                self.trouble.append((waiting[-1][0], f"the search ended here {why}; name this folder to look into it"))
                return
            path, depth = waiting.pop()
            folder = self._look(path, top)
            if folder is None:
                continue
            entries += len(folder.files) + len(folder.folders)
            yield folder
            if depth < _DEEPEST:
                waiting += [(path / name, depth + 1) for name in reversed(folder.folders)]

    def _look(self, path: Path, top: Path) -> Folder | None:
        """None: seen before, or not to be looked at."""
        try:
            known = path.stat()
            identity = (known.st_dev, known.st_ino)
            if identity in self._seen or _is_system(path):
                return None
            self._seen.add(identity)
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self.trouble.append((path, f"it can't be looked into: {error.strerror}"))
            return None
        files: dict[str, int] = {}
        folders, broken = [], []
        for entry in entries:
            kind, size = _kind(entry)
            if kind == "folder" and entry.name not in _NEVER:
                folders.append(entry.name)
            elif kind == "file":
                files[entry.name] = size
            elif kind == "other" and entry.name.lower().endswith(WEIGHTS):
                broken.append(entry.name)
        return Folder(path=path, top=top, files=files, folders=tuple(folders), broken=tuple(broken))


def _kind(entry: os.DirEntry[str]) -> tuple[str, int]:
    try:
        known = entry.stat()
    except OSError:  # a link to nothing, or to itself
        return "other", 0
    if stat.S_ISDIR(known.st_mode):
        return "folder", 0
    return ("file", known.st_size) if stat.S_ISREG(known.st_mode) else ("other", 0)


def _is_system(path: Path) -> bool:
    real = os.path.realpath(path)
    return any(real == place or real.startswith(place + "/") for place in _NOT_BELOW)
