"""What a dialect is to the rest: how its replies are made of OpenAI's. Counterpart: `api.converse`, which brings them.

A dialect translates each request into OpenAI's words and each reply back, so that the relay below knows one language,
and waiting, failing and leaving are the same for all clients.
"""

from __future__ import annotations

from typing import Protocol

from llm_router.dialects.completion import Completion, Problem


class Translation(Protocol):
    """One reply on its way back. For a stream `begin`, then any of `waiting` and `chunk`, then `end` or `fail`; for a
    reply in one piece `whole`. Each returns the bytes to send, possibly none; none of them raises, but `whole`.

    `streams`: what the client asked for. `media_type`: of a stream.
    """

    streams: bool
    media_type: bytes

    def begin(self) -> bytes:
        """The first bytes of a stream, before anything is known of the answer."""
        ...

    def waiting(self) -> bytes:
        """Something that keeps the client waiting without saying anything: the model loads, or reads the prompt."""
        ...

    def chunk(self, said: Completion) -> bytes:
        """One chunk of the answer."""
        ...

    def end(self) -> bytes:
        """The answer is complete."""
        ...

    def fail(self, problem: Problem) -> bytes:
        """The answer can't be finished; nothing follows."""
        ...

    def whole(self, body: bytes) -> bytes:
        """A reply in one piece. Raises: UpstreamError where `body` is none."""
        ...
