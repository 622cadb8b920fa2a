"""What the system lets this process have. Counterpart: `serve`, which asks for as much of it as a router may need."""

from __future__ import annotations

import resource

_ENOUGH_FILES = 65536


def raise_open_files() -> int:
    """Take as many open files as are ours without asking anybody: shells and services start with 1024, and each running
    request needs two. Returns how many there are now. What is started from here inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(_ENOUGH_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _ENOUGH_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
