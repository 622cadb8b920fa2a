"""Writes a configuration file: whole or not at all, never one that the router would refuse, the old one kept beside it.

Counterpart: `merge`, which makes the text.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from llm_router.config.load import examine
from llm_router.config.problems import Problem
from llm_router.errors import ConfigError


def save(file: Path, text: str, *, kinds: Collection[str]) -> Path | None:
    """Write `text` to `file` and return the copy of what was there before; None: nothing was. A link stays a link.
    `kinds`: the backends there are.

    Raises: ConfigError for a text that the router would refuse, with every mistake, and where it can't be written.
    """
    target = file.resolve()
    # In the same folder, because relative paths start there and a rename mustn't cross devices.
    draft = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # There may be keys in it: nobody may read it who couldn't read the old one.
        draft.touch(mode=target.stat().st_mode & 0o777 if target.exists() else 0o666)
        draft.write_text(text, encoding="utf-8")
        _refuse_if_fatal(file, draft, kinds)
        backup = _copied(target) if target.exists() else None
        if backup is not None:
            shutil.copymode(target, draft)
        draft.replace(target)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; name another file, or make room there") from error
    finally:
        _remove(draft)
    return backup


def _refuse_if_fatal(file: Path, draft: Path, kinds: Collection[str]) -> None:
    fatal = fatal_problems(draft, kinds)
    if fatal:
        listed = "\n".join(f"  {replace(problem, file=file)}" for problem in fatal)
        raise ConfigError(f"cannot write {file}: the router would refuse it, and nothing was changed\n{listed}")


def fatal_problems(file: Path, kinds: Collection[str]) -> list[Problem]:
    """What keeps the router from starting with this file. Raises: ConfigUnreadable."""
    return [problem for problem in examine(file, kinds=kinds, look_at_files=False).problems if problem.fatal]


def _copied(target: Path) -> Path:
    number, backup = 2, target.with_name(target.name + ".bak")
    while backup.exists():
        backup = target.with_name(f"{target.name}.bak{number}")
        number += 1
    shutil.copy2(target, backup)
    return backup


def _remove(draft: Path) -> None:
    try:
        draft.unlink(missing_ok=True)
    except OSError:  # the folder that couldn't be written
        return
