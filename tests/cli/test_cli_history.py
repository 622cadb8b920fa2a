"""`llm-router history`: loads and requests, for people and for programs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_router.cli.commands import app
from llm_router.history.base import LoadRecord, RequestRecord
from llm_router.history.store import Store


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "router_config.json"
    models = {
        "qwen": {"backend": "openai", "url": "http://127.0.0.1:1", "aliases": ["q"]},
        "gemma": {"backend": "openai", "url": "http://127.0.0.1:1"},
    }
    path.write_text(json.dumps({"state_dir": str(tmp_path / "state"), "models": models}))
    return str(path)


@pytest.fixture
def written(tmp_path: Path, config: str) -> str:
    store = Store(tmp_path / "state" / "history.sqlite", clock=lambda: 1_800_000_000.0)
    for name, error in (("qwen", None), ("gemma", "cannot load gemma: CUDA out of memory")):
        record = LoadRecord(
            at=1_799_999_000.0,
            model=name,
            launch_key="k",
            took_s=23.4,
            warm=True,
            peak_mib={"0": 20480},
            error=error,
        )
        store.add_load(record)
    store.add_requests(
        [
            RequestRecord(
                at=1_799_999_100.0,
                model="qwen",
                kind="chat",
                outcome="completed",
                took_s=4.25,
                wait_s=2.0,
                first_token_s=2.5,
                prompt_tokens=12,
                completion_tokens=128,
            )
        ]
    )
    store.close()
    return config


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["history", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_last_loads_say_what_they_took_and_why_they_failed(written: str) -> None:
    head, good, bad = run("--config", written).splitlines()
    assert head.split() == ["WHEN", "MODEL", "TOOK", "HELD", "OUTCOME"]
    assert "23s" in good
    assert good.rstrip().endswith("20.0 GiB of 0  ready, from memory")
    assert bad.rstrip().endswith("cannot load gemma: CUDA out of memory")


def test_being_woken_is_no_load(tmp_path: Path, config: str) -> None:
    store = Store(tmp_path / "state" / "history.sqlite", clock=lambda: 1_800_000_000.0)
    at = 1_799_999_000.0
    store.add_load(LoadRecord(at=at, model="qwen", launch_key="k", took_s=1.5, warm=False, woken=True))
    store.close()
    assert run("--config", config).splitlines()[1].split()[2:] == ["qwen", "1.5s", "woken"]
    assert json.loads(run("--json", "--config", config))["loads"][0]["woken"] is True


def test_the_last_requests_say_how_long_people_waited(written: str) -> None:
    [_, line] = run("--requests", "--config", written).splitlines()
    assert line.split()[2:] == ["qwen", "chat", "2.0s", "2.5s", "4.2s", "12", "128", "completed"]


def test_one_model_is_named_by_its_alias_too(written: str) -> None:
    found = json.loads(run("q", "--json", "--config", written))
    assert [(load["model"], load["took_s"]) for load in found["loads"]] == [("qwen", 23.4)]


def test_programs_get_all_that_is_known_of_a_request(written: str) -> None:
    [request] = json.loads(run("--requests", "--json", "--config", written))["requests"]
    assert (request["outcome"], request["completion_tokens"], request["at"]) == ("completed", 128, 1_799_999_100.0)


def test_an_empty_history_is_no_mistake(config: str) -> None:
    assert run("--config", config) == ""
    assert json.loads(run("--json", "--config", config)) == {"loads": []}


def test_who_may_not_look_into_the_state_folder_is_told_to_ask_as_root(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "exists", refused)  # root, who may run this, is refused nothing
    result = CliRunner().invoke(app, ["history", "--config", config])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Permission denied; ask as root" in result.stderr
