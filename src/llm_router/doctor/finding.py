"""What a look at the machine finds. Counterpart: `cli.doctor`, which shows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Verdict(Enum):
    """WARNING: it works, but not as well as it could, or not for long. PROBLEM: something doesn't work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`about`: what was looked at, in a word or two. `remedy`: what to do; "" where all is well."""

    about: str
    verdict: Verdict
    message: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "about": self.about,
            "verdict": self.verdict.value,
            "message": self.message,
            "remedy": self.remedy or None,
        }


def ok(about: str, message: str) -> Finding:
    return Finding(about=about, verdict=Verdict.OK, message=message)


def warning(about: str, message: str, remedy: str) -> Finding:
    return Finding(about=about, verdict=Verdict.WARNING, message=message, remedy=remedy)


def problem(about: str, message: str, remedy: str) -> Finding:
    return Finding(about=about, verdict=Verdict.PROBLEM, message=message, remedy=remedy)
