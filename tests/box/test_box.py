"""What was seen on a real system: an installation and its life in a throwaway Debian with systemd.

LLM_ROUTER_SYSTEMD_BOX names a program that runs a command in one, as root, such as `systemd-box` beside this file: `BOX
[--keep] --bind HOSTDIR:BOXDIR … -- COMMAND …`. Without it these tests are skipped. For the boot after a power cut it
must be able to keep what the box wrote: with `--keep` it prints `… kept DIR/upper`, the upper layer of an overlay over
the folder `bookworm` in SYSTEMD_BOX_CACHE; the next box is then made over both. Counterpart: scenario.py, which runs
inside; it takes some minutes, once.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCENARIO = Path(__file__).with_name("scenario.py")
BOX = os.environ.get("LLM_ROUTER_SYSTEMD_BOX")
CACHE = Path(os.environ.get("SYSTEMD_BOX_CACHE", "/var/cache/systemd-box"))
NAMES = re.findall(r"^@seen\ndef (\w+)", SCENARIO.read_text(), re.MULTILINE)
POWER_CUT = NAMES.index("the_power_is_cut") + 1

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
    found, said = _look(CACHE, models, "--keep", names=NAMES[:POWER_CUT])
    kept = re.search(r"kept (\S+)/upper$", said, re.MULTILINE)
    if kept is None:
        return found
    with _as_it_was_left(Path(kept[1]), tmp_path_factory.mktemp("cache")) as cache:
        later, _ = _look(cache, models, names=NAMES[POWER_CUT:])
    return found | later


def _look(cache: Path, models: Path, *options: str, names: list[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """What is found in a fresh box, by name; and what the box itself said."""
    command = ["python3", "/source/tests/box/scenario.py", "/source", "/models", *names]
    assert BOX is not None
    done = subprocess.run(
        [BOX, *options, "--bind", f"{ROOT}:/source", "--bind", f"{models}:/models", "--", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_BOX_CACHE": str(cache)},
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    assert found, f"the box said nothing (exit {done.returncode}): {done.stderr[-2000:]}"
    for one in found:
        print(one)
    return {one["name"]: one for one in found}, done.stderr


@contextmanager
def _as_it_was_left(kept: Path, cache: Path) -> Iterator[Path]:
    """A cache whose base is the disk of a box that has run."""
    base = cache / "bookworm"
    base.mkdir()
    layers = f"lowerdir={CACHE / 'bookworm'},upperdir={kept / 'upper'},workdir={kept / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, base], check=True)
    try:
        yield cache
    finally:
        subprocess.run(["umount", "-l", base], check=True)
        shutil.rmtree(kept)


@pytest.mark.parametrize("name", NAMES)
def test_seen(name: str, results: dict[str, dict[str, Any]]) -> None:
    if name in NAMES[POWER_CUT:] and results.keys() <= set(NAMES[:POWER_CUT]):
        pytest.skip("the box kept nothing to boot again")
    assert name in results, "the scenario ended before"
    assert results[name]["ok"], results[name]["detail"]
