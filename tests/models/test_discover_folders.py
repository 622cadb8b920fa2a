"""Which folders hold models, how they were quantised, and who can serve them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from model_trees import folder, only, reasons, search, sparse

BOTH = ("sglang", "vllm")


@pytest.mark.parametrize(
    ("quantisation", "shown", "backends"),
    [
        (None, "BF16", (*BOTH, "tabbyapi")),
        ({"quant_method": "exl3", "bits": 4.25}, "EXL3 4.25 bits", ("tabbyapi",)),
        ({"quant_method": "exl2", "bits": 6}, "EXL2 6 bits", ("tabbyapi-exl2",)),
        ({"quant_method": "awq", "bits": 4}, "AWQ 4 bits", BOTH),
        ({"quant_method": "gptq", "bits": 8}, "GPTQ 8 bits", BOTH),
        ({"quant_method": "fp8"}, "FP8", BOTH),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", BOTH),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "ModelOpt NVFP4", BOTH),
        ({"quant_method": "mxfp4"}, "MXFP4", BOTH),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes", ("sglang",)),
    ],
)
def test_who_serves_a_folder_follows_from_its_quantisation(
    tmp_path: Path, quantisation: dict[str, Any] | None, shown: str, backends: tuple[str, ...]
) -> None:
    path = folder(tmp_path / "Llama-8B", quantisation)
    model = only(search(tmp_path))
    assert (model.path, model.format, model.quantisation) == (path, "safetensors", shown)
    assert (model.backends, model.use, model.context_length) == (backends, "chat", 4096)
    assert model.size_bytes == 16 * 1024**2


def test_a_description_of_modelopts_own_is_read(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert only(search(tmp_path)).quantisation == "ModelOpt FP8"


def test_parameters_are_counted_or_taken_from_the_name(tmp_path: Path) -> None:
    folder(tmp_path / "plain")
    folder(tmp_path / "Qwen3-1.7B-AWQ", {"quant_method": "awq"})
    folder(tmp_path / "unnamed", {"quant_method": "awq"})
    found = {model.path.name: model.parameters for model in search(tmp_path).models}
    assert found == {"plain": 8 * 1024**2, "Qwen3-1.7B-AWQ": 1_700_000_000, "unnamed": None}


def test_embedding_rank_and_vision_models_are_told_apart(tmp_path: Path) -> None:
    folder(tmp_path / "bert", architectures=["BertModel"])
    pooled = folder(tmp_path / "pooled", architectures=["Qwen3Model"])
    (pooled / "modules.json").write_text("[]")
    folder(tmp_path / "rank", architectures=["XLMRobertaForSequenceClassification"])
    folder(tmp_path / "vl", architectures=["Qwen2_5_VLForConditionalGeneration"], vision_config={})
    (folder(tmp_path / "base") / "chat_template.jinja").unlink()
    found = {model.path.name: (model.use, model.abilities) for model in search(tmp_path).models}
    assert found == {
        "bert": ("embedding", ()),
        "pooled": ("embedding", ()),
        "rank": ("rerank", ()),
        "vl": ("chat", ("vision",)),
        "base": ("completion", ()),
    }


def test_who_embeds_or_ranks_is_none_that_only_chats(tmp_path: Path) -> None:
    folder(tmp_path / "bert", architectures=["BertModel"])
    folder(tmp_path / "rank", architectures=["BertForSequenceClassification"])
    assert [model.backends for model in search(tmp_path).models] == [BOTH, ("vllm", "sglang")]


def test_what_no_backend_serves_is_left_out_with_the_reason(tmp_path: Path) -> None:
    folder(tmp_path / "whisper", architectures=["WhisperForConditionalGeneration"])
    folder(tmp_path / "clip", architectures=["CLIPModel"])
    folder(tmp_path / "odd", {"quant_method": "sinq"})
    folder(tmp_path / "mlx", {"group_size": 64}, quantization={"group_size": 64, "bits": 4})
    lora = folder(tmp_path / "lora")
    (lora / "adapter_config.json").write_text("{}")
    pictures = folder(tmp_path / "pictures")
    (pictures / "model_index.json").write_text("{}")
    pickled = folder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (folder(tmp_path / "list") / "config.json").write_text("[]")
    found = search(tmp_path)
    assert found.models == []
    why = reasons(found)
    words = {"whisper": "no language model", "clip": '"CLIPModel"', "odd": '"sinq"', "mlx": "Apple", "lora": "LoRA"}
    words |= {"pictures": "pictures", "pickled": "pickled", "list": "makes no sense"}
    assert why.keys() == words.keys()
    for name, word in words.items():
        assert word in why[name]


def test_a_folder_with_a_part_missing_is_left_out_and_the_part_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "model.safetensors").unlink()
    sparse(path / "model-00001-of-00002.safetensors", 100)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = search(tmp_path)
    assert (found.models, "model-00002-of-00002.safetensors is missing" in reasons(found)["m"]) == ([], True)


def test_settings_of_other_programs_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "config.json").write_text('{"theme": "dark"}')
    found = search(tmp_path)
    assert (found.models, found.left_out) == ([], [])


def test_code_of_its_own_is_said(tmp_path: Path) -> None:
    folder(tmp_path / "m", auto_map={"AutoModel": "m.py"})
    assert "--trust-remote-code" in only(search(tmp_path)).notes[0]
