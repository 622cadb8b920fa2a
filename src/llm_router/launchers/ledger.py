"""Remembers started processes beyond the router's own life: one small file per instance in the state folder.

Counterpart: `process`, which writes an entry before it starts anything and completes it afterwards, so that a router
killed in between leaves at least its intent. Decides nothing about the processes it names. Files are written whole or
not at all; one that can't be read is set aside with a warning.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llm_router.launchers.base import Identity

log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One started instance. `pid` 0: only the intent is known. `started`: clock ticks since boot `boot`.

    `leaving`: it was told to end; it may still answer, but nobody should count on it.
    """

    identity: Identity
    token: str
    log: str
    boot: str
    pid: int = 0
    started: int = 0
    leaving: bool = False

    @property
    def key(self) -> str:
        """The token's end: the first instance's number, for people, and what is unique even where two routers' numbers
        are the same. It stays when the process becomes another instance."""
        return "-".join(self.token.split(":")[1:])

    def completed(self, pid: int, started: int) -> Entry:
        return replace(self, pid=pid, started=started)

    def handed_over(self, identity: Identity) -> Entry:
        return replace(self, identity=identity)

    def told_to_leave(self) -> Entry:
        return replace(self, leaving=True)


class Ledger:
    """The entries in one folder. All calls are synchronous and small."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, entry: Entry) -> None:
        """Raises: OSError where the folder can't be written."""
        path = self._path(entry)
        scratch = path.with_suffix(".tmp")
        text = json.dumps({"format": _FORMAT, **asdict(entry)})
        # Not synced to the disk, which would hold up every stream for milliseconds: a rename is whole for whoever comes
        # after our death, and after the machine's own there is no process left to adopt.
        scratch.write_text(text)
        scratch.replace(path)

    def remove(self, entry: Entry) -> None:
        try:
            self._path(entry).unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remove %s: %s; delete it by hand", self._path(entry), error)

    def entries(self) -> list[Entry]:
        """What can be read. What can't is renamed to `….bad`, so that it is reported once and can be looked at.

        For a router that begins: what another one was writing when it was killed is removed."""
        for scratch in self._folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                scratch.unlink()
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(_parse(path.read_text()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._set_aside(path, error)
        return found

    def _set_aside(self, path: Path, error: Exception) -> None:
        aside = path.with_suffix(".bad")
        log.warning("cannot read %s (%s): it is set aside as %s", path, error, aside.name)
        try:
            path.rename(aside)
        except OSError as failure:
            log.warning("cannot rename %s: %s; delete it by hand", path, failure)

    def _path(self, entry: Entry) -> Path:
        return self._folder / f"{entry.key}.json"


def _parse(text: str) -> Entry:
    values = json.loads(text)
    if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
        raise ValueError("not an entry of this format")
    identity = Identity(**values.pop("identity"))
    identity = replace(identity, devices=tuple(identity.devices))  # JSON knows lists only
    entry = Entry(identity=identity, **values)
    numbers = (identity.instance, identity.port, entry.pid, entry.started)
    texts = (identity.model, identity.launch_key, entry.token, entry.log, entry.boot, *identity.devices)
    if not all(type(number) is int for number in numbers) or not all(type(text) is str for text in texts):
        raise ValueError("a field has the wrong type")
    if type(entry.leaving) is not bool or type(identity.is_parked) is not bool:
        raise ValueError("a field has the wrong type")
    if identity.keep_s is not None and type(identity.keep_s) not in (int, float):
        raise ValueError("a field has the wrong type")
    return entry
