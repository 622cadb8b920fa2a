"""The folder that real engines are installed into, once: not the repository, and not the system.

Counterpart: `engines`, which says what goes there. An engine that is there already is used as it is, so a folder
prepared elsewhere can be named with LLM_ROUTER_CONFORMANCE_DIR. One whose installation was cut off is gone on with:
what it has by then stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

Say = Callable[[str], None]
_TICK_S = 15.0
_SHOWN = 120
_GIB = 1024**3

# What pip says when it can't reach its index, before it says in its last line that there is no such package.
_UNREACHED = re.compile(r"NewConnection|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|Network is unreachable")


class InstallError(Exception):
    """What stopped it, and what would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """`say`: told each step, and now and then how a long one goes on."""

    folder: Path
    say: Say

    @contextlib.contextmanager
    def installing(self, name: str, *, needs_gib: float) -> Iterator[None]:
        """While this lasts, a file says that the engine is half-made (`is_half_made`). Raises: InstallError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free / _GIB
        if free < needs_gib:
            raise InstallError(
                f"cannot install {name}: it needs {needs_gib:g} GiB, and {self.folder} has {free:.1f} left; make room "
                "there, or name another folder with --dir"
            )
        began = time.monotonic()
        self._mark(name).touch()
        yield
        self._mark(name).unlink()
        self.say(f"{name}: installed in {time.monotonic() - began:.0f} s")

    def is_half_made(self, name: str) -> bool:
        return self._mark(name).exists()

    def _mark(self, name: str) -> Path:
        return self.folder / f"{name}.half-made"

    def venv(self, name: str) -> Path:
        """The interpreter of this environment, made if it isn't there or has no pip."""
        python = self.folder / name / "bin" / "python"
        if not next(self.folder.glob(f"{name}/lib/python3*/site-packages/pip"), None):
            self.run(f"{name}: making an environment", [sys.executable, "-m", "venv", str(self.folder / name)])
        return python

    def pip(self, name: str, *arguments: str) -> None:
        python = self.venv(name)
        words = " ".join(argument for argument in arguments if not argument.startswith(("-", "/", ":")))
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        self.run(f"{name}: pip {words}", [*pip, *arguments])

    def run(self, what: str, argv: Sequence[str], *, limit_s: float = 3600.0) -> None:
        """Run it to its end, its output in install.log of this folder. Raises: InstallError."""
        self.say(f"{what} …")
        self.folder.mkdir(parents=True, exist_ok=True)
        log, began = self.folder / "install.log", time.monotonic()
        with log.open("ab") as output:
            output.write(f"\n# {' '.join(argv)}\n".encode())
            output.flush()
            start = output.tell()
            # A group of its own, so that whatever it starts ends with it.
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PIP_PROGRESS_BAR": "off"},
            )
            try:
                while (left := limit_s - (time.monotonic() - began)) > 0:
                    try:
                        process.wait(min(left, _TICK_S))
                        break
                    except subprocess.TimeoutExpired:
                        self.say(f"{what} … {time.monotonic() - began:.0f} s: {_news(log, start)[:_SHOWN]}")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode != 0:
            reason = "it took too long" if left <= 0 else _reason(_lines(log, start))
            raise InstallError(f"cannot finish “{what}”: {reason} (all of it: {log}); the same command goes on with it")


def default_folder() -> Path:
    named = os.environ.get("LLM_ROUTER_CONFORMANCE_DIR")
    return Path(named) if named else platformdirs.user_cache_path("llm-router") / "conformance"


def _reason(lines: list[str]) -> str:
    if any("No space left on device" in line for line in lines):
        return "no space is left on the disk"
    if lines[-1].startswith("ERROR: No matching distribution") and any(map(_UNREACHED.search, lines)):
        return "the package index can't be reached"
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines)[-1][:400]


def _lines(log: Path, start: int) -> list[str]:
    """What was said since `start` (bytes), at least one line."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines or ["it said nothing"]


def _news(log: Path, start: int) -> str:
    return next((line for line in reversed(_lines(log, start)) if not line.startswith("WARNING:")), "")
