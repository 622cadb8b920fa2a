"""What the scheduler is told of a configuration: seats, companions, footprints, the numbers of the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
from machine import Device

from llm_router.config import Config, specs
from llm_router.config.room import Devices
from llm_router.core.specs import ModelSpec

GPU: Devices = {"0": Device(total_mib=24000), "cpu": Device(total_mib=64000)}


def made(models: dict[str, Any], devices: Devices | None = None, **keys: Any) -> dict[str, ModelSpec]:
    config = Config.model_validate({"models": models, **keys})
    return specs.models(
        config, devices or {}, launch_keys={name: f"key of {name}" for name in models}, footprint_mib=lambda name: 77
    )


def model(**keys: Any) -> dict[str, Any]:
    start = {} if {"script", "url", "command", "service"} & keys.keys() else {"command": ["/bin/sh"]}
    return {"backend": "llamacpp", **start, **keys}


def test_models_of_a_group_that_are_never_together_share_a_seat() -> None:
    group = {"big": {"models": ["a", "bee"], "together": "never"}}
    found = made({"a": model(), "b": model(aliases=["bee"]), "c": model()}, groups=group)
    assert [found[name].seats for name in "abc"] == [{"group big"}, {"group big"}, frozenset()]


def test_models_of_a_group_that_allows_it_are_companions() -> None:
    groups = {
        "one": {"models": ["a", "bee"], "together": "allowed"},
        "two": {"models": ["a", "c"], "together": "allowed"},
    }
    found = made({"a": model(), "b": model(aliases=["bee"]), "c": model()}, groups=groups)
    assert [found[name].companions for name in "abc"] == [{"b", "c"}, {"a"}, {"a"}]


def test_who_shares_a_fixed_port_takes_turns_on_it() -> None:
    scripts = {
        "a": model(script="/a.sh"),
        "b": model(script="/b.sh"),
        "c": model(port=9000),
        "d": model(url="http://x"),
    }
    found = made(scripts, backends={"llamacpp": {"port": 8085}})
    assert [found[name].seats for name in "abcd"] == [{"port 8085"}, {"port 8085"}, {"port 9000"}, frozenset()]


def test_a_server_that_holds_one_model_is_a_seat() -> None:
    urls = {
        "a": model(backend="tabbyapi", url="http://x:5000"),
        "b": model(backend="tabbyapi", url="http://x:5000/"),
        "c": model(backend="tabbyapi-exl2", url="http://y:5000"),
        "d": model(backend="vllm", url="http://x:5000"),
    }
    found = made(urls)
    assert [found[name].seats for name in "abcd"] == [
        {"server http://x:5000"},
        {"server http://x:5000"},
        {"server http://y:5000"},
        frozenset(),
    ]


def test_servers_that_we_start_from_one_folder_may_run_side_by_side() -> None:
    found = made(
        {"a": model(backend="tabbyapi"), "b": model(backend="tabbyapi"), "c": model(backend="tabbyapi", port=5001)},
        backends={"tabbyapi": {"directory": "/opt/tabby/"}},
    )
    assert [found[name].seats for name in "abc"] == [frozenset(), frozenset(), {"port 5001"}]


def test_models_of_one_unit_take_turns_on_it_however_it_is_written() -> None:
    units = {"a": model(service="llm", script="/a.sh"), "b": model(service="llm.service", script="/b.sh")}
    assert [found.seats for found in made(units).values()] == [{"service llm"}] * 2


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"a": {}, "b": {}}, '"a" and "b" are never together here, and the group "fine" allows it'),
        ({"a": {"pinned": True}, "b": {"pinned": True}}, "both pinned"),
    ],
)
def test_groups_that_contradict_are_refused(models: dict[str, Any], message: str) -> None:
    groups = {"apart": {"models": ["a", "b"], "together": "never"}}
    if "pinned" not in models["a"]:
        groups["fine"] = {"models": ["b", "a"], "together": "allowed"}
    with pytest.raises(pydantic.ValidationError, match=message):
        made({name: model(**keys) for name, keys in models.items()}, groups=groups)


def test_the_users_word_counts_before_anything_measured() -> None:
    models = {
        "said": model(memory="2GiB"),
        "unsaid": model(),
        "bge-m3": model(),
        "bge-large": model(memory="1GiB"),
        "far": model(url="http://x"),
    }
    found = made(models)
    footprints = {name: (spec.footprint_mib, spec.is_declared) for name, spec in found.items()}
    assert footprints == {
        "said": (2048, True),
        "unsaid": (77, False),
        "bge-m3": (0, False),
        "bge-large": (1024, True),
        "far": (0, False),
    }


def test_what_cannot_be_started_here_says_why(tmp_path: Path) -> None:
    models = {"gone": model(script="/nowhere.sh"), "large": model(memory="90GiB"), "placed": model(devices=[3])}
    found = made(models, GPU)
    assert "doesn't exist" in (found["gone"].unusable or "")
    assert "needs 92160 MiB" in (found["large"].unusable or "")
    assert 'no device "3"' in (found["placed"].unusable or "")


def test_what_is_pinned_too_many_can_still_be_used() -> None:
    found = made({name: model(memory="15GiB", pinned=True) for name in "ab"}, GPU)
    assert [found[name].unusable for name in "ab"] == [None, None]


def test_keys_and_devices_are_passed_on() -> None:
    found = made({"a": model(devices=[0], priority=3, concurrency=2)}, GPU)["a"]
    assert (found.launch_key, found.devices, found.priority, found.concurrency) == ("key of a", ("0",), 3, 2)


def test_the_policy_has_the_numbers_of_the_file() -> None:
    numbers = {"concurrency": 5, "min_residency": "30s", "queue_limit": 9, "patience": 4, "drain_timeout": 7}
    policy = specs.policy(Config.model_validate({"models": {"m": model()}, "memory": "20GiB", **numbers}), GPU)
    assert policy.budgets == {"0": 20480}
    assert (policy.concurrency, policy.min_residency_s, policy.queue_limit) == (5, 30.0, 9)
    assert (policy.patience_s, policy.drain_timeout_s) == (4.0, 7.0)
