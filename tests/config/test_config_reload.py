"""What another configuration changes, in words for people."""

from __future__ import annotations

from typing import Any

from llm_router.config import Config
from llm_router.config.reload import NEEDS_RESTART, Difference, difference

MODELS: dict[str, Any] = {"a": {"command": "a"}, "b": {"command": "b"}, "c": {"command": "c"}}


def config(models: dict[str, Any] | None = None, **keys: Any) -> Config:
    found = {name: {"backend": "openai", **model} for name, model in (models or MODELS).items()}
    return Config.model_validate({"models": found, **keys})


def keys(of: Config) -> dict[str, str]:
    """What shapes a start: here, the command alone."""
    return {name: str(model.command) for name, model in of.models.items()}


def told(before: Config, after: Config, running: Config | None = None) -> Difference:
    return difference(before, after, launched=keys(before), launching=keys(after), running=running or before)


def test_models_come_go_start_differently_or_only_look_different() -> None:
    after = config({"a": {"command": "another"}, "b": {"command": "b", "description": "new"}, "d": {"command": "d"}})
    found = told(config(), after)
    assert found == Difference(added=("d",), removed=("c",), restarted=("a",), changed=("b",))
    assert str(found) == "added: d; removed: c; to be started anew: a; changed: b"


def test_the_same_again_is_no_difference() -> None:
    assert told(config(patience=3), config(patience="3s")) == Difference()
    assert str(Difference()) == ""


def test_most_settings_hold_at_once() -> None:
    found = told(config(), config(patience=3, status="off", router_port=9000))
    assert (found.settings, found.needs_restart) == (("patience", "status"), ("router_port",))


def test_what_needs_a_restart_is_measured_against_the_start() -> None:
    started, between = config(router_port=8002), config(router_port=9000)
    assert told(between, between, running=started).needs_restart == ("router_port",)
    assert told(between, started, running=started).needs_restart == ()


def test_every_setting_that_needs_a_restart_exists() -> None:
    assert Config.model_fields.keys() >= NEEDS_RESTART
