"""`llm-router doctor`: what people and programs get, and how it exits."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_router import FakeRouter
from typer.testing import CliRunner

from llm_router.cli.commands import app


def config(folder: Path, **model: Any) -> str:
    path = folder / "router_config.json"
    whole = {"state_dir": str(folder / "state"), "models": {"qwen": {"backend": "openai", **model}}}
    path.write_text(json.dumps(whole))
    return str(path)


@pytest.fixture
def nobody() -> str:
    """Where no router listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def run(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and the findings by what they are about."""
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    findings = json.loads(result.stdout)["findings"]
    return result.exit_code, {finding["about"]: finding for finding in findings}


def test_a_healthy_machine_exits_with_0(tmp_path: Path, nobody: str) -> None:
    code, found = run("--config", config(tmp_path, command=[sys.executable, "server.py"]), "--url", nobody)
    assert code == 0
    assert found["router"]["verdict"] == "ok"
    assert found["router"]["message"] == f"isn't running at {nobody}"
    assert found["configuration"]["verdict"] == "ok"
    assert found["state folder"]["verdict"] == "ok"
    assert not (tmp_path / "state").exists(), "looking changes nothing"


def test_an_engine_that_is_not_there_exits_with_1(tmp_path: Path, nobody: str) -> None:
    code, found = run("--config", config(tmp_path, command="no-such-engine --port ${PORT}"), "--url", nobody)
    assert code == 1
    assert found["program no-such-engine"]["verdict"] == "problem"
    assert found["program no-such-engine"]["remedy"]


def test_a_configuration_with_mistakes_is_a_problem_and_the_rest_is_still_looked_at(
    tmp_path: Path, nobody: str
) -> None:
    path = tmp_path / "router_config.json"
    path.write_text('{"models": {"qwen": {"backend": "openai", "pat": "x"}}}')
    code, found = run("--config", str(path), "--url", nobody)
    assert code == 1
    assert found["configuration"]["verdict"] == "problem"
    assert f"{path}:1: models.qwen" in found["configuration"]["message"]
    assert "open files" in found


def test_a_missing_configuration_is_a_problem(tmp_path: Path, nobody: str) -> None:
    code, found = run("--config", str(tmp_path / "none.json"), "--url", nobody)
    assert code == 1
    assert found["configuration"]["verdict"] == "problem"


def test_a_running_router_is_named(tmp_path: Path, router: FakeRouter) -> None:
    _, found = run("--config", config(tmp_path, url="http://127.0.0.1:1"), "--url", router.url)
    assert found["router"]["message"] == f"is running at {router.url}: 1, pid 7"


def test_a_router_is_looked_for_where_the_configuration_has_it(
    tmp_path: Path, router: FakeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_ROUTER_URL")
    path = Path(config(tmp_path, url="http://127.0.0.1:1"))
    whole = json.loads(path.read_text()) | {"router_port": router.server_port}
    path.write_text(json.dumps(whole))
    _, found = run("--config", str(path))
    assert found["router"]["message"].startswith(f"is running at {router.url}")


def test_a_router_that_wants_a_key_is_running_too(tmp_path: Path, router: FakeRouter) -> None:
    router.error = (401, {"error": {"message": "no key", "code": "no_key"}})
    _, found = run("--config", config(tmp_path, url="http://127.0.0.1:1"), "--url", router.url)
    assert (found["router"]["verdict"], "is running" in found["router"]["message"]) == ("ok", True)


def test_something_else_at_the_routers_address_is_a_problem(tmp_path: Path, router: FakeRouter) -> None:
    router.error = (200, [])  # type: ignore[assignment]
    code, found = run("--config", config(tmp_path, url="http://127.0.0.1:1"), "--url", router.url)
    assert (code, found["router"]["verdict"]) == (1, "problem")


def test_people_get_a_line_for_each_and_the_sum(tmp_path: Path, nobody: str) -> None:
    path = config(tmp_path, command="no-such-engine")
    result = CliRunner().invoke(app, ["doctor", "--config", path, "--url", nobody], env={"COLUMNS": "200"})
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert any(line.startswith("problem") and "no-such-engine was not found" in line for line in lines)
    assert any(line.startswith("→ install it") for line in lines)
    assert lines[-1].startswith("1 problem, ")
