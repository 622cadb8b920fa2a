"""The clients of the switch rows: requests that wait for a model, each timed from its sending to its first token.

Counterpart: `switch`, which decides what is asked for, and `load`, whose connections these are. A first token is the
first content chunk of the backend: status lines that the router writes meanwhile don't count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import Chat, Endpoint, Exchange, Run, TooSlow, request_bytes
from bench.procs import BenchFailed

_STAMP = b"~T"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answered request; CLOCK_MONOTONIC nanoseconds."""

    model: str
    sent_ns: int
    first_ns: int
    ended_ns: int


class _Asker(Exchange):
    """Asks once, or with `again` for as long as the run lasts."""

    def __init__(self, request: bytes, model: str, run: Run, answered: list[Turn], *, again: bool = False) -> None:
        super().__init__(request, run.fail)
        self._model = model
        self._run = run
        self._answered = answered
        self._again = again
        self._first_ns = 0
        self._seen = b""

    def on_data(self, data: bytes, now_ns: int) -> None:
        if self._first_ns:
            return
        self._seen += data
        if _STAMP in self._seen:
            self._first_ns = now_ns

    def on_end(self, now_ns: int) -> None:
        if not self._first_ns:
            said = self._seen[-800:].decode(errors="replace")
            self.fail(BenchFailed(f"cannot go on: the reply of {self._model} holds no token: {said}"))
            return
        turn = Turn(model=self._model, sent_ns=self.sent_ns, first_ns=self._first_ns, ended_ns=now_ns)
        self._answered.append(turn)
        self._first_ns, self._seen = 0, b""
        if self._again:
            self.send()
        else:
            self._run.one_is_done()


async def together(endpoint: Endpoint, chats: Sequence[Chat], limit_s: float) -> list[Turn]:
    """Sends all at once, each on its own connection. The answers in the order in which they ended.

    Raises: BenchFailed.
    """
    run = Run(len(chats))
    answered: list[Turn] = []
    try:
        askers = []
        for chat in chats:
            request = request_bytes(endpoint, chat)
            askers.append(
                await run.connect(endpoint, lambda r=request, m=chat.model: _Asker(r, m, run, answered))  # type: ignore[misc]
            )
        for asker in askers:
            asker.send()
        await run.finish(limit_s)
    finally:
        run.close()
    return answered


async def contended(
    endpoint: Endpoint, busy: Chat, wanted: Chat, *, clients: int, after_s: float, limit_s: float
) -> Turn | None:
    """`clients` keep `busy` busy without a pause; `after_s` later one asks for `wanted`. None: no answer in `limit_s`.

    Raises: BenchFailed for any other failure.
    """
    run = Run(1)
    answered: list[Turn] = []
    loop = asyncio.get_running_loop()
    busy_request, request = request_bytes(endpoint, busy), request_bytes(endpoint, wanted)
    try:
        reply_s = busy.gap_us * busy.chunks / 1e6
        for number in range(clients):  # in step they would end together, and the model would be idle for a moment
            asker = await run.connect(endpoint, lambda: _Asker(busy_request, busy.model, run, [], again=True))
            loop.call_later(reply_s * number / clients, asker.send)
        single = await run.connect(endpoint, lambda: _Asker(request, wanted.model, run, answered))
        loop.call_later(after_s, single.send)
        try:
            await run.finish(after_s + limit_s)
        except TooSlow:
            return None
    finally:
        run.close()
    return answered[0]
