"""`llm-router simulate`: what it plays, what it prints, and how it says that it can't."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from llm_router.cli import simulate
from llm_router.cli.commands import app
from llm_router.simulation import files
from llm_router.simulation.builtin import BUILTIN, burst
from llm_router.simulation.compare import RULES

LINES = [
    '{"devices": {"gpu0": "24GiB"}, "models": {"a": {"memory": "20GiB"}, "b": {"memory": "20GiB"}}}',
    '{"at": 0, "model": "a", "prompt_tokens": 100, "output_tokens": 50}',
    '{"at": 1, "model": "b", "prompt_tokens": 100, "output_tokens": 50}',
    '{"at": 2, "model": "a", "prompt_tokens": 100, "output_tokens": 50}',
]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(LINES))
    return file


def test_the_names_in_the_help_are_those_there_are() -> None:
    assert ", ".join(BUILTIN) == simulate.BUILTIN
    assert ", ".join(RULES) == simulate.RULES


def test_a_table_has_a_row_for_each_rule_and_one_for_what_none_can_beat(trace: Path) -> None:
    result = run(trace)
    assert result.exit_code == 0, result.output
    first_words = [line.split()[0] for line in result.stdout.splitlines()]
    assert first_words == ["requests:", "RULE", *RULES, "no"]
    assert "3 requests" in result.stdout


def test_the_chosen_rules_are_played_and_told_as_json(trace: Path) -> None:
    told = json.loads(run(trace, "--rule", "fifo", "--rule", "llm-router", "--json").stdout)
    assert {rule: figures["loads"] for rule, figures in told["rules"].items()} == {"fifo": 3, "llm-router": 2}
    assert told["lower_bound"]["loads"] == 2
    assert told["wait_bound"]["broken"] == 0
    assert told["wait_bound"]["worst_wait_s"] <= told["wait_bound"]["bound_s"]


def test_without_our_own_rule_there_is_no_promise(trace: Path) -> None:
    assert json.loads(run(trace, "--rule", "fifo", "--json").stdout)["wait_bound"] is None


def test_a_built_in_trace_is_made_from_the_seed_and_cut_and_stretched() -> None:
    told = json.loads(run("burst", "--limit", 8, "--stretch", 40, "--seed", 3, "--rule", "fifo", "--json").stdout)
    assert told["requests"] == 8
    assert told["rules"]["fifo"]["makespan_s"] > 70


def test_a_trace_is_printed_to_be_played_again(tmp_path: Path) -> None:
    file = tmp_path / "burst.jsonl"
    file.write_text(run("burst", "--dump").stdout)
    assert files.read(file) == burst(0)


def test_another_machine_takes_the_place_of_the_traces_own(tmp_path: Path, trace: Path) -> None:
    machine = tmp_path / "machine.json"
    machine.write_text('{"devices": {"big": "80GiB"}, "models": {"a": {"memory": "20GiB"}, "b": {"memory": "20GiB"}}}')
    told = json.loads(run(trace, "--models", machine, "--rule", "fifo", "--json").stdout)
    assert told["rules"]["fifo"]["loads"] == 2
    machine.write_text('{"devices": {"big": "80GiB"}, "models": {"planner": {}, "coder": {}, "third": {}}}')
    assert run("burst", "--models", machine, "--limit", 8).exit_code == 0


def test_public_files_are_read_together(tmp_path: Path) -> None:
    for name in ("code", "conv"):
        text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,100,10\n"
        (tmp_path / f"trace_{name}.csv").write_text(text)
    told = json.loads(run(*sorted(tmp_path.iterdir()), "--json").stdout)
    assert told["rules"]["llm-router"]["served"] == 2
    assert told["lower_bound"]["loads"] == 2


def test_faults_are_counted(trace: Path) -> None:
    failing = json.loads(run(trace, "--load-failures", 1, "--rule", "fifo", "--json").stdout)["rules"]["fifo"]
    leaving = json.loads(run(trace, "--cancellations", 1, "--rule", "fifo", "--json").stdout)["rules"]["fifo"]
    assert (failing["served"], failing["refused"], failing["failed_loads"]) == (0, 3, failing["loads"])
    assert leaving["cancelled"] > 0


def test_our_own_settings_can_be_tried(trace: Path) -> None:
    busy = [f'{{"at": {at}, "model": "a", "prompt_tokens": 0, "output_tokens": 100}}' for at in range(3, 200)]
    trace.write_text("\n".join([*LINES[:3], *busy]))

    def wait_of_b_s(*options: str) -> float:
        told = json.loads(run(trace, "--rule", "llm-router", "--json", *options).stdout)
        return float(told["rules"]["llm-router"]["ttft_max_s"])

    assert wait_of_b_s("--patience", "150") > wait_of_b_s("--patience", "20") + 60


def test_a_picture_is_drawn(trace: Path, tmp_path: Path) -> None:
    assert run(trace, "--plot", tmp_path / "waits.svg").exit_code == 0
    ElementTree.parse(tmp_path / "waits.svg")
    assert run(trace, "--plot", tmp_path / "waits.png").exit_code == 0
    assert (tmp_path / "waits.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def without_resvg(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def missing(name: str, given: Mapping[str, object] | None = None, *rest: Any) -> Any:
        if name == "resvg_py":
            raise ModuleNotFoundError(name)
        return real(name, given, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)


@pytest.mark.usefixtures("without_resvg")
def test_a_png_without_its_package_is_refused_before_anything_is_played(trace: Path, tmp_path: Path) -> None:
    result = run(trace, "--plot", tmp_path / "waits.png")
    assert result.exit_code == 1
    assert "pip install 'llm-router[plot]'" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "cannot play without a trace"),
        (["nothing.jsonl"], "no such file, and no built-in trace either; those are agent-ping-pong"),
        (["burst", "--rule", "best"], "cannot play best: no such rule; there are llm-router"),
        (["burst", "--plot", "waits.pdf"], "must end with .svg or .png"),
        (["burst", "--plot", "/nowhere/waits.svg", "--limit", "2"], "cannot write /nowhere/waits.svg"),
        (["burst", "--models", "nothing.json"], "cannot read nothing.json"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(arguments: list[str], why: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("llm-router: cannot ")
    assert why in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bad_line_is_named(trace: Path) -> None:
    trace.write_text("\n".join([*LINES, "{}"]))
    result = run(trace)
    assert result.exit_code == 1
    assert f"cannot read {trace}:5:" in result.stderr


def test_two_traces_of_our_own_are_not_one(trace: Path) -> None:
    result = run(trace, trace)
    assert result.exit_code == 1
    assert "several traces at once" in result.stderr
