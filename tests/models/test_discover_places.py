"""Where models are looked for, how far, and what the stores of other programs say of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from model_trees import folder, gguf_file, hub_snapshot, into_blobs, ollama_model, only, projector, reasons, search

from llm_router.models import discover_entry
from llm_router.models.discover import named
from llm_router.models.discover_places import well_known
from llm_router.models.discover_walk import Walk


def test_the_usual_places_are_those_of_the_programs_that_download() -> None:
    home = Path("/home/me")
    assert well_known({}, home) == [
        home / "models",
        Path("/models"),
        Path("/opt/models"),
        home / ".cache/huggingface/hub",
        home / ".lmstudio/models",
        home / ".cache/lm-studio/models",
        home / ".cache/llama.cpp",
        home / ".ollama/models",
        Path("/usr/share/ollama/.ollama/models"),
    ]


def test_a_variable_goes_before_a_programs_usual_place() -> None:
    home = Path("/home/me")
    found = well_known(
        {"HF_HOME": "/hf", "OLLAMA_MODELS": "/o", "LLAMA_CACHE": "/l", "LLM_ROUTER_MODELS": "/mine"}, home
    )
    assert found[0] == Path("/mine")
    assert {Path("/hf/hub"), Path("/o"), Path("/l")} < set(found)
    assert not {home / ".ollama/models", home / ".cache/llama.cpp", home / ".cache/huggingface/hub"} & set(found)
    assert Path("/hub") in well_known({"HF_HOME": "/hf", "HF_HUB_CACHE": "/hub"}, home)


# -- going through folders


def test_each_file_is_found_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "a" / "m.gguf")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "c.gguf").symlink_to(path)
    (tmp_path / "self.gguf").symlink_to(tmp_path / "self.gguf")
    found = search(tmp_path, tmp_path / "a")
    assert only(found).path == path
    assert list(reasons(found)) == ["self.gguf"]


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    found = search(tmp_path)
    assert (found.models, reasons(found)) == ([], {"pipe.gguf": "a link to nothing, or no file"})


def test_the_kernels_folders_are_never_entered(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self")
    walk = Walk(limit_s=60.0)
    assert [one.path for one in walk.below(tmp_path)] == [tmp_path]
    assert list(walk.below(Path("/sys"))) == []


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert reasons(search(tmp_path)) == {"closed": "it can't be looked into: Permission denied"}


def test_a_search_that_takes_too_long_ends_and_says_where(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    times = iter((0.0, 0.0, 1.0, 6.0))
    walk = Walk(limit_s=5.0, clock=lambda: next(times))
    assert [one.path.name for one in walk.below(tmp_path)] == [tmp_path.name, "a"]
    ((path, why),) = walk.trouble
    assert (path.name, "ended here after 5 s" in why) == ("b", True)


def test_thousands_of_other_files_are_passed_over(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.txt").touch()
    gguf_file(tmp_path / "m.gguf")
    assert only(search(tmp_path)).path.name == "m.gguf"


# -- the Hugging Face cache


def test_the_hubs_cache_names_its_models_by_their_repository(tmp_path: Path) -> None:
    snapshot = folder(hub_snapshot(tmp_path, "Qwen/Qwen3-8B-AWQ", "abc"), {"quant_method": "awq"})
    into_blobs(snapshot)
    (model,) = named(search(tmp_path).models)
    assert (model.name, model.origin, model.path) == ("qwen3-8b-awq", "Qwen/Qwen3-8B-AWQ", snapshot)
    assert model.size_bytes == 16 * 1024**2


def test_only_the_revision_that_main_means_counts(tmp_path: Path) -> None:
    for revision in ("old", "new"):
        snapshot = hub_snapshot(tmp_path, "o/m-GGUF", revision, is_main=revision == "new")
        gguf_file(snapshot / "m-Q8_0.gguf", describe=lambda w, name=revision: w.add_name(name))
    assert only(search(tmp_path)).path.parent.name == "new"


def test_revisions_that_share_their_weights_are_one_model(tmp_path: Path) -> None:
    for revision in ("one", "two"):
        snapshot = folder(hub_snapshot(tmp_path, "o/m", revision, is_main=False))
        into_blobs(snapshot)
    assert only(search(tmp_path)).origin == "o/m"


def test_a_repository_without_weights_and_downloads_under_way_are_said(tmp_path: Path) -> None:
    snapshot = folder(hub_snapshot(tmp_path, "o/m", "one"))
    (snapshot / "model.safetensors").unlink()
    (snapshot.parents[1] / "blobs" / "1234.incomplete").touch()
    found = search(tmp_path)
    assert found.models == []
    assert "no weights" in reasons(found)["one"]
    assert reasons(found)["1234.incomplete"] == "a download of o/m that isn't finished"


# -- Ollama's store


def test_ollamas_models_have_its_names_and_its_parameters(tmp_path: Path) -> None:
    parameters = {"temperature": 0.6, "stop": ["<end>"], "num_ctx": 4096}
    layers = {
        "model": gguf_file(tmp_path / "x"),
        "template": b"{{ .Prompt }}",
        "params": json.dumps(parameters).encode(),
    }
    ollama_model(tmp_path / "store", "library/llama3.2/3b", layers)
    (model,) = named(search(tmp_path).models)
    assert (model.name, model.origin, model.format) == ("llama3.2:3b", "llama3.2:3b", "GGUF")
    assert model.path.parent == tmp_path / "store" / "blobs"
    assert model.defaults == {"temperature": 0.6, "stop": ["<end>"]}


@pytest.mark.parametrize(
    ("host", "stored", "shown"),
    [
        ("registry.ollama.ai", "library/phi4/latest", "phi4"),
        ("registry.ollama.ai", "me/phi4/q8", "me/phi4:q8"),
        ("hf.co", "me/Phi-GGUF/Q4_K_M", "hf.co/me/Phi-GGUF:Q4_K_M"),
    ],
)
def test_what_is_usual_in_ollamas_names_is_not_said(tmp_path: Path, host: str, stored: str, shown: str) -> None:
    ollama_model(tmp_path / "store", stored, {"model": gguf_file(tmp_path / "x")}, host=host)
    assert only(search(tmp_path / "store")).origin == shown


def test_ollamas_projectors_and_adapters_go_with_the_model(tmp_path: Path) -> None:
    layers = {
        "model": gguf_file(tmp_path / "x"),
        "projector": projector(tmp_path / "y"),
        "adapter": b"lora",
        "system": b"You are nice.",
    }
    ollama_model(tmp_path / "store", "library/llava/7b", layers)
    model = only(search(tmp_path / "store"))
    assert (model.args[0], model.args[2], model.abilities) == ("--mmproj", "--lora", ("vision",))
    assert ("no --lora" in model.notes[0], "system prompt" in model.notes[1]) == (True, True)


def test_what_only_ollama_can_run_is_left_out(tmp_path: Path) -> None:
    store = tmp_path / "store"
    ollama_model(store, "library/cloud/latest", {"params": b"{}"})
    ollama_model(store, "library/broken/latest", {"model": b"nothing"})
    (store / "manifests" / "registry.ollama.ai" / "library" / "bad").mkdir()
    (store / "manifests" / "registry.ollama.ai" / "library" / "bad" / "latest").write_text("{")
    (store / "blobs" / "sha256-12-partial").touch()
    found = search(store)
    assert found.models == []
    reason = "\n".join(one.reason for one in found.left_out)
    for part in ("cloud: it runs in Ollama's cloud", "broken: it is damaged", "can't be read", "`ollama pull`"):
        assert part in reason


# -- as an entry of a configuration


def test_a_context_is_never_longer_than_the_model_was_trained_for(tmp_path: Path) -> None:
    gguf_file(tmp_path / "a.gguf", describe=lambda w: w.add_context_length(4096))
    gguf_file(tmp_path / "b.gguf")
    gguf_file(tmp_path / "c.gguf", describe=lambda w: w.add_uint32("llama.pooling_type", 1))
    assert [discover_entry.context_of(model, 8192) for model in search(tmp_path).models] == [4096, 8192, None]


def test_an_entry_says_all_that_is_needed_and_no_more(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "m-Q8_0.gguf", describe=lambda w: w.add_context_length(4096))
    eyes = projector(tmp_path / "mmproj-m.gguf")
    assert discover_entry.entry(only(search(tmp_path)), backend="llamacpp", context=8192) == {
        "backend": "llamacpp",
        "path": str(path),
        "description": "Q8_0",
        "context_length": 4096,
        "args": ["--mmproj", str(eyes)],
        "capabilities": ["chat", "vision"],
    }


def test_a_backend_that_is_there_goes_before_one_that_is_not(tmp_path: Path) -> None:
    folder(tmp_path / "m")
    model = only(search(tmp_path))
    assert discover_entry.backend_of(model, {"llamacpp"}) == "sglang"
    assert discover_entry.backend_of(model, {"llamacpp", "vllm"}) == "vllm"


@pytest.mark.parametrize(
    ("count", "shown"), [(None, ""), (64, ""), (270e6, "270M"), (1.5e6, "1.5M"), (8.19e9, "8.2B"), (123e9, "123B")]
)
def test_numbers_of_parameters_are_short(count: float | None, shown: str) -> None:
    assert discover_entry.shown_parameters(None if count is None else int(count)) == shown
