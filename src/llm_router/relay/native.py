"""A stream of another API than chat completions that passes from the server to the client: what must not pass, and how
the router's own last word reads there.

Counterpart: `sse`, for the streams of chats and completions. Nothing is counted or completed here.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_router.relay import failure
from llm_router.relay.chunk import decode_object, decoded, encode
from llm_router.relay.events import Cutter, as_event, lines_of
from llm_router.relay.failure import DONE
from llm_router.relay.headers import Headers
from llm_router.relay.sink import Sink

# Front ends act on these at the top of an event, whichever API it is of: `event` runs JavaScript in Open-WebUI.
_NOT_A_SERVERS = frozenset({"event", "selected_model_id", "sources", "done"})
# … or how such a key might be spelt to get past a search of the bytes.
_SUSPICIOUS = (*(b'"' + key.encode() + b'"' for key in sorted(_NOT_A_SERVERS)), b"\\u00")


class NativeStream:
    """Implements `sink.Sink` before another one. `error`: message and code as an event of this API."""

    def __init__(self, sink: Sink, error: Callable[[str, str], bytes]) -> None:
        self._sink = sink
        self._error = error
        self._cutter: Cutter | None = None
        self.reply, self.abort = sink.reply, sink.abort

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        kinds = [value for name, value in headers if name == b"content-type"]
        if kinds and kinds[0].startswith(b"text/event-stream"):
            self._cutter, length = Cutter(), None
        self._sink.head(status, headers, length)

    def data(self, data: bytes) -> None:
        if self._cutter is not None:
            data = b"".join([self._event(event) for event in self._cutter.cut(data)])
        if data:
            self._sink.data(data)

    def end(self) -> None:
        if self._cutter is not None and self._cutter.tail:
            self._sink.data(self._event(self._cutter.tail))
        self._sink.end()

    def _event(self, event: bytes) -> bytes:
        """1. Nearly all go on as they came. 2. An error in a chat's words, as the relay's own last one is, is said
        in this API's. 3. What front ends would act on is taken out."""
        if event == DONE:
            return b""
        is_error = event.startswith((b'data: {"error":', b'data:{"error":'))
        if not is_error and not any(word in event for word in _SUSPICIOUS):  # 1
            return event
        others, values = lines_of(event)
        try:
            top = decode_object(b"\n".join(values))
        except RecursionError:
            return b""
        if top is None:
            return event
        if is_error and not others:  # 2
            said = failure.of_object({key: decoded(value) for key, value in top.items()})
            return event if said is None else self._error(said.message, said.code)
        if _NOT_A_SERVERS.isdisjoint(top):
            return event
        return others + as_event(encode({key: value for key, value in top.items() if key not in _NOT_A_SERVERS}))  # 3
