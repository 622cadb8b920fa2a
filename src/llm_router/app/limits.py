"""What the system lets this process have. Counterpart: `serve`, which asks for as much of it as a router may need."""

from __future__ import annotations

import resource
import sys

_ENOUGH_FILES = 65536


def raise_open_files() -> int:
    """Take as many open files as are ours without asking anybody: shells and services start with 1024, and each running
    request needs two. Returns how many there are now. What is started from here inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, most = _files(soft), _files(hard)
    if allowed < min(_ENOUGH_FILES, most):
        allowed = min(_ENOUGH_FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def _files(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
