"""Known-answer models: the file. That the real engine answers as promised is tested with the engine."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import pytest

from llm_router.models import tiny


def text_field(path: Path, key: str) -> str:
    field = gguf.GGUFReader(path).get_field(key)
    assert field is not None
    return str(field.contents())


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first = tiny.write(tmp_path / "1.gguf", name="tiny-a", count=20)
    again = tiny.write(tmp_path / "2.gguf", name="tiny-a", count=20)
    other = tiny.write(tmp_path / "3.gguf", name="tiny-a", count=20, seed=2)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_a_chat_model_knows_its_answer_and_has_a_chat_template(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "a.gguf", name="tiny-a", count=12)
    tokens = gguf.GGUFReader(path).get_field("tokenizer.ggml.tokens")
    assert tokens is not None
    assert tokens.contents()[-15:] == ["ĠI", "Ġam", "Ġtiny-a:", *(f"Ġ{number}" for number in range(1, 13))]
    assert "assistant" in text_field(path, "tokenizer.chat_template")
    assert tiny.answer("tiny-a", 3) == " I am tiny-a: 1 2 3"


def test_an_embedding_model_pools(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "e.gguf", name="tiny-embed", kind="embedding")
    assert text_field(path, "general.architecture") == "bert"
    assert text_field(path, "bert.pooling_type") == "1"


def test_missing_folders_are_made_and_nothing_else_is_left_behind(tmp_path: Path) -> None:
    tiny.write(tmp_path / "new" / "a.gguf", name="a", count=1)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gguf"]


def test_a_file_that_cannot_be_finished_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    with pytest.raises(UnicodeEncodeError):
        tiny.write(path, name="\ud800", count=1)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_router.models.tiny_weights", None)
    monkeypatch.delattr("llm_router.models.tiny_weights", raising=False)
    with pytest.raises(tiny.GeneratorMissing, match=r"llm-router\[demo\]"):
        tiny.write(tmp_path / "a.gguf", name="a")
