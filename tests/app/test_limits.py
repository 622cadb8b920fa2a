"""As many open files as are to be had, and no more than a router can use."""

from __future__ import annotations

import json
import subprocess
import sys

from llm_router.app import limits

# By itself, and not as a part of the program, whose import takes a second.
RAISE = """
import json, resource, runpy, sys
raise_open_files = runpy.run_path(sys.argv[1])["raise_open_files"]
found = []
for soft, hard in json.loads(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found.append([raise_open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]])
print(json.dumps(found))
"""


def test_the_limit_is_raised_to_what_may_be_had() -> None:
    given = [(256, 2000), (2000, 2000), (300, 300)]  # downwards: a hard limit can't be raised again
    argv = [sys.executable, "-IS", "-c", RAISE, limits.__file__, json.dumps(given)]
    told = subprocess.run(argv, capture_output=True, check=True).stdout
    assert json.loads(told) == [[2000, 2000], [2000, 2000], [300, 300]]
