"""A setting whose packages aren't installed says how to install them, and nobody else looks for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llm_router.config import check, extras, load
from llm_router.errors import ConfigError

EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def written(folder: Path, **settings: object) -> Path:
    path = folder / "router_config.json"
    path.write_text(json.dumps({"models": {"m": {"backend": "openai", "url": "http://x"}}, **settings}, indent=1))
    return path


def test_traces_need_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    path = written(tmp_path, tracing=True)
    [problem] = check(path)
    assert (problem.key, problem.fatal) == ("tracing", True)
    with pytest.raises(ConfigError, match=r"router_config.json:\d+: tracing: .*pip install 'llm-router\[otel\]'"):
        load(path)


def test_nor_need_all_of_opentelemetry_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_EXPORTER", "opentelemetry.nowhere.at.all")
    [problem] = check(written(tmp_path, tracing=True))
    assert problem.key == "tracing"


def test_without_traces_nothing_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    assert check(written(tmp_path)) == []


def test_with_the_extra_traces_can_be_had(tmp_path: Path) -> None:
    path = written(tmp_path, tracing=True)
    assert check(path) == []
    assert load(path).tracing
