"""Traces are sent beside everything else: a collector that is down is told of once, and holds nobody up."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from llm_router.app import tracing
from llm_router.errors import ConfigError
from llm_router.relay.headers import RequestHead
from llm_router.relay.recorder import Ended
from llm_router.relay.request import Kind
from llm_router.runtime.tally import Requests


class Collector:
    """Takes OTLP over HTTP, as far as it needs no decoding. `status`: what it answers; `received`: how many bodies."""

    def __init__(self) -> None:
        self.status = 200
        self.received = 0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                collector.received += 1
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.server_port}")
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def router() -> Any:
    """What of a router is traced."""
    return SimpleNamespace(
        services=SimpleNamespace(recorder=Requests()), supervisor=SimpleNamespace(switches=SimpleNamespace())
    )


def chat(one: Any) -> None:
    times = 100.0, 100.001, 0.0, 103.0
    one.services.recorder.ended(Ended("m", Kind.CHAT, "completed", *times, 1, 2, 0.0, RequestHead([]), None))


def test_a_collector_that_fails_is_told_of_once_and_so_is_its_return(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    exporter = tracing._Exporter()
    for status in (400, 404, 400, 200, 200, 401):
        collector.status = status
        exporter.export([])
    exporter.shutdown()
    assert [record.getMessage().split(",")[0].split(":")[0] for record in caplog.records] == [
        "cannot send traces",
        "traces can be sent again",
        "cannot send traces",
    ]
    assert "400" in caplog.records[0].getMessage()
    assert "401" in caplog.records[2].getMessage()


async def test_what_was_not_sent_yet_is_sent_at_the_end(collector: Collector) -> None:
    one = router()
    with tracing.traced(one.services, one.supervisor, {}):
        one.services.recorder._later = lambda call, *told: call(*told)
        chat(one)
    assert collector.received == 1


async def test_a_collector_that_never_answers_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_FLUSH_S", 0.2)
    one = router()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds, for the thread that is left behind
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        began = time.monotonic()
        with tracing.traced(one.services, one.supervisor, {}):
            one.services.recorder._later = lambda call, *told: call(*told)
            for _ in range(30):  # more than the SDK's queue has room for
                chat(one)
        assert time.monotonic() - began < 5
        for thread in threading.enumerate():
            if thread.name == "traces":
                thread.join(20)


async def test_variables_that_can_not_be_used_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    one = router()
    with (
        pytest.raises(ConfigError, match=r"(?s)cannot send traces: .*[a-z]; correct the OTEL_"),
        tracing.traced(one.services, one.supervisor, {}),
    ):
        pass


@pytest.mark.parametrize("name", ["llm-router", "chat-box"])
def test_the_environment_may_name_the_service(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name != "llm-router":
        monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    provider = tracing._provider()
    provider.shutdown()
    assert provider.resource.attributes["service.name"] == name
