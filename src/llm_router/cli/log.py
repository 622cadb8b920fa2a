"""The router's own log on stderr: as text for people, one JSON object a line for programs, or as the journal wants it.

Counterparts: whoever logs, which says with `extra` what a line is about: `model`, `instance`, `request_id`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import TextIO

# What a line may be about; whatever else a record carries stays out.
FIELDS = ("model", "instance", "request_id")

# As sd-daemon(3) has them: journald takes the number in front of a line for its priority.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


class LogFormat(StrEnum):
    """TEXT: for people, with the time, but not where the journal has it anyway. JSON: one object a line."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """`time` (UTC), `level`, `logger`, `message`, `FIELDS` where the line has them, and `error` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class JournalFormatter(logging.Formatter):
    """Another formatter's lines, each with its priority in front: the journal would make an entry of its own of a
    traceback's lines, and a harmless one."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in self._inner.format(record).splitlines() or [""])


def log_to_stderr(level: int = logging.INFO, form: LogFormat = LogFormat.TEXT) -> None:
    """Once, at the start of a program that runs for long."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form, in_journal=is_journal(sys.stderr, os.environ)))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log each of our own requests


def formatter(form: LogFormat, *, in_journal: bool) -> logging.Formatter:
    match form:
        case LogFormat.JSON:
            inner: logging.Formatter = JsonFormatter()
        case LogFormat.TEXT:
            inner = logging.Formatter("%(message)s" if in_journal else "%(asctime)s %(levelname)s %(message)s")
    return JournalFormatter(inner) if in_journal else inner


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether what is written there goes into the journal. systemd says of which file that is true, because the
    variable alone is inherited by whoever has stderr elsewhere."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
