"""Models that are already on the machine: which files count, and what each is good for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from llm_router.models import header, local, tiny


def model_file(path: Path, architecture: str = "llama", describe: Callable[[gguf.GGUFWriter], None] = id) -> Path:  # type: ignore[assignment]
    """A GGUF with one small tensor and whatever `describe` adds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list(["a", "bc"])
    writer.add_token_scores([0.0, 1.0])
    describe(writer)
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_chat_base_embedding_and_rerank_models_are_told_apart(tmp_path: Path) -> None:
    model_file(tmp_path / "Chat Model.gguf", describe=lambda w: (w.add_name("A Chat"), w.add_chat_template("{{ m }}")))
    model_file(tmp_path / "base.gguf")
    model_file(tmp_path / "pooled.gguf", "qwen3", lambda w: w.add_pooling_type(gguf.PoolingType.LAST))
    model_file(tmp_path / "bert.gguf", "nomic-bert", lambda w: w.add_pooling_type(gguf.PoolingType.NONE))
    model_file(tmp_path / "rank.gguf", "bert", lambda w: w.add_pooling_type(gguf.PoolingType.RANK))
    tiny.write(tmp_path / "tiny-embed.gguf", name="tiny-embed", kind="embedding")
    assert {model.name: model.use for model in local.find([tmp_path])} == {
        "chat-model": "chat",
        "base": "completion",
        "pooled": "embedding",
        "bert": "embedding",
        "rank": "rerank",
        "tiny-embed": "embedding",
    }


def test_what_is_no_whole_model_is_left_out(tmp_path: Path) -> None:
    model_file(tmp_path / "projector.gguf", "clip")
    model_file(tmp_path / "mmproj-model.gguf")
    model_file(tmp_path / "lora.gguf", describe=lambda w: w.add_type("adapter"))
    model_file(tmp_path / "alone-00001-of-00002.gguf")
    (tmp_path / "text.gguf").write_bytes(b"not a model at all")
    (tmp_path / "empty.gguf").touch()
    whole = tiny.write(tmp_path / "x" / "whole.gguf", name="whole", count=1)
    for length in (4, 20, 60, 3000):
        (tmp_path / f"cut-{length}.gguf").write_bytes(whole.read_bytes()[:length])
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    assert [model.name for model in local.find([tmp_path, tmp_path / "no such folder"])] == ["whole"]


def test_shards_are_one_model(tmp_path: Path) -> None:
    one = model_file(tmp_path / "big-00001-of-00002.gguf")
    two = model_file(tmp_path / "big-00002-of-00002.gguf")
    (model,) = local.find([tmp_path])
    assert (model.name, model.path, model.size_bytes) == ("big", one, one.stat().st_size + two.stat().st_size)


def test_smallest_first_each_file_once_and_none_too_large(tmp_path: Path) -> None:
    small = model_file(tmp_path / "blobs" / "small.gguf")
    large = tiny.write(tmp_path / "large.gguf", name="large")
    link = tmp_path / "snapshots" / "same.gguf"
    link.parent.mkdir()
    link.symlink_to(small)
    assert [model.name for model in local.find([tmp_path, tmp_path])] in (["small", "large"], ["same", "large"])
    assert [model.name for model in local.find([tmp_path / "blobs", tmp_path], largest_bytes=10_000)] == ["small"]
    assert large.stat().st_size > 10_000


def test_the_usual_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLM_ROUTER_MODELS", "/data")
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    assert local.folders()[:2] == [Path("/data"), tmp_path / "models"]
    assert Path("/hub") in local.folders()


def test_folders_with_safetensors_are_for_other_servers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "model.safetensors").touch()
    assert local.find([tmp_path]) == []


def test_a_header_is_read_without_its_arrays(tmp_path: Path) -> None:
    path = model_file(tmp_path / "a.gguf", describe=lambda w: (w.add_context_length(4096), w.add_layer_norm_eps(0.5)))
    found = header.read(path)
    assert (found.tensors, found.architecture) == (1, "llama")
    assert (found.of_architecture("context_length"), found.of_architecture("nothing")) == (4096, None)
    assert found.of_architecture("attention.layer_norm_epsilon") == 0.5
    assert "tokenizer.ggml.tokens" not in found.fields


@pytest.mark.parametrize("damage", [b"GGUF\x01\0\0\0", b"GGUF\0\0\0\x03", b"GGUF\x03\0\0\0" + b"\xff" * 16, b"GGML"])
def test_other_versions_and_damage_are_no_models(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(damage + os.urandom(100))
    with pytest.raises(header.NotGguf):
        header.read(path)
