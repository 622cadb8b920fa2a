"""What was seen on a real system: an installation and its life in a throwaway Debian with systemd.

LLM_ROUTER_SYSTEMD_BOX names a program that runs a command in one: `BOX --bind HOSTDIR:BOXDIR … -- COMMAND …`, as root.
Without it these tests are skipped. Counterpart: scenario.py, which runs inside; it takes some minutes, once.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCENARIO = Path(__file__).with_name("scenario.py")
BOX = os.environ.get("LLM_ROUTER_SYSTEMD_BOX")
NAMES = re.findall(r"^@seen\ndef (\w+)", SCENARIO.read_text(), re.MULTILINE)

pytestmark = [
    pytest.mark.box,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not BOX, reason="LLM_ROUTER_SYSTEMD_BOX names no program that runs a command in a system with systemd"
    ),
]


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of one run through the whole scenario, by name."""
    from llm_router.models import tiny  # needs the packages of the demo

    models = tmp_path_factory.mktemp("models")
    models.chmod(0o755)  # the service isn't root
    for seed, name in enumerate(("tiny-a", "tiny-b"), 1):
        tiny.write(models / f"{name}.gguf", name=name, seed=seed)
    command = ["python3", "/source/tests/box/scenario.py", "/source", "/models"]
    assert BOX is not None
    done = subprocess.run(
        [BOX, "--bind", f"{ROOT}:/source", "--bind", f"{models}:/models", "--", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    assert found, f"the box said nothing (exit {done.returncode}): {done.stderr[-2000:]}"
    return {one["name"]: one for one in found}


@pytest.mark.parametrize("name", NAMES)
def test_seen(name: str, results: dict[str, dict[str, Any]]) -> None:
    assert name in results, "the scenario ended before"
    assert results[name]["ok"], results[name]["detail"]
