"""What a collector receives of a running router: a chat that waited for its model, and the load that it waited for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from nursery import run
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from routing import RouterProcess, fake

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes traces by OTLP over HTTP. `spans`: what came, by name; `services`: who sent it."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.services: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            assert request.startswith(b"POST /v1/traces ")
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2]) for line in head.splitlines() if line.lower().startswith(b"content-length")
            )
            for sent in ExportTraceServiceRequest.FromString(await reader.readexactly(length)).resource_spans:
                about = {pair.key: pair.value.string_value for pair in sent.resource.attributes}
                self.services.add(about["service.name"])
                self.spans.update({span.name: span for scope in sent.scope_spans for span in scope.spans})
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
        writer.close()


def _run_traced(argv: list[str], output: Connection, log: str) -> None:
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = (Path(argv[-1]).parent / "collector").read_text()
    os.environ["OTEL_SERVICE_NAME"] = "chat-box"
    run(argv, output, log)


class TracedRouter(RouterProcess):
    """Sends its traces where the file `collector` beside its configuration says."""

    run = staticmethod(_run_traced)


@asynccontextmanager
async def traced(folder: Path, endpoint: str) -> AsyncIterator[TracedRouter]:
    router = TracedRouter(folder, {"a": fake()}, tracing=True)
    (folder / "collector").write_text(endpoint)
    await router.start()
    yield router
    assert await router.stop() == 0
    assert "Traceback" not in router.log.read_text()


async def test_a_chat_and_the_load_it_waited_for_reach_the_collector(tmp_path: Path) -> None:
    collector = Collector()
    async with await asyncio.start_server(collector.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with traced(tmp_path / "router", f"http://127.0.0.1:{port}") as router:
            await router.chat("a", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    spans = collector.spans
    assert collector.services == {"chat-box"}
    assert {"chat a", "wait", "answer", "load a", "room", "load"} <= set(spans)
    chat, wait, load = spans["chat a"], spans["wait"], spans["load a"]
    assert (chat.trace_id.hex(), chat.parent_span_id.hex()) == (TRACE, PARENT)
    assert wait.parent_span_id == spans["answer"].parent_span_id == chat.span_id
    assert {pair.key: pair.value.int_value for pair in chat.attributes}["gen_ai.usage.output_tokens"] == 31
    assert load.start_time_unix_nano < load.end_time_unix_nano
    assert [link.span_id for link in wait.links] == [load.span_id]
