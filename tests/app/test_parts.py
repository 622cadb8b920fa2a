"""What the composition root tells each part of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_router.app import parts
from llm_router.backends import registry
from llm_router.backends.base import LaunchRequest
from llm_router.config import Config


def request(model: dict[str, Any], **backend: Any) -> LaunchRequest:
    data = {"models": {"m": model}, "backends": {model["backend"]: backend}}
    return parts.launches(Config.model_validate(data), registry.load())["m"].request


@pytest.mark.parametrize("kind", ["tabbyapi", "tabbyapi-exl2"])
def test_the_keys_that_tabbyapi_wrote_into_its_folder_are_used(kind: str, tmp_path: Path) -> None:
    (tmp_path / "api_tokens.yml").write_text("api_key: one\nadmin_key: two\n")
    found = request({"backend": kind, "script": "/s.sh"}, directory=str(tmp_path))
    assert (found.api_key, found.admin_key) == ("one", "two")


def test_configured_keys_go_before_them_and_a_server_elsewhere_never_sees_them(tmp_path: Path) -> None:
    (tmp_path / "api_tokens.yml").write_text("api_key: one\nadmin_key: two\n")
    own = request({"backend": "tabbyapi", "script": "/s.sh", "admin_key": "mine"}, directory=str(tmp_path))
    elsewhere = request({"backend": "tabbyapi", "url": "http://x:5000"}, directory=str(tmp_path))
    other = request({"backend": "vllm", "script": "/s.sh"}, directory=str(tmp_path))
    assert [(found.api_key, found.admin_key) for found in (own, elsewhere, other)] == [
        (None, "mine"),
        (None, None),
        (None, None),
    ]


def test_a_folder_without_keys_is_no_problem(tmp_path: Path) -> None:
    found = request({"backend": "tabbyapi", "script": "/s.sh"}, directory=str(tmp_path / "nowhere"))
    assert (found.api_key, found.admin_key) == (None, None)


def test_tabbyapi_is_told_the_real_folder_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    path = str(tmp_path / "link")
    assert request({"backend": "tabbyapi", "path": path}).path == str(tmp_path / "real")
    assert request({"backend": "llamacpp", "path": path}).path == path
