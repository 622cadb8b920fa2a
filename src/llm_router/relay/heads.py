"""Knowing a message's head by its bytes: why a connection that says the same again costs little.

Counterparts: `protocol` and `connection`, which let llhttp read every head the first time. On a connection that is
kept, heads differ in nothing but the length of the body. One that has the same bytes around that number means the same;
all else, down to a single space, is read by llhttp.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,12})\r\n", re.IGNORECASE)
_DIGITS = 12
_CR = 13


class KnownHead(NamedTuple):
    """What stands before and after the digits of its `Content-Length`, to the end of the head."""

    before: bytes
    after: bytes

    def body(self, data: bytes) -> bytes | None:
        """The body, if `data` is exactly one message with such a head."""
        before, after = self
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(_CR, start, start + _DIGITS + 1)
        digits = data[start:end]
        if not digits.isdigit() or not data.startswith(after, end):
            return None
        body = data[end + len(after) :]
        return body if len(body) == int(digits) else None


def learn(data: bytes) -> KnownHead | None:
    """The head of `data`, which llhttp has read as exactly one message; None if its length isn't said once, plainly."""
    head, found, _ = data.partition(b"\r\n\r\n")
    lengths = _LENGTH.findall(head + b"\r\n") if found else ()
    if len(lengths) != 1 or head.lower().count(b"\r\ncontent-length") != 1:
        return None
    said = _LENGTH.search(head + b"\r\n")
    assert said is not None
    known = KnownHead(head[: said.start(1)], head[said.end(1) :] + found)
    return known if known.body(data) is not None else None
