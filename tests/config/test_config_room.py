"""Who fits where: budgets, devices, and what `check` says of a configuration that can't work on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from machine import Device

from llm_router.config import Config, check
from llm_router.config.room import Devices, budgets, placed_on, reserves
from llm_router.core.specs import ANY_DEVICE

HOST: Devices = {"cpu": Device(total_mib=32000)}
ONE: Devices = {"0": Device(total_mib=24000, uuid="GPU-a"), "cpu": Device(total_mib=64000)}
TWO: Devices = {
    "0": Device(total_mib=24000, uuid="GPU-a"),
    "1": Device(total_mib=48000, uuid="GPU-b"),
    "cpu": Device(total_mib=64000),
}


def model(**keys: Any) -> dict[str, Any]:
    return {"backend": "llamacpp", "path": "/m.gguf", **keys}


def config(models: dict[str, Any] | None = None, **keys: Any) -> Config:
    return Config.model_validate({"models": models or {"m": model()}, **keys})


# -- budgets


def test_models_may_use_all_of_each_gpu_less_a_reserve() -> None:
    assert budgets(config(), TWO) == {"0": 24000 - 512, "1": 48000 - 512}
    assert budgets(config(memory_reserve="2GiB"), ONE) == {"0": 24000 - 2048}


def test_without_a_gpu_they_share_the_host() -> None:
    assert budgets(config(), HOST) == {"cpu": 32000 - 2048}
    assert budgets(config(), {"cpu": Device(total_mib=4000)}) == {"cpu": 3600}
    assert budgets(config(memory="16GiB"), HOST) == {"cpu": 16384}


def test_the_host_counts_beside_gpus_only_for_models_that_run_there() -> None:
    on_host = {"a": model(), "b": model(devices=[])}
    assert budgets(config(on_host), ONE) == {"0": 24000 - 512, "cpu": 64000 - 2048}
    assert budgets(config(on_host, memory="20GiB"), ONE) == {"0": 20480, "cpu": 64000 - 2048}


def test_one_size_is_for_each_gpu_and_a_mapping_for_those_it_names() -> None:
    assert budgets(config(memory="20GiB"), TWO) == {"0": 20480, "1": 20480}
    assert budgets(config(memory={"0": "20GiB"}), TWO) == {"0": 20480, "1": 48000 - 512}
    assert budgets(config(memory={"0": "0GiB"}), TWO) == {"1": 48000 - 512}


def test_exclusive_is_one_device_of_unknown_size() -> None:
    shared = config({"m": model(devices=[0])}, memory="exclusive")
    assert budgets(shared, TWO) == {ANY_DEVICE: None}
    assert placed_on(shared, "m", TWO) is None


def test_where_nothing_can_be_read_the_configuration_is_believed() -> None:
    assert budgets(config(), {}) == {ANY_DEVICE: None}
    assert budgets(config(memory="20GiB"), {}) == {ANY_DEVICE: 20480}
    assert budgets(config(memory={"0": "20GiB", "1": "0GiB"}), {}) == {"0": 20480}


def test_a_reserve_is_kept_only_where_nobody_said_how_much_models_may_use() -> None:
    assert reserves(config(), ONE) == {"0": 512, "cpu": 2048}
    assert reserves(config(memory="20GiB"), ONE) == {"0": 0, "cpu": 2048}
    assert reserves(config(memory={"cpu": "20GiB"}), ONE) == {"0": 512, "cpu": 0}
    assert reserves(config(memory="20GiB"), HOST) == {"cpu": 0}


# -- places


def test_a_gpu_may_be_named_by_its_uuid() -> None:
    places = config({"a": model(devices=["GPU-b", 0]), "b": model(devices=[]), "c": model()})
    assert [placed_on(places, name, TWO) for name in ("a", "b", "c")] == [("1", "0"), ("cpu",), None]


def test_without_a_gpu_the_devices_of_a_model_mean_nothing() -> None:
    assert placed_on(config({"a": model(devices=[0])}), "a", HOST) is None


# -- what check says


def problems(folder: Path, content: str, devices: Devices | None) -> list[tuple[int, str, str, bool]]:
    path = folder / "router_config.json"
    path.write_text(content.replace("{M", "{" + _M))
    return [
        (problem.line, problem.key, f"{problem.message}: {problem.remedy}", problem.fatal)
        for problem in check(path, files=False, devices=devices)
    ]


_M = '"backend": "llamacpp", "path": "/m.gguf"'

_TWO_PINS = (
    '"models": {"a": {M, "memory": "20GiB", "devices": [0], "pinned": true}, '
    '"b": {M, "memory": "9GiB", "devices": ["GPU-a"], "pinned": true}}'
)
# On two GPUs of 24000 and 48000 MiB; the mistake stands on line 2: key, words of its message and remedy.
MISFITS = [
    ('"memory": "30GiB"', "memory", "device 0 has 24000 MiB, and models are allowed 30720", '"23488MiB" or less'),
    ('"memory": {"1": "50GiB"}', "memory.1", "device 1 has 48000 MiB", '"47488MiB" or less'),
    ('"memory": {"cpu": "90GiB"}', "memory.cpu", "the host has 64000 MiB", '"61952MiB" or less'),
    ('"memory": {"2": "9GiB"}', "memory.2", 'no device "2"', '"0", "1", "cpu"'),
    ('"models": {"a": {M, "devices": [0, 7]}}', "models.a.devices[1]", 'no device "7"', '"0", "1", "cpu"'),
    ('"models": {"a": {M, "devices": ["GPU-x"]}}', "models.a.devices[0]", 'no device "GPU-x"', '"0", "1"'),
    ('"models": {"a": {M, "memory": "80GiB"}}', "models.a.memory", "all models together may use 70976", "correct"),
    ('"models": {"a": {M, "memory": "30GiB", "devices": [0]}}', "models.a.memory", "device 0 models", "correct"),
    (
        _TWO_PINS,
        "models.b.pinned",
        '"a" and "b" are pinned, but they need 29696 MiB of device 0',
        'remove "pinned"',
    ),
    (
        '"models": {"a": {M, "memory": "40GiB", "pinned": true}, "b": {M, "memory": "40GiB", "pinned": true}}',
        "models.b.pinned",
        "they need 81920 MiB together, and there are 70976 MiB",
        'remove "pinned"',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("line", "key", "message", "remedy"), MISFITS, ids=[misfit[0][:60] for misfit in MISFITS])
def test_what_cannot_work_on_this_machine_is_told_with_the_reason(
    tmp_path: Path, line: str, key: str, message: str, remedy: str
) -> None:
    rest = "" if line.startswith('"models"') else ',\n  "models": {"m": {M}}'
    content = f"{{\n  {line}{rest}\n}}\n"
    ((at, where, text, fatal),) = problems(tmp_path, content, TWO)
    assert (at, where) == (2, key)
    assert message in text
    assert remedy in text
    assert not fatal, "other models may work, so the router starts"


def test_what_the_hardware_must_say_is_not_guessed(tmp_path: Path) -> None:
    content = (
        '{"memory": "30GiB", "models": {"a": {M, "memory": "50GiB", "devices": [7, 8]}, "b": {M, "memory": "80GiB"}}}'
    )
    assert problems(tmp_path, content, None) == []


def test_without_a_look_at_the_hardware_the_configuration_is_held_against_itself(tmp_path: Path) -> None:
    models = '"models": {"a": {M, "memory": "50GiB", "devices": [0]}, "b": {M, "memory": "50GiB", "devices": [0, 1]}}'
    for memory in ('"30GiB"', '{"0": "30GiB"}'):
        ((_, key, text, _),) = problems(tmp_path, f'{{"memory": {memory}, {models}}}', None)
        assert key == "models.a.memory"
        assert "needs 51200 MiB" in text


def test_two_pinned_models_cannot_be_loaded_one_at_a_time(tmp_path: Path) -> None:
    models = '{"a": {M, "pinned": true}, "bge-m3": {M, "pinned": true}, "b": {M, "pinned": true}}'
    ((_, key, text, _),) = problems(tmp_path, f'{{"memory": "exclusive", "models": {models}}}', None)
    assert key == "models.b.pinned"
    assert "one model is loaded at a time" in text


PINS = """{{
  {memory},
  "groups": {{"pair": {{"models": ["{one}", "b"], "together": "allowed"}}}},
  "models": {{
    "a": {{M, "aliases": ["first"], "memory": "20GiB", "devices": [0], "pinned": true}},
    "b": {{M, "memory": "20GiB", "devices": [0], "pinned": true}},
    "c": {{M, "memory": "20GiB", "devices": [0], "pinned": {c}}}
  }}
}}"""


@pytest.mark.parametrize("memory", ['"memory": "exclusive"', '"memory": {"0": "23GiB"}'])
@pytest.mark.parametrize("one", ["a", "first"])
def test_pinned_models_that_a_group_allows_together_are_the_users_word_that_they_fit(
    tmp_path: Path, memory: str, one: str
) -> None:
    assert problems(tmp_path, PINS.format(memory=memory, one=one, c="false"), TWO) == []
    ((_, key, text, _),) = problems(tmp_path, PINS.format(memory=memory, one=one, c="true"), TWO)
    assert key == "models.c.pinned"
    assert '"a" and ' in text and '"c" are pinned' in text


def test_what_fits_is_no_problem(tmp_path: Path) -> None:
    content = '{"memory": {"0": "20GiB"}, "models": {"a": {M, "memory": "60GiB"}, "b": {M, "devices": []}}}'
    assert problems(tmp_path, content, TWO) == []
