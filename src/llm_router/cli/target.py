"""The configuration file that a command writes: a new one, one that is added to, or none. Prints what became of it.

Counterparts: `config.merge` and `config.save`, which do it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_router.cli.options import backend_kinds
from llm_router.config import Config, examine
from llm_router.config.merge import is_yaml, merged, written
from llm_router.config.save import fatal_problems, save
from llm_router.config.text import BadSyntax
from llm_router.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`added`, `kept`: keys of the configuration. `backup`: the old file's copy."""

    file: Path
    added: list[str]
    kept: list[str]
    backup: Path | None
    is_dry: bool

    def as_json(self) -> dict[str, Any]:
        backup = str(self.backup) if self.backup else None
        return {
            "file": str(self.file), "added": self.added, "kept": self.kept, "backup": backup, "dry_run": self.is_dry
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`write`: a new file; `merge`: one that exists; at most one of them. `dry_run`: show it only."""

    write: Path | None
    merge: Path | None
    dry_run: bool

    @property
    def file(self) -> Path | None:
        return self.write or self.merge

    def check(self) -> None:
        """Before anything long is begun. Raises: ConfigError for a file that can't be the target."""
        if self.file is not None:
            is_yaml(self.file)
        if self.write is not None and self.write.exists():
            raise ConfigError(f"cannot write {self.write}: it is there already; add to it with --merge {self.write}")
        if self.merge is not None:
            if not self.merge.is_file():
                raise ConfigError(f"cannot add to {self.merge}: there is no such file; make it with --write")
            self._existing()

    def config(self) -> Config | None:
        """What is in the file that is added to."""
        return self._existing() if self.merge is not None else None

    def _existing(self) -> Config:
        assert self.merge is not None
        fatal = fatal_problems(self.merge, backend_kinds())
        if fatal:
            listed = "\n".join(f"  {problem}" for problem in fatal)
            raise ConfigError(f"cannot add to {self.merge}: correct what is wrong in it first\n{listed}")
        config = examine(self.merge, kinds=backend_kinds(), look_at_files=False).config
        assert config is not None
        return config

    def put(self, data: Mapping[str, Any], *, quiet: bool) -> Outcome | None:
        """Write `data`, and say so unless `quiet`. None: no file was named.

        Raises: ConfigError where it can't be written, or the router would refuse it.
        """
        if self.file is None:
            return None
        before = self._text()
        try:
            outcome = merged(before, self.file, data) if self.merge else None
        except BadSyntax as error:
            raise ConfigError(f"cannot add to {self.file}: {error.message}: {error.remedy}") from error
        after = outcome.text if outcome else written(data, self.file)
        added, kept = (outcome.added, outcome.kept) if outcome else (_keys(data), [])
        backup = None
        if self.dry_run:
            if not quiet:
                _show_difference(before, after, self.file)
        elif after != before:
            backup = save(self.file, after, kinds=backend_kinds())
        done = Outcome(file=self.file, added=added, kept=kept, backup=backup, is_dry=self.dry_run)
        if not quiet and not self.dry_run:
            _tell(done)
        return done

    def _text(self) -> str:
        if self.merge is None:
            return ""
        try:
            return self.merge.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {self.merge}: {error}; name a readable file") from error


def _keys(data: Mapping[str, Any]) -> list[str]:
    found = []
    for key, value in data.items():
        found += [f"{key}.{name}" for name in value] if isinstance(value, Mapping) else [key]
    return found


def _show_difference(before: str, after: str, file: Path) -> None:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), str(file), f"{file} (new)"
    )
    sys.stdout.writelines(line if line.endswith("\n") else line + "\n" for line in lines)


def _tell(done: Outcome) -> None:
    models = sum(key.startswith("models.") for key in done.added)
    count = f"{models} model{'' if models == 1 else 's'}"
    if not done.added:
        print(f"{done.file} has all of it already; nothing was changed")
        return
    kept = f"; the old file is {done.backup}" if done.backup else ""
    print(f"{count} written to {done.file}{kept}\nnext: llm-router check --config {done.file}")
