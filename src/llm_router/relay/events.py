"""Server-sent events as bytes: where one ends, which lines it has, how one is written.

Counterpart: `sse`, which knows what is in them. Knows no JSON.
"""

from __future__ import annotations

import re

from llm_router.errors import UpstreamGarbage

_HELD_MAX = 16 * 1024 * 1024
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Cutter:
    """Cuts a stream into whole events, however it arrives. `tail`: what has come of the next one."""

    __slots__ = ("tail",)

    def __init__(self) -> None:
        self.tail = b""

    def cut(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with its blank line: LF LF, CR LF CR LF, CR CR or mixed. A CR at the
        very end may be half of a CR LF, so it waits for more.

        Raises: UpstreamGarbage when an event doesn't end within 16 MiB.
        """
        seen = max(0, len(self.tail) - 3)  # a blank line may have begun there, but none ends before
        buffer = self.tail + data if self.tail else data
        events = []
        start = 0
        if b"\r" not in buffer:
            while (found := buffer.find(b"\n\n", max(start, seen))) >= 0:
                events.append(buffer[start : found + 2])
                start = found + 2
        else:
            for match in _BLANK_LINE.finditer(buffer, seen):
                if match.end() == len(buffer) and buffer.endswith(b"\r"):
                    break
                events.append(buffer[start : match.end()])
                start = match.end()
        self.tail = buffer[start:]
        if len(self.tail) > _HELD_MAX:
            raise UpstreamGarbage("cannot relay an event of more than 16 MiB: check what the inference server sends")
        return events


def as_event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"


def lines_of(event: bytes) -> tuple[bytes, list[bytes]]:
    """An event's other lines (comments, its name), joined as they'd be sent, and the values of its `data:` lines."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 and b"\r" not in event:
        return b"", [event[6:-2]]
    others: list[bytes] = []
    values: list[bytes] = []
    for line in _LINE_END.split(event.removeprefix(_BOM)):
        if line.startswith(b"data:"):
            values.append(line[5:].removeprefix(b" "))
        elif line:
            others.append(line + b"\n")
    return b"".join(others), values
