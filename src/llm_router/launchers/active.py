"""Says what a unit runs: a link at a stable path, and the variables beside it.

Counterpart: `systemd`. The unit's file names `…/active/UNIT` as its command and `…/active/UNIT.env` as its
EnvironmentFile once and for all; a switch replaces the two, each at once. So nobody needs the right to edit units.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from llm_router.errors import LaunchError
from llm_router.launchers.remedies import next_step


class Active:
    """`folder` is made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def target(self, unit: str) -> str | None:
        """The script that the unit runs when it is started; None: none was ever chosen."""
        with contextlib.suppress(OSError):
            return str((self._folder / unit).readlink())
        return None

    def port(self, unit: str) -> int:
        """The port that it was told; 0: none is known."""
        with contextlib.suppress(OSError):
            found = re.search(r'^PORT="(\d+)"$', (self._folder / f"{unit}.env").read_text(), re.MULTILINE)
            return int(found[1]) if found else 0
        return 0

    def is_current(self, unit: str, script: str, env: Mapping[str, str]) -> bool:
        """Whether the unit runs just that when it is started."""
        with contextlib.suppress(OSError):
            return self.target(unit) == script and (self._folder / f"{unit}.env").read_text() == _text(env)
        return False

    def point(self, unit: str, script: str, env: Mapping[str, str]) -> None:
        """Have the unit run `script` with these variables from its next start on.

        Raises: LaunchError where the folder can't be written.
        """
        try:
            self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            _replace_file(self._folder / f"{unit}.env", _text(env))
            _replace_link(self._folder / unit, script)
        except OSError as error:
            raise LaunchError(
                f"cannot choose what {unit} runs: {error}; "
                + next_step(error, f"let the router's user write {self._folder}")
            ) from error


def _text(env: Mapping[str, str]) -> str:
    return "".join(f"{name}={_quoted(value)}\n" for name, value in sorted(env.items()))


def _quoted(value: str) -> str:
    """As EnvironmentFile= reads it (systemd.exec(5)): in double quotes these four are escaped."""
    for character in ("\\", '"', "$", "`"):
        value = value.replace(character, f"\\{character}")
    return f'"{value}"'


def _replace_file(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.new")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)  # there may be keys in it
    with os.fdopen(fd, "w") as file:
        file.write(text)
    scratch.replace(path)


def _replace_link(path: Path, target: str) -> None:
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(path)
