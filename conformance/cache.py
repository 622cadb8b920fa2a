"""The folder that real engines are installed into, once: not the repository, and not the system.

Counterpart: `real`, which says what goes there. An engine that is there already is used as it is, so a folder prepared
elsewhere can be named with LLM_ROUTER_CONFORMANCE_DIR.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

Say = Callable[[str], None]
_TICK_S = 15.0


class InstallError(Exception):
    """What stopped it, with the last line the program said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """`say`: told each step, and now and then that a long one goes on."""

    folder: Path
    say: Say

    def venv(self, name: str) -> Path:
        """The interpreter of this environment, made if it isn't there."""
        python = self.folder / name / "bin" / "python"
        if not python.exists():
            self.run(f"{name}: making an environment", [sys.executable, "-m", "venv", str(self.folder / name)])
        return python

    def run(self, what: str, argv: Sequence[str], *, limit_s: float = 3600.0) -> None:
        """Run it to its end, its output in NAME.log of this folder. Raises: InstallError."""
        self.say(f"{what} …")
        self.folder.mkdir(parents=True, exist_ok=True)
        log, began = self.folder / "install.log", time.monotonic()
        with log.open("ab") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            try:
                while (left := limit_s - (time.monotonic() - began)) > 0:
                    try:
                        process.wait(min(left, _TICK_S))
                        break
                    except subprocess.TimeoutExpired:
                        self.say(f"{what} … {time.monotonic() - began:.0f} s: {_last_line(log)[:100]}")
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise InstallError(f"{what}: {_last_line(log)} (all of it: {log})")

    def pip(self, name: str, *arguments: str) -> None:
        python = self.venv(name)
        words = " ".join(argument for argument in arguments if not argument.startswith("-"))
        self.run(f"{name}: pip {words[:80]}", [str(python), "-m", "pip", "--disable-pip-version-check", *arguments])


def default_folder() -> Path:
    named = os.environ.get("LLM_ROUTER_CONFORMANCE_DIR")
    return Path(named) if named else platformdirs.user_cache_path("llm-router") / "conformance"


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
