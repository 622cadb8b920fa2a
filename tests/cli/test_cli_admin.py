"""The commands that talk to a running router: what they send, print, and exit with."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from fake_router import IDLE, FakeRouter
from typer.testing import CliRunner, Result

from llm_router.cli import show
from llm_router.cli.client import RouterClient
from llm_router.cli.commands import app

REFUSED = (404, {"error": {"message": "cannot find the model 'x'", "type": "invalid", "code": "model_not_found"}})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_status_shows_each_model_with_what_it_is_doing(router: FakeRouter) -> None:
    ready: dict[str, Any] = {"id": "ready", "state": "ready", "pid": 42, "port": 9001, "leases": 3, "since_s": 250.0}
    starting: dict[str, Any] = {"id": "coming", "state": "starting", "waiting": 2, "since_s": 4.21, "fraction": 0.625}
    failed: dict[str, Any] = {"id": "broken", "state": "failed", "error": "out of memory\nmore", "retry_after_s": 8.0}
    router.models = [IDLE, *({**IDLE, **changes} for changes in (ready, starting, failed))]
    result = run("status")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["MODEL", "BACKEND", "STATE", "LEASES", "WAITING", "SINCE", "NOTE"]
    assert lines[1] == ["qwen", "llamacpp", "unloaded"]
    assert lines[2] == ["ready", "llamacpp", "ready", "3", "4m10s", "pid", "42,", "port", "9001"]
    assert lines[3] == ["coming", "llamacpp", "starting", "2", "4.2s", "62%"]
    assert " ".join(lines[4]) == "broken llamacpp failed out of memory; tries again after 8.0s"


def test_status_shows_who_has_the_memory_of_each_device(router: FakeRouter) -> None:
    card = {"total_mib": 24576, "free_mib": 10240, "is_there": True}
    router.models = [{**IDLE, "state": "ready", "pid": 42, "port": 9001, "held_mib": {"0": 13312}}]
    router.devices = [
        {**card, "device": "0", "title": "RTX 4090", "budget_mib": 23552, "reserved_mib": {"a": 13824, "b": 512}}
        | {"held_mib": 13312},
        {**card, "device": "1", "title": "", "budget_mib": None, "reserved_mib": {"c": None}, "held_mib": 0},
        {**card, "device": "2", "title": "", "budget_mib": 0, "reserved_mib": {}, "held_mib": 0}
        | {"is_there": False, "free_mib": None},
    ]
    lines = [" ".join(line.split()) for line in run("status").stdout.splitlines()]
    assert lines[1] == "qwen llamacpp ready pid 42, port 9001; 13.0 GiB of 0"
    assert lines[3:] == [
        "DEVICE BUDGET RESERVED HELD FREE RESERVED BY",
        "0 RTX 4090 23.0 GiB 14.0 GiB 13.0 GiB 10.0 GiB a 13.5 GiB, b 512 MiB",
        "1 one model all 0 MiB 10.0 GiB c (alone)",
        "2 gone 0 MiB",
    ]


def test_status_as_json_is_what_the_router_said(router: FakeRouter) -> None:
    result = run("status", "--json")
    assert json.loads(result.stdout)["models"] == [IDLE]


@pytest.mark.parametrize("command", [["status"], ["load", "m"], ["unload", "m"], ["logs", "m"], ["why", "m"]])
def test_a_router_that_is_not_running_is_exit_3(command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    result = run(*command, "--url", url)
    assert result.exit_code == 3
    assert f"the router is not running at {url}" in result.stderr
    assert "llm-router serve" in result.stderr
    assert result.stdout == ""


def test_a_program_gets_that_as_json_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    result = run("status", "--json", "--url", url)
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["code"] == "not_running"


def test_something_else_at_that_address_is_said_so(router: FakeRouter) -> None:
    router.error = (404, {"detail": "Not Found"})
    result = run("status")
    assert result.exit_code == 1
    assert "doesn't answer like llm-router" in result.stderr


@pytest.mark.parametrize("given", ["127.0.0.1:8002", "localhost", "ftp://127.0.0.1", "http://", "http://[::1"])
def test_what_is_no_address_is_wrong_usage(given: str) -> None:
    result = run("status", "--url", given)
    assert result.exit_code == 2
    assert f'"{given}" is not an address; write one as http://' in result.stderr


@pytest.mark.parametrize("tail", ["/", "/v1", "/v1/"])
def test_the_address_that_clients_have_does_too(router: FakeRouter, tail: str) -> None:
    assert run("status", "--url", router.url + tail).exit_code == 0


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_narrow_terminal_no_name_is_cut_off_and_no_note_has_a_letter_a_line(
    router: FakeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.models = [{**IDLE, "id": "qwen3-32b", "state": "ready", "pid": 42, "port": 9001}]
    current = RouterClient(router.url).status()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show.print_out(show.status_table(current))
    _, line = terminal.getvalue().splitlines()
    assert "qwen3-32b" in line
    assert "pid 42, port 9001" in line


def test_load_waits_and_says_how_long_it_took(router: FakeRouter) -> None:
    step = {"phase": "queued", "elapsed_s": 0.1, "limit_s": 180.0, "fraction": None, "estimate_s": None}
    starting = {**step, "phase": "starting", "elapsed_s": 3.0, "fraction": 0.25}
    router.steps = [step, {**step, "elapsed_s": 1.0}, starting, {"ready": True, "elapsed_s": 23.2}]
    result = run("load", "qwen")
    assert result.exit_code == 0
    assert result.stdout == "qwen is ready (23s)\n"
    assert result.stderr.splitlines() == ["qwen: queued 0s / 180s", "qwen: starting 3s / 180s"]
    assert router.asked == [("POST /admin/load", {"model": "qwen"})]


def test_load_as_json_streams_each_step(router: FakeRouter) -> None:
    router.steps = [{"phase": "starting", "elapsed_s": 1}, {"ready": True, "elapsed_s": 2}]
    result = run("load", "qwen", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == router.steps


def test_a_load_that_fails_is_exit_1_with_the_engines_words(router: FakeRouter) -> None:
    router.steps = [{"phase": "starting", "elapsed_s": 1}, {"error": {"message": "CUDA out of memory", "code": "oom"}}]
    result = run("load", "qwen")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "CUDA out of memory" in result.stderr
    as_json = run("load", "qwen", "--json")
    assert as_json.exit_code == 1
    last = json.loads(as_json.stdout.splitlines()[-1])
    assert last == {"error": {"message": "CUDA out of memory", "code": "oom"}}


def test_a_load_whose_end_is_never_told_is_no_success(router: FakeRouter) -> None:
    router.steps = [{"phase": "starting", "elapsed_s": 1}]
    result = run("load", "qwen")
    assert result.exit_code == 1
    assert "the router went away" in result.stderr


def test_unload_tells_gone_from_never_there(router: FakeRouter) -> None:
    assert run("unload", "qwen").stdout == "qwen is unloaded\n"
    assert router.asked == [("POST /admin/unload", {"model": "qwen"})]
    router.unloaded = False
    result = run("unload", "qwen")
    assert (result.exit_code, result.stdout) == (0, "qwen was not loaded\n")
    assert json.loads(run("unload", "qwen", "--json").stdout) == {"unloaded": False}


@pytest.mark.parametrize("command", ["load", "unload", "logs"])
def test_the_routers_refusal_is_passed_on(router: FakeRouter, command: str) -> None:
    router.error = REFUSED
    result = run(command, "x")
    assert result.exit_code == 1
    assert "cannot find the model 'x'" in result.stderr


def test_logs_prints_the_last_lines(router: FakeRouter) -> None:
    result = run("logs", "org/qwen", "-n", "7")
    assert result.stdout == "first line\nsecond line\n"
    assert router.asked == [("GET /admin/logs/org%2Fqwen?lines=7&follow=0", None)]


def test_ctrl_c_ends_following_cleanly_with_130(router: FakeRouter) -> None:
    # As in a terminal: what a shell starts in the background is deaf to Ctrl-C, perhaps these tests and their children.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    following = subprocess.Popen(
        [sys.executable, "-c", f"{heeding}; from llm_router.cli import main; main()", "logs", "qwen", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LLM_ROUTER_URL": router.url},
    )
    with following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert [following.stdout.readline() for _ in range(2)] == ["first line\n", "second line\n"]
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130
        assert following.stderr.read() == ""


# -- why

WAITING: dict[str, Any] = {
    "model": "b",
    "state": "unloaded",
    "waiting": 2,
    "reason": "a must leave first and is in use",
    "footprint_mib": 13824,
    "load_s": 8.0,
    "needs_mib": {"0": 13824},
    "devices": [{"device": "0", "budget_mib": 23552, "is_there": True, "reserved_mib": {"a": 13824, "c": None}}],
    "would_leave": ["a"],
    "never": None,
    "ahead": ["c"],
    "urgency": {"c": 4.0, "b": -3.0},
    "decisions": [{"at": 1.0, "ago_s": 12.0, "model": "b", "action": "turn_ended", "reason": "because [so]"}],
}


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_why_says_it_in_a_sentence_and_then_what_stands_behind_it(router: FakeRouter) -> None:
    router.why = WAITING
    result = run("why", "org/b")
    assert result.exit_code == 0
    assert router.asked == [("GET /admin/why/org%2Fb", None)]
    assert lines(result.stdout) == [
        "a must leave first and is in use",
        "state unloaded, 2 waiting",
        "needs 13.5 GiB of 0",
        "loads in about 8.0s",
        "comes after c",
        "would leave for it a",
        "order c (due for 4.0s), b (due in 3.0s)",
        "",
        "DEVICE BUDGET RESERVED BY",
        "0 23.0 GiB a 13.5 GiB, c (all)",
        "",
        "AGO MODEL DECISION REASON",
        "12s b turn ended because [so]",
    ]


def test_why_of_a_model_at_rest_is_short(router: FakeRouter) -> None:
    nothing: dict[str, Any] = {"waiting": 0, "load_s": None, "needs_mib": {}, "devices": [], "would_leave": []}
    nothing |= {"ahead": [], "urgency": {}, "decisions": []}
    router.why = {**WAITING, **nothing, "footprint_mib": 0, "reason": "b isn't loaded", "never": "pinned"}
    assert lines(run("why", "b").stdout) == [
        "b isn't loaded",
        "state unloaded",
        "needs no room of its own: it lives beside the others",
        "never pinned",
    ]


def test_why_as_json_is_what_the_router_said(router: FakeRouter) -> None:
    router.why = WAITING
    assert json.loads(run("why", "b", "--json").stdout) == WAITING


def test_why_of_an_unknown_model_is_1(router: FakeRouter) -> None:
    router.error = REFUSED
    result = run("why", "x")
    assert result.exit_code == 1
    assert "cannot find the model" in result.stderr


PROBLEM = {"file": "/etc/c.json", "line": 3, "key": "models.a", "message": "it is wrong", "remedy": "write it right"}
UNCHANGED: dict[str, Any] = {
    "reloaded": True,
    "added": [],
    "removed": [],
    "restarted": [],
    "changed": [],
    "settings": [],
    "needs_restart": [],
    "problems": [],
}


def test_reload_says_what_is_different_now(router: FakeRouter) -> None:
    router.reloaded = {**UNCHANGED, "restarted": ["a", "b"], "needs_restart": ["router_port"]}
    router.reloaded["problems"] = [{**PROBLEM, "fatal": False}]
    result = run("reload")
    assert (result.exit_code, router.asked[-1]) == (0, ("POST /admin/reload", {}))
    assert result.stdout.splitlines() == ["to be started anew: a, b", "in force after a restart: router_port"]
    assert "warning: /etc/c.json:3: models.a: it is wrong: write it right" in result.stderr
    router.reloaded = UNCHANGED
    assert run("reload").stdout == "nothing has changed\n"
    assert json.loads(run("reload", "--json").stdout) == UNCHANGED


def test_a_reload_of_a_broken_file_is_exit_1(router: FakeRouter) -> None:
    router.error = (422, {"error": {"message": "cannot use the changed …", "code": "invalid_configuration"}})
    result = run("reload")
    assert (result.exit_code, result.stderr) == (1, "llm-router: cannot use the changed …\n")


def test_status_names_what_of_the_file_is_not_in_force(router: FakeRouter) -> None:
    router.about = {"config_problems": [{**PROBLEM, "fatal": True}], "needs_restart": ["host"]}
    result = run("status")
    assert result.stderr.splitlines() == [
        "the configuration file has mistakes, so what was read before stays in force:",
        "  /etc/c.json:3: models.a: it is wrong: write it right",
        "in force after a restart: host",
    ]
    assert result.exit_code == 0


# -- keys


def test_the_key_comes_from_the_environment(router: FakeRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_ROUTER_KEY", raising=False)
    run("status")
    monkeypatch.setenv("LLM_ROUTER_KEY", "a-key-for-the-boss")
    run("status")
    run("reload")
    assert router.keys == [None, "Bearer a-key-for-the-boss", "Bearer a-key-for-the-boss"]


@pytest.mark.parametrize("code", ["invalid_api_key", "admin_key_required"])
def test_a_refused_key_is_told_with_where_commands_take_it_from(router: FakeRouter, code: str) -> None:
    router.error = (401, {"error": {"message": "cannot do this with this key", "code": code}})
    result = run("status")
    assert result.exit_code == 1
    assert result.stderr == "llm-router: cannot do this with this key; commands take it from LLM_ROUTER_KEY\n"


def test_a_new_key_is_printed_alone_and_its_line_holds_only_the_hash() -> None:
    result = run("keys", "new", "anna", "--admin")
    key = result.stdout.strip()
    line = json.loads("{" + result.stderr.splitlines()[-1] + "}")
    assert line == {"anna": {"key": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}", "admin": True}}
    assert key not in result.stderr


def test_a_new_key_as_json() -> None:
    said = json.loads(run("keys", "new", "anna", "--json").stdout)
    hashed = hashlib.sha256(said["key"].encode()).hexdigest()
    assert (said["name"], said["section"]) == ("anna", {"key": f"sha256:{hashed}"})
