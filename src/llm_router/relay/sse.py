"""The way back: what is changed in a streamed reply on its way from the inference server to the client.

Counterparts: `body`, for the way there; `reply`, for replies in one piece. Works on bytes and times that it is given.
An event that needs no change leaves as the very bytes it came in.

The end of a streamed reply is put in order: usage and timings leave in exactly one chunk, because front ends add them
up over all chunks that have them. So the chunk with the `finish_reason` waits until the figures are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from llm_router.errors import UpstreamLost
from llm_router.relay import failure
from llm_router.relay import usage as tokens
from llm_router.relay.chunk import Chunk, Naming, Raws, decode_object, decoded, encode, is_said, raw, read_chunk
from llm_router.relay.events import Cutter, as_event, lines_of
from llm_router.relay.failure import DONE, Failure
from llm_router.relay.lane import Lane, Write, lane
from llm_router.relay.status_text import marked
from llm_router.relay.template import Template, learn

_TEMPLATES = 4
_USELESS_MAX = 8


class StreamRewriter:
    """One streamed reply. `feed` it what comes, then call one of `finish` and `fail`; each returns what to send.

    `chat`: a chat completion, else a text completion. `include_usage`: the client asked for the usage chunk itself.
    `performance`: append the performance line. `reasoning`: rename vLLM's `reasoning` to what the others say.
    `sent_at`: when the request went upstream, on the clock of every `now`, in seconds. `names`: what to call the model.
    `last_words`: texts in an error that mean that the server is dead; empty: all its errors are passed on.

    `started`: something of the answer has left, so that a second one would be seen. Chunks that say no more than the
    role wait for the first token, and comments are no answer. `silent`: the last piece had nothing but comments.
    `finished`: a finish reason was seen, so the reply is complete even if the connection breaks now. `done`: the end of
    the stream has left, and everything after it is dropped. `error`: what the server said went wrong, or None.
    `first_at`: when the first text came; 0.0: none has. `figures`: the reply's, once they have left.

    `quickly`, `count`: the first step of `feed`, for a caller who saves himself the rest: what to send for a piece that
    is like one before, or None; each piece that it knows is one more in `count`.
    """

    __slots__ = (
        "_chat",
        "_cutter",
        "_figures_sent",
        "_finished_at",
        "_held",
        "_include_usage",
        "_last",
        "_last_words",
        "_learned_at",
        "_names",
        "_opening",
        "_performance",
        "_reasoning",
        "_sent_at",
        "_templates",
        "_timings",
        "_usage",
        "_useless",
        "count",
        "done",
        "error",
        "figures",
        "finished",
        "first_at",
        "quickly",
        "silent",
        "started",
    )

    def __init__(
        self,
        *,
        chat: bool,
        include_usage: bool,
        performance: bool,
        sent_at: float,
        reasoning: bool = True,
        names: Naming | None = None,
        last_words: tuple[str, ...] = (),
    ) -> None:
        self._chat = chat
        self._include_usage = include_usage
        self._performance = performance
        self._reasoning: Literal["delta"] | None = "delta" if reasoning else None
        self._names = names
        self._last_words = last_words
        self._opening = b""
        self._sent_at = self._finished_at = sent_at
        self.first_at = 0.0
        self.figures: tokens.Figures | None = None
        self.count = 0  # events with text: the only count there is when the server has none
        self._cutter = Cutter()
        self._held: Chunk | None = None
        self._last: Raws = {}
        self._usage: object = None
        self._timings: object = None
        self._figures_sent = False
        self.quickly: Callable[[bytes], bytes | None] = _unknown
        self._templates: list[Template] = []
        self._learned_at = 0
        self._useless = 0
        self.started = self.finished = self.done = self.silent = False
        self.error: str | None = None

    def feed(self, data: bytes, now: float) -> bytes:
        """What to send now that `data` has come; the same object where nothing changes.

        Raises: UpstreamGarbage when an event doesn't end within 16 MiB; UpstreamLost when one says with the server's
        last words that it is dead, before anything of an answer.
        """
        known = self.quickly(data)
        if known is not None:
            self.count += 1
            return known
        return self._read(data, now)

    def lane(self, write: Write) -> Lane | None:
        """For chunks like the one before; None: there was none, or something else has to come first. Good for as long
        as everything goes into it."""
        return None if self.quickly is _unknown else lane(self._templates[0], self, write)

    def finish(self, now: float) -> bytes:
        """What to send when the upstream has ended cleanly. An event that was cut off is dropped, as SSE wants it."""
        tail = self._cutter.tail.rstrip(b"\r\n")
        out = b""
        if tail and not self.done and _is_whole(tail):
            out = self._event(tail + b"\n\n", now)
        return out if self.done else out + self._opened(self._conclude() + self._close(DONE))

    def fail(self, message: str, code: str) -> bytes:
        """What to send when the upstream died: what is complete, then why, then the end."""
        if self.done:
            return b""
        self.error = message
        return self._opened(self._conclude() + self._close(error_events(message, code)))

    def _read(self, data: bytes, now: float) -> bytes:
        """The slow way: event by event."""
        if self.done:
            return b""
        out = []
        self.silent = True
        for event in self._cutter.cut(data):
            if self.done:
                break
            out.append(self._event(event, now))
        if self._cutter.tail.lstrip(b"\r\n")[:1] not in (b"", b":"):
            self.silent = False
        waits = self.done or self._cutter.tail or self._held is not None
        self.quickly = _unknown if waits or not self._templates else self._templates[0].apply
        sent = out[0] if len(out) == 1 else b"".join(out)
        return data if sent == data else sent

    def _event(self, event: bytes, now: float) -> bytes:
        if self._held is None:
            for template in self._templates:
                known = template.apply(event)
                if known is not None:
                    self.count += 1
                    self.silent = False
                    return known
        others, values = lines_of(event)
        if not values:
            return event
        self.silent = False
        return self._opened(self._said(event, others, values, now))

    def _opened(self, out: bytes) -> bytes:
        """`out` and what waited for it."""
        if out:
            out, self._opening = self._opening + out, b""
            self.started = True
        return out

    def _said(self, event: bytes, others: bytes, values: list[bytes], now: float) -> bytes:
        """What becomes of an event with data."""
        payload = b"\n".join(values)
        if payload.strip() == b"[DONE]":
            return self._conclude() + self._close(event)
        try:
            top = decode_object(payload)
        except RecursionError:
            return b""  # unread it can't go on, and hardly a client can read it
        if top is not None:
            return self._object(top, event, others, values, now)
        if len(values) == 1:
            return event
        # It is no object as a whole; but some clients read line by line.
        lines = [as_event(value) for value in values]
        return others + b"".join(self._said(line, b"", [value], now) for line, value in zip(lines, values, strict=True))

    def _object(self, top: Raws, event: bytes, others: bytes, values: list[bytes], now: float) -> bytes:
        if _is_error(top):
            return self._conclude() + self._close(self._server_error(top))
        chunk = read_chunk(top, reasoning=self._reasoning, names=self._names)
        before = self._take(chunk, now)
        if before is None:
            # Only about figures: swallowed, and the held one may go.
            return others + (self._release() if self._held is not None else b"")
        if self._held is chunk:
            return others + before
        if chunk.has_text and len(values) == 1 and not others and not chunk.figures:
            self._learn(event, changed=chunk.changed)
        if chunk.changed or chunk.figures:
            event = others + as_event(chunk.encoded())
        elif len(values) > 1:
            event = others + as_event(b" ".join(values))
        if not self.started and chunk.only_opens:
            self._opening += event
            return before
        return before + event

    def _take(self, chunk: Chunk, now: float) -> bytes | None:
        """Notes what is in the chunk: 1. figures are kept, not passed on; 2. text is counted; 3. a finish reason waits
        for the figures. Returns what must leave before it, or None if it was only about figures."""
        if chunk.usage is not None:  # 1
            self._usage = chunk.usage
        if chunk.timings is not None:
            self._timings = chunk.timings
        self._last = chunk.top
        if chunk.has_text:  # 2
            self.count += 1
            if self.count == 1:
                self.first_at = now
        if chunk.is_only_figures(after_finish=self._held is not None):
            return None
        before = b""
        if self._held is not None:
            # With n > 1 each choice has its finish chunk; the figures go into the last.
            before, self._held = as_event(self._held.encoded()), None
        if chunk.is_finish:  # 3
            self._held = chunk
            self.finished = True
            self._finished_at = now
        return before

    def _learn(self, event: bytes, *, changed: bool) -> None:
        """Remember what this event looks like around its text, unless that has proved useless in this stream."""
        self._useless = self._useless + 1 if self.count == self._learned_at + 1 else 0
        self._learned_at = self.count
        if self._useless < _USELESS_MAX:
            template = learn(event, self._transformed if changed else None)
            if template is not None:
                self._templates = [template, *self._templates[: _TEMPLATES - 1]]

    def _transformed(self, event: bytes) -> bytes:
        """What becomes of an event like one that was read before."""
        top = decode_object(lines_of(event)[1][0])
        assert top is not None
        return as_event(read_chunk(top, reasoning=self._reasoning, names=self._names).encoded())

    def _server_error(self, top: Raws) -> bytes:
        found = failure.of_object({key: decoded(value) for key, value in top.items()})
        if found is None:
            found = Failure(message="the inference server failed without saying why")
        if not self.started and any(words in found.message for words in self._last_words):
            raise UpstreamLost(found.message)
        self.error = found.message
        return found.as_end()

    # -- the end

    def _close(self, end: bytes) -> bytes:
        self.done = True
        self._cutter.tail = b""
        self.quickly = _unknown
        return end

    def _conclude(self) -> bytes:
        """Everything that still waits, in order."""
        if self._held is not None:
            return self._release()
        if self._figures_sent or not (self.finished or self._usage is not None):
            return b""
        return self._figures_chunk(b"[]" if self._include_usage else b'[{"index":0,"delta":{},"finish_reason":null}]')

    def _release(self) -> bytes:
        """The held finish chunk with the figures, and before it the performance line."""
        held, self._held = self._held, None
        assert held is not None
        if self._figures_sent:
            return as_event(held.encoded())
        figures = self._figures()
        out = b""
        if self._performance and self._chat and figures.predicted_n > 1:  # one token has no speed
            text, held = held.split()
            out = text + as_event(held.saying(marked("\n\n" + figures.line())))
        if self._include_usage:
            return out + as_event(held.encoded()) + self._figures_chunk(b"[]")
        self._figures_sent = True
        return out + as_event(held.encoded(usage=figures.usage, timings=figures.timings))

    def _figures_chunk(self, choices: bytes) -> bytes:
        self._figures_sent = True
        figures = self._figures()
        more = {"choices": msgspec.Raw(choices), "usage": raw(figures.usage), "timings": raw(figures.timings)}
        return as_event(encode(self._last | more))

    def _figures(self) -> tokens.Figures:
        # When all came at once, nothing says where the prompt ended.
        began = self.first_at if self.count > 1 and self.first_at < self._finished_at else self._sent_at
        self.figures = tokens.figures(
            self._usage,
            self._timings,
            counted=self.count,
            measured_prompt_ms=(began - self._sent_at) * 1000,
            measured_predicted_ms=(self._finished_at - began) * 1000,
        )
        return self.figures


def _unknown(data: bytes) -> None:
    """Nothing to compare with yet."""


def error_events(message: str, code: str) -> bytes:
    """The end of a stream that the router itself gave up."""
    return Failure(message=message, code=code).as_end()


def _is_whole(event: bytes) -> bool:
    _, values = lines_of(event)
    payload = b"\n".join(values)
    try:
        return payload.strip() == b"[DONE]" or decode_object(payload) is not None
    except RecursionError:
        return False


def _is_error(top: Raws) -> bool:
    if is_said(top, "error"):
        return True
    # SGLang has this shape too, without the envelope.
    return "choices" not in top and bytes(top.get("object", b"")) == b'"error"'
