"""Cuts what an instance writes into lines and keeps the last. Pure. Counterpart: `listeners`, who hear of them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from llm_router.launchers.masking import Mask

RING_LINES = 400
LINE_CHARS = 4096

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# A carriage return at the very end may be half of a line end.
_LINE_END = re.compile(r"\r\n|\r(?!\Z)|\n")


class Lines:
    """Cuts decoded text into lines. A line that ended in a carriage return alone is one that the next overwrites
    (progress bars do that), as on a terminal."""

    def __init__(self) -> None:
        self.ring: deque[str] = deque(maxlen=RING_LINES)
        self._mask = Mask()
        self._rest = ""
        self._overwrites = False

    def feed(self, text: str) -> list[str]:
        """The lines completed by `text`, without colour codes, each cut at `LINE_CHARS`."""
        text = self._rest + text
        end = 0
        new = []
        for match in _LINE_END.finditer(text):
            new.append(self._keep(text[end : match.start()], is_overwritten=match[0] == "\r"))
            end = match.end()
        # What has no end yet may grow without limit; only its beginning is of use.
        self._rest = text[end:][: LINE_CHARS * 2]
        return [line for line in new if line]

    def flush(self) -> list[str]:
        """The last line, if it never got its end."""
        return self.feed("\n") if self._rest else []

    def hide(self, texts: Iterable[str]) -> None:
        self._mask = Mask(texts)
        self.ring = deque(map(self._mask, self.ring), maxlen=RING_LINES)

    def forget_partial(self) -> None:
        self._rest = ""

    def _keep(self, raw: str, *, is_overwritten: bool) -> str:
        line = self._mask(_ESCAPES.sub("", raw[: LINE_CHARS * 2]))[:LINE_CHARS]
        if line:
            if self._overwrites and self.ring:
                self.ring.pop()
            self.ring.append(line)
        self._overwrites = is_overwritten and (bool(line) or self._overwrites)
        return line
