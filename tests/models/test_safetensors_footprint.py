"""What folders with safetensors will take in memory, and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llm_router.models import footprint, safetensors
from llm_router.models.memory import Footprint

KIB, MIB, GIB = 1024, 1024**2, 1024**3
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}


def folder(
    path: Path, config: Mapping[str, Any], *, sizes: Mapping[str, int] | None = None, index: bool = False
) -> Path:
    """With sparse weights; `index` names all but the "consolidated" ones."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    sizes = sizes or {"model.safetensors": 16 * MIB}
    for name, size in sizes.items():
        with (path / name).open("wb") as file:
            file.truncate(size)
    if index:
        names = [name for name in sizes if not name.startswith("consolidated")]
        content = {"metadata": {"total_size": 1}, "weight_map": {f"layer {name}": name for name in names}}
        (path / "model.safetensors.index.json").write_text(json.dumps(content))
    return path


def measured(path: Path, *args: str, context_length: int | None = None) -> Footprint:
    found = footprint.measure(path, context_length=context_length, args=args)
    assert found is not None
    return found


def test_weights_are_those_that_the_index_names(tmp_path: Path) -> None:
    sizes = {"model-00001-of-00002.safetensors": 3 * GIB, "model-00002-of-00002.safetensors": GIB}
    twice = {**sizes, "consolidated.safetensors": 4 * GIB}
    path = folder(tmp_path / "m", LLAMA, sizes=twice, index=True)
    assert measured(path).weights == 4 * GIB
    assert measured(folder(tmp_path / "no index", LLAMA, sizes=twice)).weights == 4 * GIB
    (path / "model-00002-of-00002.safetensors").unlink()
    assert footprint.estimate(path, context_length=None, args=()) is None


def test_keys_and_values_for_one_whole_context(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", LLAMA)
    assert measured(path).cache == 16 * GIB  # 131,072 tokens of 128 KiB
    assert measured(path, context_length=8192).cache == GIB
    for args in (("--max-model-len", "4096"), ("--context-length=4096",), ("--cache-size", "4096")):
        assert measured(path, *args, context_length=8192).cache == GIB // 2


@pytest.mark.parametrize(
    ("args", "bits"),
    [
        (("--kv-cache-dtype", "auto"), 16),
        (("--kv-cache-dtype", "fp8_e5m2"), 8),
        (("--cache-mode", "FP16"), 16),
        (("--cache-mode", "Q4"), 4.5),
        (("--cache-mode", "8,4"), 6.5),
    ],
)
def test_the_cache_may_be_quantised(tmp_path: Path, args: tuple[str, ...], bits: float) -> None:
    path = folder(tmp_path / "m", LLAMA)
    assert measured(path, *args, context_length=8192).cache == GIB * bits / 16


def test_the_language_model_of_a_model_that_sees_is_in_a_part_of_its_own(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", {"architectures": ["X"], "vision_config": {"hidden_size": 1}, "text_config": LLAMA})
    assert measured(path, context_length=8192).cache == GIB


def test_heads_may_be_wider_than_the_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", {**LLAMA, "head_dim": 256})
    assert measured(path, context_length=8192).cache == 2 * GIB


def test_latent_attention_keeps_one_short_row(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", {**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert measured(path, context_length=8192).cache == 8192 * 32 * 576 * 2


def test_layers_with_a_window_and_without_attention_keep_less(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "linear_attention", "linear_attention", "full_attention"] * 8
    config = {**LLAMA, "layer_types": kinds, "sliding_window": 1024}
    row = 2 * 8 * 128 * 2
    assert measured(folder(tmp_path / "m", config), context_length=8192).cache == 8 * (8192 + 1024) * row
    # TabbyAPI gives every layer with attention all of its cache.
    exl = folder(tmp_path / "exl", {**config, "quantization_config": {"quant_method": "exl3"}})
    assert measured(exl, context_length=8192).cache == 8 * (8192 + 8192) * row
    interval = folder(tmp_path / "interval", {**LLAMA, "full_attention_interval": 4})
    assert measured(interval, context_length=8192).cache == 8 * 8192 * row


@pytest.mark.parametrize(
    ("config", "beside", "kind"),
    [
        ({}, None, ""),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, None, "awq"),
        ({"quantization_config": {"quant_method": "gptq"}}, None, "gptq"),
        ({"quantization_config": {"quant_method": "fp8"}}, None, "fp8"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, None, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, None, "mxfp4"),
        ({"quantization_config": {"quant_method": "exl3", "bits": 4.0}}, None, "exl3"),
        ({"quantization_config": {"quant_method": "exl2"}}, None, "exl2"),
        ({}, "hf_quant_config.json", "modelopt"),
        ({}, "quantize_config.json", "gptq"),
    ],
)
def test_how_it_was_quantised_is_told(tmp_path: Path, config: Mapping[str, Any], beside: str | None, kind: str) -> None:
    path = folder(tmp_path / "m", {**LLAMA, **config})
    if beside is not None:
        (path / beside).write_text("{}")
    described = safetensors.describe(path)
    assert (described.quantisation, described.architecture) == (kind, "LlamaForCausalLM")
    assert (described.context_length, described.weights) == (131072, 16 * MIB)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {**LLAMA, "num_hidden_layers": "many"},
        {**LLAMA, "num_hidden_layers": 10**9},
        {**LLAMA, "num_attention_heads": 0},
        {**LLAMA, "hidden_size": None},
        {**LLAMA, "kv_lora_rank": [512]},
    ],
)
def test_strange_configurations_give_no_estimate_rather_than_an_error(
    tmp_path: Path, config: Mapping[str, Any]
) -> None:
    assert footprint.estimate(folder(tmp_path / "m", config), context_length=None, args=()) is None


def test_strange_folders_give_no_estimate_rather_than_an_error(tmp_path: Path) -> None:
    assert footprint.estimate(tmp_path, context_length=None, args=()) is None
    path = folder(tmp_path / "m", LLAMA, index=True)
    for content in (b"[]", b"{", b"\xff\xfe", b'{"weight_map": 3}'):
        (path / "model.safetensors.index.json").write_bytes(content)
        assert footprint.estimate(path, context_length=None, args=()) is None
    (path / "config.json").write_text("[" * 100_000)
    assert footprint.estimate(path, context_length=None, args=()) is None
