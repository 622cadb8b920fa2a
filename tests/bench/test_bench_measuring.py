"""The clients count and time what comes; the accounts of a process tree and the verdicts are right."""

from __future__ import annotations

import os
import sys
import time

import pytest
from bench.data import Cell, DataPlane, Scale, Target, Workload
from bench.load import Chat, Endpoint, Stamps
from bench.procs import BenchFailed, Processes

from bench import data, load, nginx, procs, report, turns

BRIEF = Scale(rounds=1, request_s=0.05, paced_chunks=4, flood_chunks=50, held=5, idle_s=0.1)


def test_paced_streams_are_counted_and_every_chunk_is_timed(upstream):
    chat = Chat(model="tiny", stream=True, chunks=5, gap_us=2000)
    outcome = load.run(load.streams(Endpoint(port=upstream.port), chat, count=3, times=2))
    assert (outcome.replies, outcome.chunks) == (6, 30)
    assert len(outcome.first_us) == 6
    assert len(outcome.delay_us) == 30
    assert min(outcome.delay_us) > 0


def test_requests_go_on_until_the_time_is_over(upstream):
    chat = Chat(model="tiny", stream=False, body_bytes=32_768)
    outcome = load.run(load.requests(Endpoint(port=upstream.port), chat, connections=4, seconds=0.1))
    assert outcome.replies > 4
    assert outcome.elapsed_s >= 0.1


def test_a_request_is_as_large_as_asked():
    request = load.request_bytes(Endpoint(port=1), Chat(model="tiny", stream=True, chunks=2, body_bytes=32_768))
    assert len(request.partition(b"\r\n\r\n")[2]) == 32_768


def test_a_refusal_is_told_with_its_words(processes: Processes):
    port = procs.free_port()
    process = processes.start("pages", [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"])
    processes.wait_listening("pages", process, port, "/", 20)
    work = load.requests(Endpoint(port=port), Chat(model="tiny", stream=False), connections=1, seconds=0.05)
    with pytest.raises(BenchFailed, match="501 Unsupported method"):
        load.run(work)


def test_a_send_time_split_between_two_reads_is_found_at_every_byte():
    text = b'"content":"~T0000000000000000042 ~"},"x":"~T0000000000000000043 ~"'
    for at in range(len(text)):
        stamps = Stamps()
        assert stamps.feed(text[:at]) + stamps.feed(text[at:]) == [42, 43]


def test_the_first_token_of_each_of_several_requests_is_timed(upstream):
    chats = [Chat(model=name, stream=True, chunks=2, gap_us=1000) for name in ("a", "b")]
    answered = load.run(turns.together(Endpoint(port=upstream.port), chats, 20))
    assert sorted(turn.model for turn in answered) == ["a", "b"]
    assert all(turn.sent_ns < turn.first_ns <= turn.ended_ns for turn in answered)


def test_who_keeps_waiting_is_given_up_after_the_limit(upstream):
    busy = Chat(model="a", stream=True, chunks=2, gap_us=1000)
    endpoint = Endpoint(port=upstream.port)
    assert load.run(turns.contended(endpoint, busy, busy, clients=2, after_s=0.01, limit_s=20)) is not None
    never_asks = turns.contended(endpoint, busy, busy, clients=2, after_s=5, limit_s=-4.9)  # over before it begins
    assert load.run(never_asks) is None


def test_the_cpu_time_of_a_tree_is_what_the_process_itself_knows():
    before_s, own_s = procs.cpu_s(os.getpid()), time.process_time()
    while time.process_time() < own_s + 0.1:
        pass
    assert procs.cpu_s(os.getpid()) - before_s == pytest.approx(0.1, abs=0.03)


def test_whatever_was_started_is_ended_when_the_block_is_left(tmp_path):
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path) as processes:
        process = processes.start("sleeper", ["sleep", "1000"])
        raise KeyboardInterrupt
    assert process.poll() is not None


def test_a_process_that_ends_early_is_reported_with_its_last_words(processes: Processes):
    process = processes.start("broken", ["sh", "-c", "echo no such flag >&2; exit 3"])
    with pytest.raises(BenchFailed, match=r"(?s)ended with 3.*no such flag"):
        processes.wait_listening("broken", process, procs.free_port(), "/health", 20)


@pytest.mark.skipif(nginx.find() is None, reason="nginx isn't installed")
def test_nginx_is_measured_beside_a_direct_connection(processes: Processes, upstream, tmp_path):
    port = procs.free_port()
    binary = nginx.find()
    assert binary is not None
    process = processes.start("nginx", nginx.argv(binary, tmp_path, port, upstream.port))
    processes.wait_listening("nginx", process, port, "/health", 20)
    targets = [
        Target(name="direct", endpoint=Endpoint(port=upstream.port)),
        Target(name="nginx", endpoint=Endpoint(port=port), pid=process.pid),
    ]
    plane = data.measure(targets, upstream.pid, BRIEF, lambda text: None)
    assert plane.broken == {}
    assert all(plane.cell(row.name, "nginx").cpu_us[0] > 0 for row in plane.workloads)
    assert plane.at_rest["nginx"].after_kib


def test_a_target_that_fails_is_left_out_and_the_others_go_on(upstream):
    targets = [
        Target(name="direct", endpoint=Endpoint(port=upstream.port)),
        Target(name="gone", endpoint=Endpoint(port=procs.free_port())),
    ]
    plane = data.measure(targets, upstream.pid, BRIEF, lambda text: None)
    assert list(plane.broken) == ["gone"]
    assert plane.cell("request, 1 KB", "direct").per_s


def test_a_ratio_is_the_median_of_each_rounds_own():
    noisy_rounds = Cell(cpu_us=[10.0, 200.0, 12.0])
    assert data.ratio(Cell(cpu_us=[20.0, 400.0, 36.0]), noisy_rounds) == 2.0
    assert data.ratio(Cell(), noisy_rounds) is None


@pytest.mark.parametrize(("ours_us", "met"), [(30.0, True), (30.1, False)])
def test_a_goal_is_judged_against_nginx_of_the_same_run(ours_us, met):
    row = Workload(name="request, 1 KB", unit="request", run=load_nothing, goal=3.0)
    plane = DataPlane(targets=["nginx", "llm-router"], workloads=[row])
    plane.cell(row.name, "nginx").cpu_us.append(10.0)
    plane.cell(row.name, "llm-router").cpu_us.append(ours_us)
    (verdict,) = report.verdicts(plane, None)
    assert verdict.met is met


async def load_nothing(target: Target) -> load.Outcome:
    return load.Outcome()
