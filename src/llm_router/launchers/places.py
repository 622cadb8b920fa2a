"""Where the files of an instance lie: in the state folder, or in one in memory for as long as that refuses them.

Counterparts: `state`, which are the folders; `process`, whose instances these are. A disk that is full or can only be
read must neither keep a model from being started nor end its server, as many end that can't write their output.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from llm_router.launchers.ledger import Entry
from llm_router.launchers.output import reserve
from llm_router.launchers.remedies import next_step
from llm_router.launchers.state import StateFolder, open_spare

log = logging.getLogger(__name__)

# Another folder is no remedy for too many open files.
_NOT_THE_DISK = (errno.EMFILE, errno.ENFILE)


class Places:
    """`main`: the router's state folder. The other is opened when it is needed."""

    def __init__(self, main: StateFolder) -> None:
        self.main = main
        self._spare: StateFolder | None = None
        self._is_refused = False

    def new_log(self, slug: str, instance: int) -> tuple[StateFolder, Path]:
        """An empty log with room reserved for it, and the folder that it lies in.

        Raises: OSError where there is no room in memory either.
        """
        try:
            path = _made(self.main, slug, instance)
        except OSError as error:
            if error.errno in _NOT_THE_DISK:
                raise
            self._spare = self._spare or open_spare(self.main)
            if self._spare is None:
                raise
            if not self._is_refused:
                step = next_step(error, "let the router write there")
                log.warning("cannot use the state folder %s: %s; what starts now is kept in %s; %s", self.main.path,
                            error.strerror, self._spare.path, step)  # fmt: skip
            self._is_refused = True
            return self._spare, _made(self._spare, slug, instance)
        if self._is_refused:
            log.info("the state folder %s can be used again", self.main.path)
        self._is_refused = False
        return self.main, path

    def of(self, entry: Entry) -> StateFolder:
        """The one that it lies in."""
        if self._spare is not None and Path(entry.log).is_relative_to(self._spare.path):
            return self._spare
        return self.main

    def inherited(self) -> Iterator[StateFolder]:
        """Where this router's predecessor may have left instances."""
        yield self.main
        if self._spare is None:
            self._spare = open_spare(self.main, only_found=True)
        if self._spare is not None:
            yield self._spare

    def close(self) -> None:
        """Idempotent. What nothing uses any more takes no memory."""
        if self._spare is not None:
            self._spare.remove_if_unused()
            self._spare.close()
        self.main.close()


def _made(state: StateFolder, slug: str, instance: int) -> Path:
    path = state.new_log(slug, instance)
    try:
        with path.open("wb", buffering=0) as file:
            reserve(file.fileno())
    except OSError:
        state.discard(path)
        raise
    return path
