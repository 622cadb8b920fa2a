"""The folder in which instances outlive the router: who may use it, and where what lies in it.

Counterpart: `places`. A second router on the same folder gets a numbered folder inside it, and one that can't be
used is replaced by one under /tmp: always the same, so that the next router finds what the last one left. One that can
only be read by now is used for what is in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm_router.launchers import procfs
from llm_router.launchers.remedies import next_step

log = logging.getLogger(__name__)

# Logs of earlier instances kept for each model, to be read after a failure.
KEPT_LOGS = 5
# Routers on one state folder at the same time.
MAX_ROUTERS = 9
_MEMORY = Path("/dev/shm")  # noqa: S108 -- only a folder there that is ours alone is used


class StateFolder:
    """One router's own, locked. `id` marks the processes started from this folder, so that routers with different
    folders never touch each other's; it begins with what stands for the place, so that they are known even where the
    folder is lost. `base`: the folder that routers share; `path`: this one, or one inside it. `instead_of`: the base
    that couldn't be used.

    Raises: BlockingIOError where another router is using it; OSError where it can't be used at all.
    """

    def __init__(self, path: Path, base: Path) -> None:
        self.path = path
        self.base = base
        self.instead_of: Path | None = None
        self.logs = path / "logs"
        self.instances = path / "instances"
        for folder in (path, self.logs, self.instances):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = _opened(path / "lock")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.id = _read_id(path / "id", _short(base))
        except OSError:
            os.close(fd)
            raise
        self._unlock = weakref.finalize(self, os.close, fd)

    def stdin(self, key: str) -> Path:
        return self.instances / f"{key}.stdin"

    def new_log(self, slug: str, instance: int) -> Path:
        """The path for a new instance's log; the oldest logs of the same model make room."""
        own = re.compile(re.escape(slug) + r"-\d+\.log")
        older = sorted((path for path in self.logs.iterdir() if own.fullmatch(path.name)), key=_modified_s)
        for path in older[: -(KEPT_LOGS - 1)]:
            with contextlib.suppress(OSError):
                path.unlink()
        return self.logs / f"{slug}-{instance}.log"

    def discard(self, path: Path) -> None:
        """A log that came to nothing."""
        with contextlib.suppress(OSError):
            path.unlink()

    def remove_if_unused(self) -> None:
        """With its logs, if no instance is left in it."""
        if not any(self.instances.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Idempotent."""
        self._unlock()


def open_state(path: Path) -> StateFolder:
    """The first that can be used of `path` and the folders in its place, with a warning if it isn't `path`."""
    for choose in (_shared, _substitute):
        try:
            state = choose(path)
        except OSError as error:
            step = next_step(error, "give the router one that it may write")
            log.warning("cannot use the state folder %s: %s; %s", path, error, step)
        else:
            if state.path != path:
                log.warning("this router's state is kept in %s", state.path)
            state.instead_of = None if state.base == path else path
            return state
    state = _fresh()
    state.instead_of = path
    log.warning("this router's state is kept in %s: models will not survive a restart", state.path)
    return state


def open_spare(state: StateFolder, *, only_found: bool = False) -> StateFolder | None:
    """A folder in memory for what `state` refuses, always the same. None: there is none, or with `only_found` none was
    made by an earlier router."""
    for parent in (_MEMORY, Path(tempfile.gettempdir())):
        base = parent / f"{_substitute_for(state.instead_of or state.path).name}-spare"
        if only_found and not (base / "id").exists():
            continue
        with contextlib.suppress(OSError):
            return StateFolder(_ours_alone(base), base)
    return None


def abandoned(state: StateFolder) -> Iterator[StateFolder]:
    """What routers used that shared the folder with this one and are gone now. Close each."""
    for base in (state.base, _substitute_for(state.base)):
        for path in _folders(base):
            if path != state.path and (path / "id").exists():
                with contextlib.suppress(OSError):
                    yield StateFolder(path, base)


def forgotten(state: StateFolder, tokens: Iterable[str]) -> list[str]:
    """Those of `tokens` that were given from this place, or from the one that this is instead of, and that no folder
    there knows: it was emptied, or can't be used any more. None while another router runs that has files there."""
    place = state.instead_of or state.base
    known = tuple(f"{text}:" for folder in _folders(place) if (text := _known_id(folder / "id")))
    found = [token for token in tokens if token.startswith(f"{_short(place)}-") and not token.startswith(known)]
    return [] if found and _is_in_use(place, state) else found


def _is_in_use(place: Path, state: StateFolder) -> bool:
    """By another router: asked of the files that are open, since nothing in the folder can be."""
    locks = {f"{folder}/lock{suffix}" for folder in _folders(place.resolve()) for suffix in ("", " (deleted)")}
    own = {str(state.path.resolve() / "lock")}
    return any(procfs.open_files(pid) & (locks - own if pid == os.getpid() else locks) for pid in procfs.pids())


def _known_id(path: Path) -> str:
    """Empty: none that can be read."""
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def _folders(base: Path) -> list[Path]:
    return [base, *(base / str(number) for number in range(2, MAX_ROUTERS + 1))]


def _shared(base: Path) -> StateFolder:
    for path in _folders(base):
        try:
            return StateFolder(path, base)
        except BlockingIOError:
            log.warning("cannot share the state folder %s: another router is using it", path)
    raise BlockingIOError(f"{MAX_ROUTERS} routers are using it already")


def _substitute(path: Path) -> StateFolder:
    """Must be nobody else's: who can write there could have us adopt and signal what he likes."""
    return _shared(_ours_alone(_substitute_for(path)))


def _ours_alone(folder: Path) -> Path:
    """Made if it isn't there. Raises: PermissionError where others may write, or OSError where it can't be made."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is someone else's")
    return folder


def _fresh() -> StateFolder:
    """In memory, where the disk refuses. Raises: OSError."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="llm-router-"))
        return StateFolder(folder, folder)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="llm-router-", dir=_MEMORY))
        return StateFolder(folder, folder)


def _substitute_for(path: Path) -> Path:
    return Path(tempfile.gettempdir()) / f"llm-router-{os.getuid()}-{_short(path)}"


def _short(path: Path) -> str:
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:8]


def _opened(lock: Path) -> int:
    """What is there can be locked, though nothing can be written."""
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(lock, os.O_RDONLY | os.O_CLOEXEC)


def _read_id(path: Path, place: str) -> str:
    """Written once: a moved folder keeps its processes."""
    with contextlib.suppress(FileNotFoundError):
        if text := path.read_text().strip():
            return text
    scratch = path.with_suffix(".tmp")
    text = f"{place}-{secrets.token_hex(8)}"
    scratch.write_text(text)
    scratch.replace(path)
    return text


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
