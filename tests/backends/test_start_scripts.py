"""The example start scripts: they parse, become the server itself, and pass on what the router says."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from llm_router.backends import registry
from llm_router.config import check

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = sorted(path.name for path in SCRIPTS.glob("*.sh"))
# The variable that names each one's program.
PROGRAMS = {
    "start_llamacpp.sh": "LLAMA_SERVER",
    "start_sglang.sh": "SGLANG",
    "start_tabbyapi.sh": "TABBY_PYTHON",
    "start_vllm.sh": "VLLM",
}
EACH = pytest.mark.parametrize("name", NAMES)


def test_there_is_one_for_each_kind_of_server() -> None:
    assert sorted(PROGRAMS) == NAMES


@EACH
def test_it_can_be_executed_and_parsed(name: str) -> None:
    assert os.access(SCRIPTS / name, os.X_OK)
    subprocess.run(["bash", "-n", SCRIPTS / name], check=True)


@EACH
def test_it_knows_nobodys_home(name: str) -> None:
    assert "/home/" not in (SCRIPTS / name).read_text()


def started(name: str, folder: Path, **env: str) -> tuple[int, list[str]]:
    """The process id of the script, and that and the arguments of the server as a stand-in sees them."""
    server = folder / "server"
    server.write_text('#!/bin/sh\necho "$$"\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    settings = {"PATH": os.environ["PATH"], "HOME": str(folder), "TABBY_DIR": str(folder), PROGRAMS[name]: str(server)}
    child = subprocess.Popen(
        [SCRIPTS / name, "--more"], env=settings | env, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    output, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    return child.pid, output.splitlines()


@EACH
def test_it_becomes_the_server_on_the_port_it_was_given(name: str, tmp_path: Path) -> None:
    pid, (server, *argv) = started(name, tmp_path, PORT="21001", MODEL="qwen", MODEL_NAME="Qwen-exl3")
    assert int(server) == pid  # so a signal to the script is one to the server
    assert argv[argv.index("--port") + 1] == "21001"
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[-1] == "--more"
    assert "Qwen-exl3" in argv if name == "start_tabbyapi.sh" else "qwen" in argv


def test_tabbyapi_is_started_without_a_model_where_none_is_named(tmp_path: Path) -> None:
    _, (_, *argv) = started("start_tabbyapi.sh", tmp_path)
    assert argv[argv.index("--model-name") + 1] == ""
    assert "--max-seq-len" not in argv


def test_a_configuration_that_names_them_has_no_problems(tmp_path: Path) -> None:
    models = {
        kind: {"backend": kind, "script": str(SCRIPTS / f"start_{kind}.sh"), "port": port}
        for port, kind in enumerate(("llamacpp", "sglang", "tabbyapi", "vllm"), 21001)
    }
    file = tmp_path / "router_config.json"
    file.write_text(json.dumps({"models": models}))
    assert check(file, kinds=set(registry.load())) == []
