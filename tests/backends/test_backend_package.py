"""The example of a backend in another package, as an installed router would find and use it."""

import inspect
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from llm_router.backends import registry
from llm_router.backends.base import Address, Backend, Facts, LaunchRequest, Loading, Ready
from llm_router.config import check

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "backend-package"


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Installed: what pip would write of its pyproject.toml, and its module, are on the path."""
    project: dict[str, Any] = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"][registry.GROUP]
    (info / "entry_points.txt").write_text(
        "\n".join([f"[{registry.GROUP}]", *(f"{name} = {value}" for name, value in points.items())])
    )
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.syspath_prepend(str(tmp_path))
    return registry.load()["acme"]


def test_it_is_what_the_router_expects(acme: Backend) -> None:
    assert acme.kind == "acme"
    for name, asked in inspect.getmembers(Backend, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(type(acme), name)) == inspect.signature(asked), name


def test_it_builds_a_command_line_for_the_build_it_finds(acme: Backend) -> None:
    request = LaunchRequest(
        model="qwen", port=21001, path="/m/q", context_length=8192, api_key="k", args=("--x",), devices=("0",)
    )
    assert acme.probe(request) == ("acme-server", "--help")
    spec = acme.launch(request, "--no-telemetry  send nothing home")
    start = ("acme-server", "--model", "/m/q", "--listen", "127.0.0.1:21001", "--name", "qwen", "--context", "8192")
    assert spec.argv == (*start, "--no-telemetry", "--x")
    assert "--no-telemetry" not in acme.launch(request, "").argv
    assert (spec.env["ACME_KEY"], spec.env["CUDA_VISIBLE_DEVICES"]) == ("k", "0")
    assert (spec.readiness.path, spec.secrets) == ("/ready", ("k",))


def test_its_other_forms_are_those_of_every_backend(acme: Backend) -> None:
    assert acme.launch(LaunchRequest(model="m", port=7, script="/s.sh"), "").argv == ("/s.sh",)
    remote = acme.launch(LaunchRequest(model="m", port=0, url="http://gpu:9"), "")
    assert (remote.argv, remote.address) == ((), Address(host="gpu", port=9))


def test_it_reads_what_its_server_says(acme: Backend) -> None:
    spec = acme.launch(LaunchRequest(model="m", port=7, script="/s.sh"), "")
    assert spec.readiness.read_line("loading layer 3 of 4") == Loading(fraction=0.75, stage="layers")
    assert spec.readiness.read_line("ready") == Ready()
    assert spec.readiness.read_line("hello") is None
    [info] = spec.facts
    assert info.read(b'{"context": 8192}') == Facts(context_length=8192)
    assert info.read(b"[") == info.read(b"[]") == Facts()


@pytest.mark.usefixtures("acme")
def test_the_configuration_of_its_readme_is_valid_once_it_is_installed(tmp_path: Path) -> None:
    text = (EXAMPLE / "README.md").read_text()
    block = text.split("```json\n")[1].split("```")[0]
    file = tmp_path / "router_config.json"
    file.write_text(block)
    assert "acme" in json.loads(block)["backends"]
    assert check(file, files=False, kinds=set(registry.load())) == []
    assert check(file, files=False, kinds={"llamacpp"}) != []
