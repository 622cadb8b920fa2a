"""As many open files as are to be had, and no more than a router can use."""

from __future__ import annotations

import multiprocessing
import resource

from llm_router.app.limits import raise_open_files


def _raised() -> list[tuple[int, int]]:
    found = []
    for soft, hard in ((256, 2000), (2000, 2000), (300, 300)):  # downwards: a hard limit can't be raised again
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        found.append((raise_open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    return found


def test_the_limit_is_raised_to_what_may_be_had() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        assert process.apply(_raised) == [(2000, 2000), (2000, 2000), (300, 300)]
