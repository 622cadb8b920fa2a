"""A reply that waits until it is whole, because it is read as a whole: a JSON answer, or an error.

Counterpart: `exchange`, which decides what becomes of it. Bounded: what is larger isn't kept.
"""

from __future__ import annotations

from llm_router.relay.headers import Headers

_ANSWER = 8 * 1024 * 1024  # a larger JSON reply passes unchanged rather than being held in memory
_ERROR = 64 * 1024  # who says more than this has said it


class Held:
    """`add` what comes; `body` is what there is of it."""

    __slots__ = ("_limit", "_pieces", "_size", "headers", "is_error", "status")

    def __init__(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self.is_error = status >= 400
        self._limit = _ERROR if self.is_error else _ANSWER
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> bool:
        """Whether there is room for more."""
        self._pieces.append(data)
        self._size += len(data)
        return self._size <= self._limit

    def body(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


def may_be_held(length: int | None) -> bool:
    """Whether an answer of this size can be. `length`: in bytes, None: not known yet."""
    return length is None or length <= _ANSWER
