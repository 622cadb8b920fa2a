"""A configuration with units, on its way to the launcher."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from llm_router.app import parts
from llm_router.backends import registry
from llm_router.config import Config
from llm_router.launchers.systemd import Known
from llm_router.runtime.instances import Launch


def launches(models: dict[str, Any], **backends: Any) -> dict[str, Launch]:
    return parts.launches(Config.model_validate({"models": models, "backends": backends}), registry.load())


def known(models: dict[str, Any], **backends: Any) -> dict[str, Known]:
    return {one.identity.model: one for one in parts.units(launches(models, **backends))}


def test_the_launcher_knows_who_runs_where_and_what() -> None:
    models = {
        "a": {"backend": "llamacpp", "script": "/a.sh", "service": "one"},
        "b": {"backend": "llamacpp", "service": "two.service", "port": 7},
        "c": {"backend": "llamacpp", "path": "/m.gguf"},
    }
    found = known(models, llamacpp={"port": 8085})
    assert {name: (one.service, one.script, one.identity.port) for name, one in found.items()} == {
        "a": ("one", "/a.sh", 8085),
        "b": ("two.service", None, 7),
    }


def test_what_it_would_recognise_has_the_key_of_its_configuration_and_a_number_of_its_own() -> None:
    models = {name: {"backend": "llamacpp", "script": f"/{name}.sh", "service": "one"} for name in "ab"}
    found = known(models)
    assert {name: one.identity.launch_key for name, one in found.items()} == {
        name: launch.key for name, launch in launches(models).items()
    }
    assert found["a"].identity.instance != found["b"].identity.instance


def test_a_unit_with_a_script_is_told_a_free_port_and_one_without_must_say_its_own() -> None:
    assert launches({"a": {"backend": "vllm", "script": "/a.sh", "service": "one"}})["a"].fixed_port is None
    with pytest.raises(pydantic.ValidationError, match="on which port the unit's server listens: add"):
        launches({"a": {"backend": "vllm", "service": "one"}})
    assert launches({"a": {"backend": "vllm", "service": "one"}}, vllm={"port": 8000})["a"].fixed_port == 8000
