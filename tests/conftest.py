"""How hard properties are tried: other examples each time, fewer of them than Hypothesis would take, because the
default tests run often. `HYPOTHESIS_PROFILE=thorough` takes many more. How long one takes says something of the machine
and nothing of the program.

And how the processes of the tests share the work and the machine: each collects all tests, takes one file of them after
another, and has ports of its own.
"""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

from llm_router.launchers import ports

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("untimed"), max_examples=40)
settings.register_profile("thorough", settings.get_profile("untimed"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

gc.disable()  # nothing of what is imported and collected is garbage, and looking for some takes a seventh of the time


def pytest_configure() -> None:
    """Or else two that look for a free port at once find the same one, now and then."""
    number, count = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    ports._PREFERRED = ports._PREFERRED[int(number.removeprefix("gw")) :: int(count)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files whose tests wait most come first, so that at the end none is left that takes long by itself."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
