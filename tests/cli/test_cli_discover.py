"""`llm-router discover`: what it finds, shows, writes and refuses; and that what it wrote is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llm_router.cli import finding
from llm_router.cli.commands import app
from llm_router.hardware.base import DeviceReading
from llm_router.models import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chat models, an embedding model and a download that isn't finished."""
    folder = tmp_path_factory.mktemp("made")
    tiny.write(folder / "alpha-F16.gguf", name="alpha", count=5)
    tiny.write(folder / "beta-F16.gguf", name="beta", seed=2, count=5)
    tiny.write(folder / "letters.gguf", name="letters", kind="embedding")
    (folder / "gamma.gguf.part").write_bytes(b"GGUF")
    return folder


@pytest.fixture
def models(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with them; no configuration."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made, tmp_path / "models")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["discover", *map(str, arguments)])


def as_json(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_it_shows_what_each_model_is_and_what_was_left_out(models: Path) -> None:
    result = run(models)
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    for word in ("chat", "GGUF F16", "MB", "MiB", "llamacpp"):
        assert word in rows["alpha"]
    assert "embedding" in rows["letters"]
    assert "gamma.gguf.part: a download that isn't finished" in result.stdout
    assert "--write" in result.stderr
    assert list(models.parent.glob("*.json")) == []


@pytest.mark.parametrize(("devices", "heading"), [(("cpu",), "MEMORY"), (("cpu", "0", "1"), "GPU MEMORY")])
def test_where_there_is_a_gpu_it_says_what_of_it_a_model_takes(
    models: Path, monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], heading: str
) -> None:
    class Reader:
        def read(self) -> dict[str, DeviceReading]:
            return {name: DeviceReading(device=name, total_mib=32, free_mib=32) for name in devices}

        def close(self) -> None: ...

    monkeypatch.setattr(finding, "open_reader", Reader)
    said = run(models).stdout
    alpha = next(model for model in as_json(models)["models"] if model["name"] == "alpha")
    has_gpu = heading == "GPU MEMORY"
    assert has_gpu == (f"  {heading}  " in said and "all GPUs together have 64 MiB" in said)
    assert f" {alpha['gpu_memory_mib' if has_gpu else 'memory_mib']} MiB " in said


def test_without_folders_it_looks_in_the_usual_places(models: Path) -> None:
    home = models.parent / "home"
    home.mkdir()
    models.rename(home / "models")
    found = as_json()
    assert found["looked"][0] == str(home / "models")
    assert {"alpha", "beta", "letters"} <= {model["name"] for model in found["models"]}


def test_json_says_everything_a_program_needs(models: Path) -> None:
    found = as_json(models, "--context", "512")
    first = found["models"][0]
    assert (first["name"], first["backend"], first["backends"]) == ("alpha", "llamacpp", ["llamacpp"])
    assert first["memory_mib"] > 50
    assert first["entry"]["context_length"] == 512
    assert found["left_out"] == [{"path": str(models / "gamma.gguf.part"), "reason": "a download that isn't finished"}]
    assert found["written"] is None


@pytest.mark.parametrize("name", ["c.json", "c.yaml"])
def test_what_it_writes_passes_the_check(models: Path, name: str) -> None:
    result = run(models, "--write", name)
    assert (result.exit_code, f"3 models written to {name}" in result.stdout) == (0, True)
    checked = CliRunner().invoke(app, ["check", "--config", name])
    assert (checked.exit_code, checked.stdout) == (0, "")


def test_a_choice_is_by_name_or_path(models: Path) -> None:
    assert [model["name"] for model in as_json(models, "--select", "*a")["models"]] == ["alpha", "beta"]
    assert [model["name"] for model in as_json(models, "--select", "*/LETTERS.gguf")["models"]] == ["letters"]
    assert [model["name"] for model in as_json(models, "--exclude", "beta", "--exclude", "l*")["models"]] == ["alpha"]


def test_merging_adds_only_what_is_not_there_yet(models: Path) -> None:
    before = (
        f"# mine\nmodels:\n  mine: {{backend: llamacpp, path: {models}/alpha-F16.gguf, aliases: [beta]}}  # first\n"
    )
    file = Path("c.yaml")
    file.write_text(before)
    found = as_json(models, "--merge", file)
    assert [model["configured_as"] for model in found["models"]] == [None, None, "mine"]
    assert found["written"]["added"] == ["models.beta-f16", "models.letters"]  # "beta" means another one already
    assert Path(found["written"]["backup"]).read_text() == before
    assert file.read_text().startswith(before)
    again = run(models, "--merge", file)
    assert "nothing was changed" in again.stdout
    assert len(list(Path().glob("c.yaml.bak*"))) == 1


def test_a_dry_run_shows_the_difference_and_changes_nothing(models: Path) -> None:
    file = Path("c.json")
    file.write_text('{"models": {"x": {"backend": "openai", "url": "http://h"}}}')
    result = run(models, "--merge", file, "--dry-run")
    assert ("+++ c.json (new)" in result.stdout, '"alpha"' in result.stdout) == (True, True)
    assert "alpha" not in file.read_text()
    assert run(models, "--write", "new.json", "--dry-run").exit_code == 0
    assert [path.name for path in models.parent.glob("*.json*")] == ["c.json"]


def test_a_backend_that_is_not_here_is_said_and_one_that_is_preferred(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models / "Qwen3-8B-AWQ"
    folder.mkdir()
    config = {"architectures": ["Qwen3ForCausalLM"], "quantization_config": {"quant_method": "awq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    monkeypatch.setattr(finding.shutil, "which", lambda name: None)
    (found,) = as_json(models, "--select", "qwen*")["models"]
    assert (found["backend"], found["parameters"]) == ("sglang", 8_000_000_000)
    assert '"binary" of the backend "sglang", or use vllm instead' in found["notes"][0]
    monkeypatch.setattr(finding.shutil, "which", lambda name: "/bin/vllm" if name == "vllm" else None)
    (found,) = as_json(models, "--select", "qwen*")["models"]
    assert (found["backend"], found["notes"]) == ("vllm", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "cannot look into nowhere: there is no such folder"),
        (("models/alpha-F16.gguf",), "it is no folder"),
        (("empty",), "cannot find any model"),
        (("models", "--select", "zzz"), "cannot select any of the 3 models"),
        (("models", "--write", "there.json"), "it is there already; add to it with --merge there.json"),
        (("models", "--write", "c.txt"), "end its name in .json or .yaml"),
        (("models", "--merge", "gone.json"), "there is no such file; make it with --write"),
        (("models", "--merge", "there.json"), "there.json:1: prt: there is no such key"),
        (("models", "--merge", "syntax.json"), "this is not JSON"),
        (("models", "--write", "a.json", "--merge", "b.json"), "cannot both write and merge"),
        (("models", "--write", "models/alpha-F16.gguf/c.json"), "cannot write models/alpha-F16.gguf/c.json"),
        (("models", "--from-llama-swap", "x.yaml"), "cannot search folders and import at once"),
        (("--from-llama-swap", "gone.yaml"), "name llama-swap's configuration file"),
    ],
)
def test_what_can_not_be_done_is_said_with_the_next_step(
    models: Path, arguments: tuple[str, ...], message: str
) -> None:
    Path("empty").mkdir()
    Path("there.json").write_text('{"prt": 1, "models": {"x": {"backend": "openai", "url": "http://h"}}}')
    Path("syntax.json").write_text("{")
    result = run(*arguments)
    assert (result.exit_code, message in result.stderr) == (1, True), result.stderr


def test_what_is_left_out_is_said_when_nothing_else_was_found(models: Path) -> None:
    for path in models.glob("*.gguf"):
        path.unlink()
    result = run(models)
    assert (result.exit_code, "gamma.gguf.part" in result.stderr, str(models) in result.stderr) == (1, True, True)


def test_with_json_an_error_is_an_object(models: Path) -> None:
    result = run("nowhere", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (1, "discovery_failed")


# -- from llama-swap


SWAP = """
models:
  a: {cmd: "llama-server --port ${PORT} -m /m/a.gguf", ttl: 60, cmdStop: "kill ${PID}"}
"""


def test_an_import_prints_the_configuration_and_what_became_of_the_rest(models: Path) -> None:
    Path("config.yaml").write_text(SWAP)
    result = run("--from-llama-swap", "config.yaml")
    assert result.exit_code == 0
    assert "command: llama-server --port ${PORT} -m /m/a.gguf\n" in result.stdout
    assert "dropped: models.a.cmdStop: " in result.stderr


def test_an_import_is_written_and_merged(models: Path) -> None:
    Path("config.yaml").write_text(SWAP)
    found = as_json("--from-llama-swap", "config.yaml", "--write", "c.json")
    assert found["written"]["added"] == ["memory", "models.a"]
    assert {note["kind"] for note in found["notes"]} == {"changed", "dropped"}
    written = json.loads(Path("c.json").read_text())
    assert written == found["configuration"]
    Path("config.yaml").write_text(SWAP + "  b: {cmd: 'x ${PORT}'}\n")
    result = run("--from-llama-swap", "config.yaml", "--merge", "c.json")
    assert "1 model written" in result.stdout
    assert "left as it was: memory, models.a" in result.stderr
    assert list(json.loads(Path("c.json").read_text())["models"]) == ["a", "b"]


def test_an_import_that_the_router_would_refuse_is_not_written(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET", raising=False)
    Path("config.yaml").write_text("models:\n  a: {cmd: 'x ${PORT}', env: ['K=${env.SECRET}']}")
    result = run("--from-llama-swap", "config.yaml", "--write", "c.json")
    assert (result.exit_code, "the environment variable SECRET is not set" in result.stderr) == (1, True)
    assert not Path("c.json").exists()
