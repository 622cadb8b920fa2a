"""The express lane: a token that comes as one whole chunk, like one before, goes on without a parser.

Counterparts: `connection`, which knows where chunks begin and end, and `template`, which knows what a token looks like.
Streams are mostly made of such chunks. Since the whole piece is compared with what it must be, byte by byte outside of
the text, nothing passes here that would not pass the long way, and llhttp's state stays right: it stood between two
chunks before, and does so afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llm_router.relay.template import Template, is_inside_string

Write = Callable[[bytes], object]
Lane = Callable[[bytes], bool]

_USUAL = 2048
_END = b"\r\n"
# Ready-made, because formatting one costs as much as everything else that is done for a token here.
CHUNK_HEADS = [b"%x\r\n" % size for size in range(_USUAL)]
_LENGTHS = len(CHUNK_HEADS[-1]) + _USUAL + len(_END)
# By the length of a whole chunk: how it must begin. The lengths that no chunk has get what is too long for all.
_BEGINNINGS = [b"-" * _LENGTHS] * _LENGTHS
for _size, _head in enumerate(CHUNK_HEADS):
    _BEGINNINGS[len(_head) + _size + len(_END)] = _head


class Counter(Protocol):
    """`count`: the events with text so far."""

    count: int


def framed(data: bytes) -> bytes:
    """`data`, not empty, as a chunk."""
    size = len(data)
    return b"".join((CHUNK_HEADS[size] if size < _USUAL else b"%x\r\n" % size, data, _END))


def is_whole(piece: bytes, body: bytes) -> bool:
    """Whether `piece`, of which `body` is what llhttp passed on, is one chunk and no more: llhttp then stands between
    two chunks."""
    return len(piece) < _LENGTHS and piece == framed(body)


def lane(template: Template, counter: Counter, write: Write) -> Lane:
    """Takes a piece that came while the parser stands between two chunks. True: it was one whole chunk with an event
    like the template's, which was counted and written. False: nothing was done.

    One function, because that is what a token costs: it says what `Template.apply` does, between chunk frames. Between
    two tokens other programs have the processor's caches, so what counts is how much memory it touches: names of its
    own instead of the module's, and the two methods of `bytes` that don't unpack a tuple of arguments."""
    before, after, _, _, out_before, out_after, same = template
    after, out_after = after + _END, out_after + _END
    around = len(before) + len(after)
    out_around = len(out_before) + len(out_after) - len(_END)
    beginnings, lengths = _BEGINNINGS, _LENGTHS

    def take(piece: bytes) -> bool:
        size = len(piece)
        if size >= lengths:
            return False
        beginning = beginnings[size]
        text = piece.removeprefix(beginning).removeprefix(before).removesuffix(after)
        if len(beginning) + len(text) + around != size:  # one of the three wasn't there
            return False
        if 92 in text:  # a backslash
            if not is_inside_string(text):
                return False
        elif 34 in text or 10 in text or 13 in text or not text:  # a quote, the end of a line
            return False
        counter.count += 1
        if same:
            write(piece)
        else:
            size = out_around + len(text)
            head = CHUNK_HEADS[size] if size < _USUAL else b"%x\r\n" % size
            write(b"".join((head, out_before, text, out_after)))
        return True

    return take
