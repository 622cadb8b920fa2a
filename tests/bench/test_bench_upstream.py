"""The fake inference server says what a real one says, and when it did."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path

from bench.procs import Processes
from bench.switch import read_marks

from bench import procs

PROGRAM = Path(__file__).parents[2] / "bench/upstream.py"


def ask(port: int, **body: object) -> str:
    data = json.dumps({"model": "tiny", "messages": [], **body}).encode()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=20) as reply:
        return reply.read().decode()


def events(text: str) -> list[dict[str, object]]:
    parts = text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def test_a_whole_reply_is_600_bytes_of_json(upstream):
    text = ask(upstream.port)
    assert len(text) == 600
    assert json.loads(text)["usage"]["total_tokens"] == 248


def test_a_stream_has_as_many_chunks_as_asked_and_ends_with_timings(upstream):
    *chunks, finish = events(ask(upstream.port, stream=True, max_tokens=3))
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 3
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["timings"]["predicted_n"] == 3


def test_usage_comes_only_when_asked_for(upstream):
    *_, last = events(ask(upstream.port, stream=True, max_tokens=2, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2


def test_chunks_keep_the_pace_and_carry_their_send_times(upstream):
    asked_ns = time.monotonic_ns()
    *chunks, _ = events(ask(upstream.port, stream=True, max_tokens=4, seed=5000))
    contents = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    stamps = [int(content.strip(" ~T")) for content in contents]
    assert stamps == sorted(stamps)
    assert asked_ns + 15_000_000 <= stamps[3]
    assert time.monotonic_ns() >= asked_ns + 20_000_000  # and the end one gap later


def test_health_turns_good_after_the_stated_time_and_the_marks_tell_when(processes: Processes, tmp_path):
    port, mark = procs.free_port(), tmp_path / "marks"
    began_s = time.monotonic()
    argv = [sys.executable, str(PROGRAM), "--port", str(port), "--model", "a", "--startup-s", "0.2"]
    process = processes.start("slow", [*argv, "--mark", str(mark)])
    processes.wait_listening("slow", process, port, "/health", 20)
    (start,) = read_marks(mark)
    assert start.model == "a"
    assert start.ready_s is not None
    assert began_s - 0.01 <= start.created_s
    assert start.created_s + 0.2 <= start.ready_s <= time.monotonic()
