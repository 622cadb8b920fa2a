"""Picks the lines of an engine's output that say what went wrong, for an error message. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_LINES = 3
LINE_CHARS = 300

_TROUBLE = re.compile(
    r"error|fail(?:ed|ure)|cannot|can't|could not|unable to|out of memory|no such file|not found|denied|abort"
    r"|exception|invalid|unsupported|unknown \w|killed|already in use",
    re.IGNORECASE,
)
# What only points at code says less than the exception at its end.
_NOISE = re.compile(
    r"^\s*(?:File \"|\^+\s*$|~*\^+~*$|During handling|The above exception|Process \S+:$)"
    r"|^cmd_child_to_router:"
)
_TRACEBACK = "Traceback (most recent call last):"
# They say that it failed; others said why.
_VAGUE = re.compile(
    r"failed to load model(?:,? '[^']*')?\.?$|exiting due to|the cause stands above|cleaning up|see root cause above"
    r"|encountered an error while trying to fit|EngineCore failed to start|WorkerProc failed to start"
    r"|received sigquit from a child|destroy_process_group|application startup failed",
    re.IGNORECASE,
)
# Who says it, and when. vLLM has several of them one after the other.
_PREFIX = re.compile(
    r"^(?:\d+\.\d\d\.\d{3}\.\d{3} (?=[A-Z] )"  # llama.cpp
    r"|\(\w+(?: pid=\d+)?\) "  # vLLM: (EngineCore pid=7), (Worker_TP0 pid=8), (APIServer)
    r"|\[rank\d+\]: ?"  # torch
    r"|\[[^\]]*\d\d:\d\d[^\]]*\]\s?|\d{4}-\d\d-\d\d[T ][\d:.,]+Z?\s)"
)
_LEVEL = re.compile(
    r"^(?:([DIWEF]) +(?=\S)"  # llama.cpp
    r"|(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?:: {1,5}|\s+\d\d-\d\d [\d:]+ (?:\[[^\]]+\] ?)?|\s))"
)
_CALM = ("D", "I", "W", "DEBUG", "INFO", "WARNING")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """`is_calm`: its level says that it is no error, though it may sound like one."""

    text: str
    is_calm: bool


def meaningful_tail(lines: Sequence[str], *, limit: int = MAX_LINES) -> list[str]:
    """The last lines that name a cause, else any trouble, else the last lines at all; at most `limit`, oldest first,
    each one once. Of a traceback its last line counts."""
    useful = list(_useful(lines))
    trouble = [line for line in useful if _TROUBLE.search(line.text)]
    causes = [line for line in trouble if not _VAGUE.search(line.text)]
    errors = [line for line in causes if not line.is_calm]
    return _last_distinct([line.text for line in errors or causes or trouble or useful], limit)


def _useful(lines: Sequence[str]) -> Iterator[_Line]:
    is_code = False  # inside a traceback
    for raw in lines:
        text, is_calm = _stripped(raw)
        if _TRACEBACK in text:
            is_code = True
        elif is_code and text.startswith((" ", "\t")):
            pass
        elif text.strip():
            is_code = False
            if not _NOISE.search(text):
                yield _Line(text=_shortened(text.strip()), is_calm=is_calm)


def _stripped(line: str) -> tuple[str, bool]:
    """Without what stands before the message. Its indentation stays, which tells a traceback's code from its end."""
    while match := _PREFIX.match(line):
        line = line[match.end() :]
    level = _LEVEL.match(line)
    if level is None:
        return line, False
    line = line[level.end() :]
    return line, (level[1] or level[2]) in _CALM


def _shortened(text: str) -> str:
    return text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 1] + "…"


def _last_distinct(lines: Sequence[str], limit: int) -> list[str]:
    chosen: list[str] = []
    for line in reversed(lines):
        if line not in chosen:
            chosen.insert(0, line)
        if len(chosen) == limit:
            break
    return chosen
