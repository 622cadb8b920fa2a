"""What is over, as OpenTelemetry spans: each request, and each load, wake and stop of a model.

Counterparts: `relay.recorder` and `switches`, which tell of them; `app.tracing`, which makes the tracer. All times are
known by then, so nothing is measured here, and no span is ever open. The only module of this room that needs the extra
`otel`. Names in `gen_ai.` are those of the semantic conventions for generative AI, 0.1.0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from llm_router.relay.headers import RequestHead
from llm_router.relay.recorder import CANCELLED, COMPLETED, Ended, Recorder
from llm_router.relay.request import Kind
from llm_router.runtime.switches import Loaded, Switched
from llm_router.runtime.tally import NO_WAIT_S

_OPERATIONS = {Kind.CHAT: "chat", Kind.COMPLETION: "text_completion", Kind.EMBEDDING: "embeddings", Kind.RAW: "raw"}
_PARENT = TraceContextTextMapPropagator()


class Traces:
    """Implements `relay.recorder.Recorder` before another one, `counts`.

    `later`: calls a function with these arguments soon, but not now, since making spans takes a hundred times as long
    as counting. `provider_of`: who serves a model.
    """

    def __init__(
        self, tracer: Tracer, counts: Recorder, *, later: Callable[..., object], provider_of: Callable[[str], str]
    ) -> None:
        self._tracer = tracer
        self._counts = counts
        self._later = later
        self._provider_of = provider_of
        self._loads: dict[str, tuple[float, SpanContext]] = {}  # the last one of each model, and when it was over

    def ended(self, request: Ended) -> None:
        self._counts.ended(request)
        self._later(self._request, request)

    def replayed(self, model: str) -> None:
        self._counts.replayed(model)

    def _request(self, request: Ended) -> None:
        model, upstream = request.model, request.upstream
        since, sent_at, first_at = request.since, request.sent_at, request.first_at
        operation = _OPERATIONS[request.kind]
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": operation,
            "llm_router.outcome": request.outcome,
        }
        if model:
            attributes |= {"gen_ai.provider.name": self._provider_of(model), "gen_ai.request.model": model}
        server: dict[str, AttributeValue] = {}
        if sent_at and upstream is not None:
            server = {"server.address": upstream.host, "server.port": upstream.port}
        if request.prompt_n or request.completion_n:
            attributes["gen_ai.usage.input_tokens"] = request.prompt_n
            attributes["gen_ai.usage.output_tokens"] = request.completion_n
        if first_at:
            attributes["gen_ai.response.time_to_first_chunk"] = first_at - since
        at = _clock()
        whole = self._tracer.start_span(
            f"{operation} {model}".rstrip(),
            _parent(request.client),
            SpanKind.SERVER,
            attributes | server,
            start_time=at(since),
        )
        if whole.is_recording():
            inside = set_span_in_context(whole, Context())
            waited_until = sent_at or request.now
            if waited_until - since > NO_WAIT_S:
                links = self._load_within(model, since, waited_until)
                wait = self._tracer.start_span("wait", inside, links=links, start_time=at(since))
                wait.end(at(waited_until))
            if sent_at:
                answer = self._tracer.start_span(
                    "answer", inside, SpanKind.CLIENT, attributes=server, start_time=at(sent_at)
                )
                if first_at:
                    answer.add_event("first token", timestamp=at(first_at))
                answer.end(at(request.now))
        if request.outcome not in (COMPLETED, CANCELLED):
            _fail(whole, request.outcome)
        whole.end(at(request.now))

    def _load_within(self, model: str, since: float, until: float) -> Sequence[Link]:
        over_at, context = self._loads.get(model, (0.0, None))
        return () if context is None or not since <= over_at <= until else (Link(context),)

    def switched(self, what: Switched) -> None:
        """As `switches.Switches.tell` has it."""
        at = _clock()
        last, _, until = what.phases[-1]
        attributes: dict[str, AttributeValue] = {
            "llm_router.model": what.model,
            "llm_router.instance": what.instance,
        }
        if what.outcome is not None:
            attributes["llm_router.outcome"] = what.outcome.value
        if what.reason is not None:
            attributes["llm_router.reason"] = what.reason
        whole = self._tracer.start_span(
            f"{last.value} {what.model}", Context(), attributes=attributes, start_time=at(what.phases[0][1])
        )
        inside = set_span_in_context(whole, Context())
        for phase, began, ended in what.phases:
            self._tracer.start_span(phase.value, inside, start_time=at(began)).end(at(ended))
        if what.outcome is Loaded.FAILED:
            _fail(whole, what.outcome.value, what.error)
        elif what.outcome is Loaded.READY:
            self._loads[what.model] = until, whole.get_span_context()
        whole.end(at(until))


def _parent(client: RequestHead) -> Context:
    """What the client says that the request is a part of; else nothing, whatever runs here at the moment."""
    carrier = {
        name: value.decode("latin-1")
        for name in _PARENT.fields
        if (value := client.fields.get(name.encode())) is not None
    }
    return _PARENT.extract(carrier, Context())


def _fail(span: Span, error: str, words: str | None = None) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR, words))


def _clock() -> Callable[[float], int]:
    """From monotonic seconds to nanoseconds since 1970, as it is now: somebody may set the time of day."""
    began_ns = time.time_ns() - time.monotonic_ns()
    return lambda at: began_ns + int(at * 1e9)
