"""One request's way through the router: read it, wait for a lease, send it on, relay the answer, close the lease.

The same code serves both sinks and all inference routes. It decides nothing about models: it asks the `Dispatcher`.
Everything happens in callbacks on the event loop; a request whose model is ready costs no task.
"""

from __future__ import annotations

import logging
from time import monotonic, time

from llm_router.errors import LlmRouterError, UpstreamError, UpstreamLost
from llm_router.relay import failure
from llm_router.relay.announcer import Announcer
from llm_router.relay.chunk import naming
from llm_router.relay.connection import Call
from llm_router.relay.failure import Failure
from llm_router.relay.headers import Headers, ReplyHead, RequestHead
from llm_router.relay.held import Held, may_be_held
from llm_router.relay.lane import Lane, Write
from llm_router.relay.lease import Upstream
from llm_router.relay.outgoing import COUNTED, outgoing
from llm_router.relay.recorder import CANCELLED, COMPLETED, SERVER_REFUSED, UPSTREAM_ERROR, Ended
from llm_router.relay.reply import rewrite_reply
from llm_router.relay.request import Kind, Request, Target, read, status_mode
from llm_router.relay.services import Services
from llm_router.relay.sink import Sink
from llm_router.relay.sse import StreamRewriter
from llm_router.relay.status_text import Mode, Progress, StatusStream

_log = logging.getLogger(__name__)

_SSE_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_ABOUT_THE_BODY = (b"content-type", b"content-encoding", b"etag", b"last-modified")
_JSON = (b"content-type", b"application/json")


class Exchange:
    """One request and its reply. Owned by its sink, which must call `client_gone` when the client leaves early."""

    __slots__ = (
        "_announcer",
        "_asked",
        "_attempt",
        "_body",
        "_call",
        "_chunks",
        "_client",
        "_held",
        "_paused",
        "_relayed",
        "_request",
        "_rewriter",
        "_sent_at",
        "_services",
        "_since",
        "_sink",
        "_started",
        "_target",
        "_upstream",
        "over",
    )

    def __init__(self, services: Services, sink: Sink, target: Target, head: RequestHead) -> None:
        self._services = services
        self._sink = sink
        self._target = target
        self._client = head
        self._body: bytes = b""
        self._asked: Request | None = None
        self._request: int | None = None
        self._call: Call | None = None
        self._rewriter: StreamRewriter | None = None
        self._held: Held | None = None
        self._announcer: Announcer | None = None
        self._upstream: Upstream | None = None
        self._started = False  # the sink has a head
        self._chunks: Write | None = None
        self._relayed = False  # the client has something of a reply that passes as it is
        self._paused = False
        self._attempt = 1
        self._since = 0.0
        self._sent_at = 0.0
        self.over = False

    # -- from the sink

    def start(self, body: bytes) -> None:
        """The request is here, whole. Everything wrong with it is answered from here.

        A mistake of ours costs this request alone, and is told: llhttp, in whose callbacks this may run, would make a
        bad request of it."""
        try:
            self._read(body)
        except Exception:  # noqa: BLE001 -- whatever it is
            _log.exception("cannot serve a request")
            self.cut(LlmRouterError("cannot serve the request: the router failed; its log tells more"))

    def _read(self, body: bytes) -> None:
        self._since = monotonic()
        self._body = body
        try:
            self._asked = read(
                self._target, self._client.fields, body, self._services.models, self._services.preferences
            )
        except LlmRouterError as error:
            self._answer(error)
            return
        self._ask()

    def refuse(self, error: LlmRouterError) -> None:
        """The sink itself found the request wrong (its body too large, say)."""
        self._answer(error)

    def client_gone(self) -> None:
        """The client left, whatever the phase: free the server and the lease at once."""
        if not self.over:
            self._close(lost=False)
            self._record(CANCELLED)

    def pause(self) -> None:
        """The client reads too slowly: stop reading from the server."""
        self._paused = True
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._call is not None:
            self._call.resume()

    # -- waiting for a lease

    def _ask(self) -> None:
        asked = self._asked
        assert asked is not None
        facts = asked.facts
        request = self._services.dispatcher.open(asked.model.name, request_class=asked.request_class, waiter=self)
        if self.over or self._call is not None:
            return
        self._request = request
        if self._announcer is None and facts is not None and facts.stream:
            mode = status_mode(self._target, self._client.fields, facts, self._services.preferences)
            if mode is not Mode.OFF:
                created = int(time())
                stream = StatusStream(mode, model=facts.model, id=f"chatcmpl-{created:x}", created=created)
                self._announcer = Announcer(stream, progress=self._progress, send=self._tell)
        if self._announcer is not None:
            self._announcer.show()

    def _progress(self) -> Progress | None:
        return None if self._request is None or self.over else self._services.dispatcher.progress(self._request)

    def _tell(self, status: bytes) -> None:
        if not self._started:
            self._head(200, _SSE_HEADERS, None)
        self._sink.data(status)

    def granted(self, request: int, upstream: Upstream) -> None:
        if self.over:
            self._services.dispatcher.close(request)
            return
        self._request = request
        self._upstream = upstream
        if self._announcer is not None:
            self._announcer.ready(monotonic() - self._since)
        try:
            self._send(upstream)
        except LlmRouterError as error:
            self._answer(error)

    def refused(self, error: LlmRouterError) -> None:
        self._request = None
        self._answer(error)

    def cut(self, error: LlmRouterError) -> None:
        self._give_up(error, lost=False)

    # -- towards the server

    def _send(self, upstream: Upstream) -> None:
        assert self._asked is not None
        request = outgoing(self._target, self._asked, self._client, self._body, upstream)
        self._sent_at = monotonic()
        without_body = self._target.method == b"HEAD"
        self._call = self._services.pool.send(upstream, request, self, without_body=without_body)
        if self._paused:
            self._call.pause()

    # -- from the server

    def reply_head(self, status: int, head: ReplyHead, length: int | None) -> None:
        assert self._asked is not None and self._upstream is not None
        kind, facts = self._target.kind, self._asked.facts
        fields = head.returned
        rewritable = status == 200 and facts is not None and kind in COUNTED
        is_stream = head.fields.get(b"content-type", b"").startswith(b"text/event-stream")
        if rewritable and is_stream:
            assert facts is not None
            self._rewriter = StreamRewriter(
                chat=kind is Kind.CHAT,
                include_usage=facts.include_usage,
                performance=self._asked.performance,
                sent_at=self._sent_at,
                names=naming(facts.model, self._upstream.served_name, self._upstream.model),
                last_words=self._upstream.last_words if self._attempt == 1 else (),
            )
            if not self._started:
                self._head(200, fields, None)
        elif self._started and status == 200 and is_stream:
            self._relayed = True  # of another API than these two: it goes on in the stream that has begun
        elif self._started or (rewritable and may_be_held(length)) or (status >= 400 and facts is not None):
            self._held = Held(status, fields)
        else:
            self._relayed = True
            self._head(status, fields, length)

    def reply_data(self, data: bytes) -> bool:
        rewriter = self._rewriter
        if rewriter is not None:
            known = rewriter.quickly(data)
            if known is not None:  # nearly every token, so nothing more is done for one
                rewriter.count += 1
                self._sink.data(known)
                return True
            try:
                out = rewriter.feed(data, monotonic())
            except UpstreamLost as error:
                self.reply_lost(error)
                return True
            except UpstreamError as error:
                self._give_up(error, lost=False)
                return True
            if out:
                self._sink.data(out)
            return not rewriter.silent
        if self._held is None:
            self._sink.data(data)
        elif not self._held.add(data):
            self._let_go(self._held)
        return True

    def reply_lane(self) -> Lane | None:
        rewriter, write = self._rewriter, self._chunks
        return None if rewriter is None or write is None else rewriter.lane(write)

    def reply_late(self) -> None:
        if self._upstream is not None:
            self._services.dispatcher.suspect(self._upstream.instance)

    def _let_go(self, held: Held) -> None:
        """The reply is too large to be held: as it is, or not at all where the client waits for events."""
        if held.is_error:
            self._end_error(held)
        elif self._started:
            self._give_up(UpstreamLost("cannot pass on an answer of this size that isn't a stream"), lost=False)
        else:
            self._held = None
            self._relayed = True
            self._head(held.status, held.headers, None)
            self._sink.data(held.body())

    def reply_end(self) -> None:
        self._call = None
        rewriter = self._rewriter
        if rewriter is not None and not (rewriter.finished or rewriter.done):
            # An engine that is being stopped, or whose workers died, may end its body neatly in mid-answer.
            self.reply_lost(UpstreamLost("cannot finish the answer: its server ended it half-way"))
        elif self._held is None:
            self._finish(lost=False)
        elif self._held.is_error:
            self._end_error(self._held)
        else:
            self._end_answer(self._held)

    def _finish(self, *, lost: bool) -> None:
        self._close(lost=lost)
        if self._rewriter is not None:
            self._sink.data(self._rewriter.finish(monotonic()))
        self._sink.end()
        self._record(COMPLETED if self._rewriter is None or self._rewriter.error is None else UPSTREAM_ERROR)

    def _end_answer(self, held: Held) -> None:
        """An answer in one piece."""
        assert self._asked is not None and self._asked.facts is not None and self._upstream is not None
        self._close(lost=False)
        if self._started:  # … instead of the stream that the client was promised
            self._end_stream(failure.of_reply(held.body(), status=held.status, model=self._asked.model.name))
            self._record(UPSTREAM_ERROR)
            return
        reply, prompt_n, completion_n = rewrite_reply(
            held.body(),
            chat=self._target.kind is Kind.CHAT,
            performance=self._asked.performance,
            sent_at=self._sent_at,
            now=monotonic(),
            names=naming(self._asked.facts.model, self._upstream.served_name, self._upstream.model),
        )
        self._sink.reply(held.status, held.headers, reply)
        self._record(COMPLETED, prompt_n, completion_n)

    def _end_error(self, held: Held) -> None:
        """What the server says instead of an answer; after a 500 it is checked."""
        assert self._asked is not None and self._upstream is not None
        name, last_words = self._asked.model.name, self._upstream.last_words
        match held.what_went_wrong(name, last_words=last_words, may_repeat=self._may_repeat):
            case UpstreamLost() as lost:
                self.reply_lost(lost)
            case UpstreamError() as error:
                self._answer(error)
            case Failure() as said:
                self._close(lost=held.status == 500)
                if self._started:
                    self._end_stream(said)
                else:
                    headers = [(key, value) for key, value in held.headers if key not in _ABOUT_THE_BODY]
                    self._sink.reply(held.status, [*headers, _JSON], said.as_reply())
                self._record(UPSTREAM_ERROR if held.status >= 500 else SERVER_REFUSED)

    @property
    def _may_repeat(self) -> bool:
        """Nothing of the answer has reached the client, so it need not know of a second attempt. Once."""
        begun = self._relayed or (self._rewriter is not None and self._rewriter.started)
        return self._attempt == 1 and not begun

    def reply_lost(self, error: LlmRouterError) -> None:
        if self._may_repeat and isinstance(error, UpstreamLost):
            self._attempt = 2
            self._rewriter = self._held = None
            self._release(lost=True)
            if self._services.recorder is not None and self._asked is not None:
                self._services.recorder.replayed(self._asked.model.name)
            self._ask()
            return
        self._call = None
        if self._rewriter is not None and self._rewriter.finished:
            self._finish(lost=True)  # the answer is whole; only its end mark is missing
        else:
            self._give_up(error, lost=True)

    # -- endings

    def _answer(self, error: LlmRouterError) -> None:
        """Before anything of an answer was sent: an error reply, or its place in a stream that has begun."""
        self._close(lost=False)
        if self._started:
            self._end_stream(Failure(message=error.message, code=error.code))
        else:
            self._sink.reply(*self._services.render(error))
        self._record(error.code)

    def _give_up(self, error: LlmRouterError, *, lost: bool) -> None:
        """The answer can't be finished. A stream says so and ends; everything else breaks off, which nobody can
        take for a complete answer."""
        if self.over:
            return
        rewriter = self._rewriter
        if rewriter is not None:
            self._close(lost=lost)
            self._sink.data(rewriter.fail(error.message, error.code))
            self._sink.end()
            self._record(error.code)
        elif self._relayed:
            self._close(lost=lost)
            self._sink.abort()
            self._record(error.code)
        else:
            if lost:
                self._close(lost=True)
            self._answer(error)

    def _end_stream(self, why: Failure) -> None:
        closing = self._announcer.failed(why.code) if self._announcer is not None else b""
        self._sink.data(closing + why.as_end())
        self._sink.end()

    def _record(self, outcome: str, prompt_n: int = 0, completion_n: int = 0) -> None:
        """Once, at the very end, so that nobody waits for it. Of a stream that was cut short, what came is counted."""
        recorder, asked, rewriter = self._services.recorder, self._asked, self._rewriter
        if recorder is None:
            return
        first_at = rate = 0.0
        if rewriter is not None:
            first_at, completion_n, figures = rewriter.first_at, rewriter.count, rewriter.figures
            if figures is not None:
                prompt_n, completion_n = figures.usage["prompt_tokens"], figures.usage["completion_tokens"]
                rate = figures.timings["predicted_per_second"]
        now = monotonic()
        recorder.ended(
            Ended(
                "" if asked is None else asked.model.name,
                self._target.kind,
                outcome,
                self._since or now,  # one that was refused, or given up, before it was here
                self._sent_at,
                first_at,
                now,
                prompt_n,
                completion_n,
                rate,
                self._client,
                self._upstream,
            )
        )

    def _head(self, status: int, headers: Headers, length: int | None) -> None:
        self._started = True
        self._chunks = self._sink.head(status, headers, length)

    def _close(self, *, lost: bool) -> None:
        """Idempotent: no timer, no connection, no lease is left."""
        self.over = True
        if self._announcer is not None:
            self._announcer.stop()
        self._release(lost=lost)

    def _release(self, *, lost: bool) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._request is not None:
            request, self._request = self._request, None
            self._services.dispatcher.close(request, lost=lost)
