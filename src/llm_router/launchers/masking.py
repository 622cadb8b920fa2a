"""Keeps secrets out of what people are shown: log lines, error messages. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llm_router.backends.base import LaunchSpec

STARS = "***"
# Shorter texts stand in innocent places too, and a key of so few letters keeps nobody out.
MIN_CHARS = 4
# Variables whose value is a secret by their name; `MAX_TOKENS` isn't one.
_SECRET_NAME = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)


class Mask:
    """Puts stars in the place of `texts`."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        # The longer first: one may begin with another.
        known = sorted({text for text in texts if len(text) >= MIN_CHARS}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(STARS, text)


def secrets_of(spec: LaunchSpec) -> tuple[str, ...]:
    """What the backend names, the server's key, and what its environment calls a key."""
    named = (value for name, value in spec.env.items() if _SECRET_NAME.search(name))
    return (*spec.secrets, *(() if spec.credential is None else (spec.credential,)), *named)
