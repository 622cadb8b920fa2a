"""A request is a span with its wait and its answer below it; a load, a wake or a stop is one with its phases."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llm_router.relay.headers import RequestHead
from llm_router.relay.lease import Upstream
from llm_router.relay.recorder import Ended
from llm_router.relay.request import Kind
from llm_router.runtime.switches import Loaded, Phase, Switched
from llm_router.runtime.tally import Requests
from llm_router.runtime.traces import Traces

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
UPSTREAM = Upstream(instance=3, model="qwen", host="127.0.0.1", port=30000, host_header="127.0.0.1:30000")


class Traced:
    """`Traces` into memory. `at`: now, in monotonic seconds, which all times of a test are told from."""

    def __init__(self) -> None:
        self.at = time.monotonic()
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.counts = Requests()
        self._later: list[tuple[Any, ...]] = []
        self.traces = Traces(
            provider.get_tracer("tests"),
            self.counts,
            later=lambda *call: self._later.append(call),
            provider_of=lambda model: f"server of {model}",
        )

    def ended(
        self,
        *,
        model: str = "qwen",
        kind: Kind = Kind.CHAT,
        outcome: str = "completed",
        sent_s: float | None = 0.001,
        first_s: float | None = None,
        took_s: float = 3.0,
        headers: Mapping[str, str] | None = None,
        tokens: tuple[int, int] = (0, 0),
    ) -> None:
        """Of a request that was here at `at`; the rest is told from there."""
        since = self.at
        sent_at, first_at = (0.0 if moment is None else since + moment for moment in (sent_s, first_s))
        head = RequestHead([(name.encode(), value.encode()) for name, value in (headers or {}).items()])
        upstream = None if sent_s is None else UPSTREAM
        times = since, sent_at, first_at, since + took_s
        self.traces.ended(Ended(model, kind, outcome, *times, *tokens, 0.0, head, upstream))

    def switched(self, *phases: tuple[Phase, float, float], **more: Any) -> None:
        told = tuple((phase, self.at + since, self.at + until) for phase, since, until in phases)
        self.traces.switched(Switched(model="qwen", instance=3, phases=told, **more))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """By name, after all that was put off is done."""
        while self._later:
            call, *told = self._later.pop(0)
            call(*told)
        return {span.name: span for span in self._memory.get_finished_spans()}

    def seconds(self, span: ReadableSpan) -> tuple[float, float]:
        """Begin and end, told from `at`."""
        assert span.start_time is not None
        assert span.end_time is not None
        zero_s = time.time() - (time.monotonic() - self.at)
        return round(span.start_time / 1e9 - zero_s, 2), round(span.end_time / 1e9 - zero_s, 2)


@pytest.fixture
def traced() -> Traced:
    return Traced()


# -- requests


def test_a_request_has_the_names_of_the_conventions(traced: Traced) -> None:
    traced.ended(first_s=0.5, tokens=(12, 30))
    whole = traced.spans["chat qwen"]
    assert dict(whole.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "server of qwen",
        "gen_ai.request.model": "qwen",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 30,
        "gen_ai.response.time_to_first_chunk": pytest.approx(0.5),
        "llm_router.outcome": "completed",
        "server.address": "127.0.0.1",
        "server.port": 30000,
    }
    assert (whole.kind, whole.parent, whole.status.status_code) == (SpanKind.SERVER, None, StatusCode.UNSET)
    assert traced.seconds(whole) == (0.0, 3.0)


@pytest.mark.parametrize(
    ("kind", "operation"),
    [(Kind.COMPLETION, "text_completion"), (Kind.EMBEDDING, "embeddings"), (Kind.RAW, "raw")],
)
def test_each_kind_of_request_has_its_operation(traced: Traced, kind: Kind, operation: str) -> None:
    traced.ended(kind=kind)
    assert f"{operation} qwen" in traced.spans


def test_wait_and_answer_are_parts_of_the_request(traced: Traced) -> None:
    traced.ended(sent_s=2.0, first_s=2.5)
    spans = traced.spans
    whole, wait, answer = spans["chat qwen"], spans["wait"], spans["answer"]
    for part in (wait, answer):
        assert part.parent is not None
        assert whole.context is not None
        assert (part.parent.span_id, part.context and part.context.trace_id) == (
            whole.context.span_id,
            whole.context.trace_id,
        )
    assert (traced.seconds(wait), traced.seconds(answer)) == ((0.0, 2.0), (2.0, 3.0))
    assert answer.kind is SpanKind.CLIENT
    assert dict(answer.attributes or {}) == {"server.address": "127.0.0.1", "server.port": 30000}
    [first] = answer.events
    assert (first.name, first.timestamp - (answer.start_time or 0)) == ("first token", pytest.approx(0.5e9, rel=1e-3))


def test_who_did_not_wait_has_no_wait(traced: Traced) -> None:
    traced.ended()
    assert set(traced.spans) == {"chat qwen", "answer"}


def test_who_was_never_sent_has_no_answer(traced: Traced) -> None:
    traced.ended(sent_s=None, outcome="load_failed")
    spans = traced.spans
    assert set(spans) == {"chat qwen", "wait"}
    assert traced.seconds(spans["wait"]) == (0.0, 3.0)


def test_a_request_for_no_model_there_is_names_none(traced: Traced) -> None:
    traced.ended(model="", sent_s=None, took_s=0.0, outcome="model_not_found")
    [(name, span)] = traced.spans.items()
    assert name == "chat"
    assert "gen_ai.request.model" not in (span.attributes or {})


@pytest.mark.parametrize("outcome", ["load_failed", "upstream_error", "server_refused"])
def test_what_went_wrong_is_an_error(traced: Traced, outcome: str) -> None:
    traced.ended(outcome=outcome)
    whole = traced.spans["chat qwen"]
    assert whole.status.status_code is StatusCode.ERROR
    assert (whole.attributes or {})["error.type"] == outcome


def test_a_client_that_leaves_is_no_error(traced: Traced) -> None:
    traced.ended(outcome="cancelled")
    whole = traced.spans["chat qwen"]
    assert whole.status.status_code is StatusCode.UNSET
    assert (whole.attributes or {})["llm_router.outcome"] == "cancelled"


def test_a_request_is_a_part_of_what_its_client_says(traced: Traced) -> None:
    traced.ended(headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "theirs=1"})
    whole = traced.spans["chat qwen"]
    assert whole.parent is not None
    assert (f"{whole.parent.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, PARENT)
    assert whole.context is not None
    assert whole.context.trace_state.get("theirs") == "1"


def test_a_parent_that_is_none_is_none(traced: Traced) -> None:
    traced.ended(headers={"traceparent": "00-nonsense-01"})
    assert traced.spans["chat qwen"].parent is None


def test_what_its_client_does_not_sample_is_not_traced(traced: Traced) -> None:
    traced.ended(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert traced.spans == {}


def test_requests_are_still_counted_and_at_once(traced: Traced) -> None:
    traced.ended()
    traced.traces.replayed("qwen")
    tally = traced.counts.models["qwen"]
    assert (dict(tally.outcomes), tally.replays) == ({"completed": 1}, 1)


# -- switches


def test_a_load_has_its_phases_below_it(traced: Traced) -> None:
    traced.switched((Phase.ROOM, 0.0, 3.0), (Phase.LOAD, 3.0, 10.0), outcome=Loaded.READY)
    spans = traced.spans
    whole = spans["load qwen"]
    assert set(spans) == {"load qwen", "room", "load"}
    assert dict(whole.attributes or {}) == {
        "llm_router.model": "qwen",
        "llm_router.instance": 3,
        "llm_router.outcome": "ready",
    }
    assert traced.seconds(whole) == (0.0, 10.0)
    assert (traced.seconds(spans["room"]), traced.seconds(spans["load"])) == ((0.0, 3.0), (3.0, 10.0))
    assert spans["room"].parent == spans["load"].parent == whole.context


def test_a_stop_says_why(traced: Traced) -> None:
    traced.switched((Phase.DRAIN, 0.0, 5.0), (Phase.STOP, 5.0, 6.5), reason="to make room for b")
    whole = traced.spans["stop qwen"]
    assert (whole.attributes or {})["llm_router.reason"] == "to make room for b"
    assert traced.seconds(whole) == (0.0, 6.5)


def test_a_load_that_fails_says_what_its_error_was(traced: Traced) -> None:
    traced.switched((Phase.LOAD, 0.0, 2.0), outcome=Loaded.FAILED, error="out of memory")
    whole = traced.spans["load qwen"]
    assert (whole.status.status_code, whole.status.description) == (StatusCode.ERROR, "out of memory")
    assert (whole.attributes or {})["error.type"] == "failed"


def test_a_wait_is_linked_to_the_load_that_ended_it(traced: Traced) -> None:
    traced.switched((Phase.LOAD, 0.5, 2.0), outcome=Loaded.READY)
    traced.ended(sent_s=2.0)
    [link] = traced.spans["wait"].links
    assert link.context == traced.spans["load qwen"].context


def test_a_wait_for_something_else_is_linked_to_nothing(traced: Traced) -> None:
    traced.switched((Phase.LOAD, -9.0, -5.0), outcome=Loaded.READY)
    traced.ended(sent_s=2.0)
    assert not traced.spans["wait"].links
