"""A reply that waits until it is whole, because it is read as a whole: a JSON answer, or an error.

Counterparts: `exchange`, which sees to what becomes of it; `failure`, which reads what servers say. Bounded: what is
larger isn't kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from llm_router.errors import UpstreamError, UpstreamLost
from llm_router.relay import failure
from llm_router.relay.failure import Failure
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

    def what_went_wrong(self, model: str, *, last_words: Sequence[str], may_repeat: bool) -> UpstreamError | Failure:
        """What the server says instead of an answer. `last_words`: what a server of this kind says when it is dying.

        1. It refuses the router's own key: nothing that the client could mend with another one.
        2. It failed in a way that it has no words for, or these are its last ones: lost, if it may be asked once more.
        3. Everything else is for the client to know, with the status that it has.
        """
        body = self.body()
        said = failure.of_reply(body, status=self.status, model=model)
        if self.status == 401:  # 1
            return UpstreamError(
                f"cannot use the server of {model}: it refuses the router's key ({said.message}); "
                'set its "api_key" in the configuration'
            )
        is_dying = not failure.is_json(body) or any(last in said.message for last in last_words)
        return UpstreamLost(said.message) if self.status == 500 and may_repeat and is_dying else said  # 2, 3


def may_be_held(length: int | None) -> bool:
    """Whether an answer of this size can be. `length`: in bytes, None: not known yet."""
    return length is None or length <= _ANSWER
