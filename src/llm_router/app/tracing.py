"""Sends traces to an OpenTelemetry collector. Imported only where they are wanted: what it needs, an extra brings.

Counterparts: `runtime.traces`, which makes the spans; OpenTelemetry's SDK, which sends them by OTLP over HTTP in a
thread of its own, and whose `OTEL_` variables say where to and all else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from llm_router import __version__
from llm_router.errors import ConfigError
from llm_router.relay.services import Services
from llm_router.runtime.instances import Launch
from llm_router.runtime.supervisor import Supervisor
from llm_router.runtime.traces import Traces

_log = logging.getLogger(__name__)
_library = logging.getLogger(OTLPSpanExporter.__module__)

_FLUSH_S = 2.0


@contextmanager
def traced(services: Services, supervisor: Supervisor, launches: Mapping[str, Launch]) -> Iterator[None]:
    """Meanwhile requests and switches are traced. At the end what wasn't sent yet is sent: the event loop, which has
    nothing else to do by then, stands still for that, for two seconds at most.

    Raises: ConfigError where the `OTEL_` variables can't be used.
    """
    assert services.recorder is not None
    provider = _provider()
    traces = Traces(
        provider.get_tracer("llm_router", __version__),
        services.recorder,
        later=asyncio.get_running_loop().call_soon,
        provider_of=lambda model: launches[model].backend.kind if model in launches else "openai",
    )
    services.recorder, supervisor.switches.tell = traces, traces.switched
    try:
        yield
    finally:
        # In a thread that may be left behind: the SDK's own limit is half a minute.
        end = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        end.start()
        end.join(_FLUSH_S)


def _provider() -> TracerProvider:
    own = Resource.create({"service.name": "llm-router", "service.version": __version__})
    try:
        provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(_Exporter()))
    except ValueError as error:
        raise ConfigError(
            f"cannot send traces: {str(error).rstrip('.')}; correct the OTEL_ variables in the environment"
        ) from error
    logging.getLogger("opentelemetry.sdk").setLevel(logging.ERROR)  # below: that its queue is full, again and again
    return provider


class _Exporter(OTLPSpanExporter):
    """Says once that nothing can be sent, and once that it can be again; what it is made of says so for every batch.

    Runs in the SDK's thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_failing = False
        self._words = ""
        _library.addFilter(self._hear)

    def _hear(self, record: logging.LogRecord) -> bool:
        self._words = self._words or record.getMessage()
        return False

    def shutdown(self) -> None:
        super().shutdown()  # type: ignore[no-untyped-call]
        _library.removeFilter(self._hear)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._words = ""
        result = super().export(spans)
        was_failing, self._is_failing = self._is_failing, result is not SpanExportResult.SUCCESS
        if self._is_failing and not was_failing:
            _log.warning(
                "cannot send traces: they are lost until a collector takes them; see OTEL_EXPORTER_OTLP_ENDPOINT (%s)",
                self._words,
            )
        elif was_failing and not self._is_failing:
            _log.info("traces can be sent again")
        return result
