"""Which GGUF files are models, what each is, and why the others aren't offered."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import pytest
from model_trees import gguf_file, only, projector, reasons, search

from llm_router.models import gguf_inventory, tiny
from llm_router.models.discover import named


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_context_length(40960)
        writer.add_chat_template("{% if tools %}{{ tools }}{% endif %}<think>")

    path = gguf_file(tmp_path / "Qwen3-8B-Q4_K_M.gguf", "qwen3", describe)
    model = only(search(tmp_path))
    assert (model.path, model.format, model.quantisation, model.use) == (path, "GGUF", "Q4_K_M", "chat")
    assert (model.context_length, model.parameters, model.size_bytes) == (40960, 64, path.stat().st_size)
    assert (model.abilities, model.backends, model.args) == (("tools", "reasoning"), ("llamacpp",), ())


def test_the_quantisation_is_the_files_own_where_its_name_is_silent(tmp_path: Path) -> None:
    gguf_file(tmp_path / "some.gguf", describe=lambda w: w.add_file_type(gguf.LlamaFileType.MOSTLY_IQ4_XS))
    assert only(search(tmp_path)).quantisation == "IQ4_XS"


@pytest.mark.parametrize("pooling", [gguf.PoolingType.MEAN, gguf.PoolingType.LAST, gguf.PoolingType.RANK])
def test_models_that_embed_or_rank_are_told_by_their_pooling(tmp_path: Path, pooling: gguf.PoolingType) -> None:
    gguf_file(tmp_path / "m.gguf", "qwen3", lambda w: w.add_pooling_type(pooling))
    assert only(search(tmp_path)).use == ("rerank" if pooling == gguf.PoolingType.RANK else "embedding")


def test_without_a_chat_template_it_completes(tmp_path: Path) -> None:
    gguf_file(tmp_path / "b.gguf", "bert", lambda w: w.kv_data[0].pop("tokenizer.chat_template"))
    gguf_file(tmp_path / "base.gguf", "llama", lambda w: w.kv_data[0].pop("tokenizer.chat_template"))
    assert [model.use for model in search(tmp_path).models] == ["embedding", "completion"]


def test_shards_are_one_model_of_their_size_together(tmp_path: Path) -> None:
    parts = [gguf_file(tmp_path / f"big-Q8_0-0000{number}-of-00003.gguf") for number in (1, 2, 3)]
    model = only(search(tmp_path))
    assert (model.path, model.quantisation, model.names[0]) == (parts[0], "Q8_0", "big")
    assert (model.size_bytes, model.parameters) == (sum(part.stat().st_size for part in parts), 3 * 64)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    for number in (2, 3, 5):
        gguf_file(tmp_path / f"big-0000{number}-of-00005.gguf")
    gguf_file(tmp_path / "two-00001-of-00002.gguf")
    found = search(tmp_path)
    assert found.models == []
    assert reasons(found) == {
        "big-00002-of-00005.gguf": "parts 1, 4 of 5 are missing",
        "two-00001-of-00002.gguf": "part 2 of 2 is missing",
    }


def test_what_is_no_model_is_left_out_with_the_reason(tmp_path: Path) -> None:
    gguf_file(tmp_path / "lora.gguf", describe=lambda w: w.add_type("adapter"))
    gguf_file(tmp_path / "importance.gguf", describe=lambda w: w.add_type("imatrix"))
    gguf_file(tmp_path / "mtp-qwen.gguf")
    gguf_file(tmp_path / "flux-dev.gguf", "flux")
    projector(tmp_path / "mmproj-alone.gguf")
    vocabulary = gguf.GGUFWriter(tmp_path / "vocab.gguf", "llama")
    vocabulary.write_header_to_file()
    vocabulary.write_kv_data_to_file()
    vocabulary.close()
    found = search(tmp_path)
    assert found.models == []
    words = {"lora": "LoRA", "importance": "importance matrix", "mtp-qwen": "draft", "flux-dev": "pictures"}
    words |= {"mmproj-alone": "projector", "vocab": "vocabulary"}
    for name, word in words.items():
        assert word in reasons(found)[f"{name}.gguf"]
    assert len(found.left_out) == len(words)


def test_what_was_not_downloaded_to_its_end_is_said_so(tmp_path: Path) -> None:
    whole = tiny.write(tmp_path / "whole.gguf", name="whole", count=1).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-1000])
    (tmp_path / "header.gguf").write_bytes(whole[:3000])
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "text.gguf").write_bytes(b"<html>not found</html>")
    for name in ("a.gguf.part", "b.gguf.incomplete", "c.gguf.aria2", "notes.part"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    found = search(tmp_path)
    assert [model.path.name for model in found.models] == ["whole.gguf"]
    why = reasons(found)
    assert "its end is missing: 9" in why.pop("cut.gguf")
    assert "not downloaded to its end" in why.pop("header.gguf")
    assert why.pop("empty.gguf") == "it is empty"
    assert "damaged" in why.pop("text.gguf")
    assert why.pop("gone.gguf") == "a link to nothing, or no file"
    assert why == dict.fromkeys(("a.gguf.part", "b.gguf.incomplete", "c.gguf.aria2"), "a download that isn't finished")


def test_the_sizes_of_types_are_ggmls() -> None:
    assert {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()} == gguf_inventory.BLOCKS


@pytest.mark.parametrize("size", [1, 3000, 100_000])
def test_a_file_lacks_what_was_cut_off(tmp_path: Path, size: int) -> None:
    path = tiny.write(tmp_path / "m.gguf", name="m", count=1)
    assert gguf_inventory.read(path).missing_bytes == 0
    os.truncate(path, path.stat().st_size - size)
    assert gguf_inventory.read(path).missing_bytes == size


# -- eyes and ears


def test_a_projector_beside_the_model_goes_with_it(tmp_path: Path) -> None:
    gguf_file(tmp_path / "Qwen2.5-VL-7B-Q4_K_M.gguf")
    gguf_file(tmp_path / "Qwen2.5-VL-7B-Q8_0.gguf")
    eyes = projector(tmp_path / "mmproj-F16.gguf")
    projector(tmp_path / "mmproj-BF16.gguf")
    found = search(tmp_path)
    assert [model.args for model in found.models] == [("--mmproj", str(eyes))] * 2
    assert found.models[0].abilities == ("vision",)
    assert found.left_out == []


def test_ears_are_told_from_eyes(tmp_path: Path) -> None:
    gguf_file(tmp_path / "ultravox.gguf")
    projector(tmp_path / "mmproj-ultravox.gguf", sense="audio")
    assert only(search(tmp_path)).abilities == ("audio",)


def test_a_projector_of_another_width_or_another_model_is_not_taken(tmp_path: Path) -> None:
    gguf_file(tmp_path / "a" / "model-a.gguf", width=64)
    projector(tmp_path / "a" / "mmproj-F16.gguf", width=32)
    gguf_file(tmp_path / "mixed" / "llama.gguf")
    gguf_file(tmp_path / "mixed" / "gemma-vision.gguf", "gemma3")
    projector(tmp_path / "mixed" / "mmproj-gemma-vision-f16.gguf")
    found = search(tmp_path)
    assert {model.path.name: bool(model.args) for model in found.models} == {
        "model-a.gguf": False,
        "llama.gguf": False,
        "gemma-vision.gguf": True,
    }
    assert list(reasons(found)) == ["mmproj-F16.gguf"]


def test_in_llama_cpps_own_folder_the_repository_is_in_the_names(tmp_path: Path) -> None:
    gguf_file(tmp_path / "ggml-org_gemma-3-4b-it-GGUF_gemma-3-4b-it-Q4_K_M.gguf")
    gguf_file(tmp_path / "unsloth_Qwen3-8B-GGUF_Qwen3-8B-UD-q4_k_xl.gguf", "qwen3")
    eyes = projector(tmp_path / "ggml-org_gemma-3-4b-it-GGUF_mmproj-model-f16.gguf")
    one, other = named(search(tmp_path).models)
    assert (one.name, one.origin, one.args) == (
        "gemma-3-4b-it",
        "ggml-org/gemma-3-4b-it-GGUF",
        ("--mmproj", str(eyes)),
    )
    assert (other.name, other.origin, other.quantisation) == ("qwen3-8b", "unsloth/Qwen3-8B-GGUF", "UD-Q4_K_XL")
    assert other.args == ()


def test_a_projector_above_its_quantisations_is_found(tmp_path: Path) -> None:
    gguf_file(tmp_path / "repo" / "UD-Q4_K_XL" / "big-00001-of-00001.gguf")
    eyes = projector(tmp_path / "repo" / "mmproj-BF16.gguf")
    assert only(search(tmp_path)).args == ("--mmproj", str(eyes))


# -- names


def names_of(*places: Path, taken: tuple[str, ...] = ()) -> list[str]:
    return [model.name for model in named(search(*places).models, taken)]


def test_names_are_short_until_two_models_would_share_one(tmp_path: Path) -> None:
    gguf_file(tmp_path / "Llama 3.2 (3B) Instruct-Q4_K_M.gguf")
    gguf_file(tmp_path / "Qwen3-8B-UD-Q4_K_XL.gguf")
    gguf_file(tmp_path / "Qwen3-8B-Q8_0.gguf")
    assert names_of(tmp_path) == ["llama-3.2-3b-instruct", "qwen3-8b-q8_0", "qwen3-8b-ud-q4_k_xl"]


def test_a_file_whose_name_says_nothing_is_named_by_what_it_says_or_where_it_lies(tmp_path: Path) -> None:
    gguf_file(tmp_path / "a" / "ggml-model-q4_0.gguf", describe=lambda w: w.add_name("Phi 4 Mini"))
    gguf_file(tmp_path / "Some Folder" / "model.gguf")
    assert names_of(tmp_path) == ["phi-4-mini", "some-folder"]


def test_the_same_file_in_two_folders_is_numbered_at_last(tmp_path: Path) -> None:
    for place in ("x", "y"):
        gguf_file(tmp_path / place / "m-Q8_0.gguf")
    gguf_file(tmp_path / "z" / "x" / "m-Q8_0.gguf")
    assert names_of(tmp_path) == ["x-m-q8_0", "x-m-q8_0-2", "y-m-q8_0"]


def test_a_name_that_is_taken_is_not_given_again(tmp_path: Path) -> None:
    gguf_file(tmp_path / "m-Q8_0.gguf")
    assert names_of(tmp_path, taken=("m",)) == ["m-q8_0"]
    assert names_of(tmp_path, taken=("m", "m-q8_0")) == ["m-q8_0-2"]
