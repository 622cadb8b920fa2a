"""One form's way through the router: as `exchange`, but what goes to the server is a file.

Counterpart: `form`, which keeps it.
"""

from __future__ import annotations

from time import monotonic

import msgspec

from llm_router.relay.exchange import Exchange
from llm_router.relay.form import Form
from llm_router.relay.headers import RequestHead
from llm_router.relay.lease import Upstream
from llm_router.relay.request import Target
from llm_router.relay.services import Services
from llm_router.relay.sink import Sink


class Upload(Exchange):
    """`start_form` instead of `start`. The form knows the model's `parameters` already, where it has any."""

    __slots__ = ("_form",)

    def __init__(self, services: Services, sink: Sink, target: Target, head: RequestHead, form: Form) -> None:
        super().__init__(services, sink, target, head)
        self._form = form
        # What the relay reads is the little that follows from the form; what it forwards says what is really sent.
        head.fields[b"content-type"] = b"application/json"

    def start_form(self) -> None:
        """The form is here, whole."""
        self.start(msgspec.json.encode({"model": self._form.model}))

    def _send(self, upstream: Upstream) -> None:
        target, form = self._target, self._form
        assert self._asked is not None
        name = upstream.served_name or self._asked.model.name
        block = self._client.block(
            host=upstream.host_header, content_length=form.size_with(name), credential=upstream.credential
        )
        head = b"".join((target.method, b" ", upstream.base_path, target.path, b" HTTP/1.1\r\n", block))
        self._sent_at = monotonic()
        self._call = self._services.pool.send(upstream, form.request(head, name), self)
        if self._paused:
            self._call.pause()
