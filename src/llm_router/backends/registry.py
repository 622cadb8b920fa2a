"""Which backends there are: those of this package and of any other that registers one.

A package adds its own under the entry-point group `llm_router.backends`, as `kind = "module:Class"`; the class is
called without arguments.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points

from llm_router.backends.base import Backend

log = logging.getLogger(__name__)

GROUP = "llm_router.backends"


def load() -> dict[str, Backend]:
    """By `kind`. One that can't be loaded costs a warning and itself."""
    found: dict[str, Backend] = {}
    for point in entry_points(group=GROUP):
        try:
            found[point.name] = point.load()()
        except Exception as error:  # noqa: BLE001 - someone else's module may fail in any way
            log.warning(
                "cannot load the backend %s from %s: %r; correct or uninstall it", point.name, point.value, error
            )
    return found
