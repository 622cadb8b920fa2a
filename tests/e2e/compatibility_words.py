"""What rows of several dialects say and look for. Counterpart: `compatibility_rows`."""

from __future__ import annotations

import json
from typing import Any

from compatibility import COUNT, Asking, NotPossible
from routing import numbers

HELLO = [{"role": "user", "content": "hello"}]
PICTURE = "iVBORw0KGgo="
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CALLED = ("weather", {"city": "Oslo"})
STOP = " 3"  # one of the tokens
BEFORE_STOP = " 1 2"
ANEW = " and nothing else"  # as a server ends that doesn't know how its answer began
SILENT = {"X-LLM-Router-Status": "off", "X-LLM-Router-Performance": "never"}


def text_of(asking: Asking) -> str:
    return numbers(asking.model, COUNT)


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of an event stream."""
    found = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in found if line != "[DONE]"]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def refused(said: dict[str, Any], words: str) -> NotPossible:
    """The dialect's own error, which says so."""
    assert words in str(said["error"]), said
    return NotPossible(str(said["error"]))


BEGUN = "llama.cpp goes on, and only what is new is sent; the others answer anew"


def goes_on(asking: Asking, said: str) -> None:
    if said != text_of(asking):
        assert said == text_of(asking) + ANEW
        raise NotPossible
