"""What files say of a model to people: family, size, quantisation, template; and nothing where they make no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_router.models import about, tiny
from llm_router.models.about import About


def test_a_gguf_file_names_its_family_its_context_and_its_template(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "tiny-a.gguf", name="tiny-a", seed=1, count=5)
    found = about.read(path)
    assert (found.format, found.family) == ("gguf", "llama")
    assert found.context_length
    assert found.size_bytes == path.stat().st_size
    assert found.modified_at == path.stat().st_mtime
    assert found.fields["general.architecture"] == "llama"
    assert "tokenizer.chat_template" not in found.fields
    assert found.template
    assert not found.thinks


def test_the_size_of_a_model_in_shards_is_that_of_all_of_them(tmp_path: Path) -> None:
    first = tiny.write(tmp_path / "a[1]-00001-of-00002.gguf", name="a", seed=1, count=5)
    (tmp_path / "a[1]-00002-of-00002.gguf").write_bytes(b"x" * 1000)
    (tmp_path / "a[1]-00002-of-00003.gguf").write_bytes(b"another model's")
    assert about.read(first).size_bytes == first.stat().st_size + 1000


def folder(path: Path, *, template: str = "") -> Path:
    path.mkdir()
    config = {"model_type": "qwen3", "max_position_embeddings": 4096, "quantization_config": {"quant_method": "awq"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"x" * 500)
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return path


def test_a_folder_of_safetensors_does_too(tmp_path: Path) -> None:
    found = about.read(folder(tmp_path / "m", template="{% if tools %}{% endif %}<think>"))
    assert (found.format, found.family, found.quantisation) == ("safetensors", "qwen3", "AWQ")
    assert (found.context_length, found.size_bytes) == (4096, 500)
    assert found.takes_tools
    assert found.thinks


def test_a_template_in_a_file_of_its_own_goes_first(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", template="tools")
    (path / "chat_template.jinja").write_text("own")
    assert about.read(path).template == "own"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 100, b"something else"])
def test_a_file_that_makes_no_sense_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert about.read(path) == About()


def test_a_folder_that_makes_no_sense_says_nothing(tmp_path: Path) -> None:
    assert about.read(tmp_path) == About()
    assert about.read(tmp_path / "missing") == About()
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert about.read(tmp_path) == About()
