"""Picks the lines of an engine's output that say what went wrong, for an error message. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_LINES = 3
LINE_CHARS = 300

_TROUBLE = re.compile(
    r"error|fail(?:ed|ure)|cannot|can't|could not|unable to|out of memory|no such file|not found|denied|abort"
    r"|exception|invalid|unsupported|unknown \w|killed|already in use",
    re.IGNORECASE,
)
# A line that only points at a traceback's code says less than the exception at its end.
_NOISE = re.compile(
    r"^\s*(?:File \"|Traceback|\^+\s*$|~*\^+~*$|raise |During handling|The above exception)"
    r"|^cmd_child_to_router:"
)
# They say that it failed; others said why.
_VAGUE = re.compile(
    r"failed to load model(?:,? '[^']*')?\.?$|exiting due to|the cause stands above|cleaning up|see root cause above"
    r"|encountered an error while trying to fit",
    re.IGNORECASE,
)
_PREFIX = re.compile(
    r"^(?:\d+\.\d\d\.\d{3}\.\d{3} [A-Z] +"  # llama.cpp
    r"|\[[^\]]*\d\d:\d\d[^\]]*\]\s*|\d{4}-\d\d-\d\d[T ][\d:.,]+Z?\s+)"
)


def meaningful_tail(lines: Sequence[str], *, limit: int = MAX_LINES) -> list[str]:
    """The last lines that name a cause, else any trouble, else the last lines at all; at most `limit`, oldest first,
    each one once."""
    useful = [_clean(line) for line in lines if line.strip() and not _NOISE.search(line)]
    trouble = [line for line in useful if _TROUBLE.search(line)]
    causes = [line for line in trouble if not _VAGUE.search(line)]
    return _last_distinct(causes or trouble or useful, limit)


def _clean(line: str) -> str:
    text = _PREFIX.sub("", line).strip()
    return text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 1] + "…"


def _last_distinct(lines: Sequence[str], limit: int) -> list[str]:
    chosen: list[str] = []
    for line in reversed(lines):
        if line not in chosen:
            chosen.insert(0, line)
        if len(chosen) == limit:
            break
    return chosen
