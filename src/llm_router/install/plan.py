"""Carries out steps in order, remembers on disk what it did, and undoes it in the opposite order.

Counterpart: `steps`. A second run does only what is missing; a run that fails in the middle is continued by the next,
or undone: the record is written before each step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_router.install.errors import InstallError
from llm_router.install.machine import Machine
from llm_router.install.steps import Step, from_record

Report = Callable[[str], None]
_FORMAT = 1


class Plan:
    """`record`: the file that remembers what was done."""

    def __init__(self, steps: Sequence[Step], record: Path) -> None:
        self.steps = steps
        self._record = record

    def preview(self, machine: Machine) -> Iterator[str]:
        """Each step and its undo, as lines for people. Changes nothing."""
        for number, step in enumerate(self.steps, 1):
            done = " (done already)" if step.is_done(machine) else ""
            yield f"{number:2}. {step.describe()}{done}"
            yield f"    undo: {step.describe_undo()}"

    def apply(self, machine: Machine, report: Report) -> int:
        """Do what isn't done; how many steps that were. Raises: InstallError naming the step that failed."""
        count = 0
        for step in self.steps:
            try:
                if step.is_done(machine):
                    continue
                report(step.describe())
                self._note(step)
                step.do(machine)
            except (OSError, UnicodeDecodeError) as error:
                raise InstallError(
                    f"cannot {step.describe()}: {error}; mend that and run the installer again"
                ) from error
            count += 1
        return count

    def _note(self, step: Step) -> None:
        entry = {"kind": step.kind, **step.record()}
        entries = read_record(self._record)
        if entry not in entries:
            _write(self._record, [*entries, entry])


def undo_all(record: Path, machine: Machine, report: Report) -> list[str]:
    """Undo what the record says was done, last first, and forget it. What couldn't be undone, in words: the rest is
    undone all the same. Raises: InstallError without a record."""
    steps = recorded(record)
    failures = []
    for step in reversed(steps):
        report(step.describe_undo())
        try:
            step.undo(machine)
        except (OSError, InstallError) as error:
            failures.append(f"cannot {step.describe_undo()}: {error}")
    if not failures:
        record.unlink(missing_ok=True)
        _remove_empty(record.parent)
    return failures


def recorded(record: Path) -> list[Step]:
    """Raises: InstallError where nothing is installed, or by another version."""
    if not record.exists():
        raise InstallError(f"cannot uninstall: there is no record of an installation ({record})")
    found = []
    for entry in read_record(record):
        values = dict(entry)
        found.append(from_record(values.pop("kind", ""), values))
    return found


def read_record(record: Path) -> list[dict[str, str]]:
    """Empty where nothing was installed. Raises: InstallError for a damaged one."""
    try:
        content: Any = json.loads(record.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InstallError(f"cannot read {record}: {error}; move it away to install anew") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InstallError(f"cannot read {record}: it is another version's; use that to uninstall")
    entries: list[dict[str, str]] = content["done"]
    return entries


def _write(record: Path, entries: list[dict[str, str]]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    scratch = record.with_suffix(".tmp")
    scratch.write_text(json.dumps({"format": _FORMAT, "done": entries}, indent=1))
    scratch.replace(record)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
