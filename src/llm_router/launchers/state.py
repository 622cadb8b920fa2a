"""The folder in which instances outlive the router: who may use it, and where what lies in it.

Counterpart: `process`. Falls back to a private temporary folder where it can't be used.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import tempfile
import weakref
from pathlib import Path

log = logging.getLogger(__name__)

# Logs of earlier instances kept for each model, to be read after a failure.
KEPT_LOGS = 5


class StateFolder:
    """`id` marks the processes started from this folder, so that routers with different folders never touch each
    other's. A lock keeps a second router from adopting what the first one is running."""

    def __init__(self, path: Path) -> None:
        self._is_temporary = False
        try:
            self._open(path)
        except OSError as error:
            reason = "another router is using it" if isinstance(error, BlockingIOError) else error
            log.warning(
                "cannot use the state folder %s: %s; models will not survive a restart of the router. "
                "Give it a folder of its own that it may write",
                path,
                reason,
            )
            self._is_temporary = True
            self._open(Path(tempfile.mkdtemp(prefix="llm-router-")))

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

    def close(self) -> None:
        """Idempotent."""
        self._unlock()
        if self._is_temporary:
            shutil.rmtree(self.path, ignore_errors=True)

    def _open(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.instances = path / "instances"
        for folder in (path, self.logs, self.instances):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.id = _read_id(path / "id")
        except OSError:
            os.close(fd)
            raise
        self._unlock = weakref.finalize(self, os.close, fd)


def _read_id(path: Path) -> str:
    """Written once: a moved folder keeps its processes."""
    with contextlib.suppress(FileNotFoundError):
        if text := path.read_text().strip():
            return text
    scratch = path.with_suffix(".tmp")
    text = secrets.token_hex(8)
    scratch.write_text(text)
    scratch.replace(path)
    return text


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
