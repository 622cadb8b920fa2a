"""The machine as the installer sees it: who we are, what is there, and the commands that change it.

Counterpart: `steps`, which use it. Tests give them another one.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_router.install.errors import InstallError

_LIMIT_S = 300.0  # a stop waits for running replies, and those for the router's own deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`output`: stdout and stderr."""

    status: int
    output: str


class Machine:
    def is_root(self) -> bool:
        return os.geteuid() == 0

    def has_user(self, name: str) -> bool:
        try:
            pwd.getpwnam(name)
        except KeyError:
            return False
        return True

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def own(self, path: Path, owner: str) -> None:
        """Give a file or folder to `owner`, "user:group"."""
        user, _, group = owner.partition(":")
        shutil.chown(path, user, group or user)

    def ask(self, *argv: str) -> Result:
        """Run a command, whatever comes of it. Waits for its end, at most five minutes."""
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Result(status=127, output=str(error))
        return Result(status=done.returncode, output=(done.stdout + done.stderr).strip())

    def run(self, *argv: str) -> str:
        """Run a command that must succeed. Raises: InstallError with its words."""
        result = self.ask(*argv)
        if result.status != 0:
            raise InstallError(f"cannot run `{_shown(argv)}`: {result.output or f'it exited with {result.status}'}")
        return result.output


def _shown(argv: Sequence[str]) -> str:
    return " ".join(argv)
