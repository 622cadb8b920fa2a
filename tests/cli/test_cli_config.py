"""The commands that read a configuration or start a router: options, output, exit codes."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from llm_router import __version__
from llm_router.cli import commands, main
from llm_router.cli.commands import app
from llm_router.config import Config
from llm_router.errors import ConfigError
from llm_router.hardware.base import DeviceReading
from llm_router.models import demo, local, registry

GOOD = '{"models": {"m": {"backend": "openai", "url": "http://127.0.0.1:1"}}}'
BAD = '{\n  "router_prt": 1,\n  "models": {"m": {"backend": "openai", "path": "/nowhere/x.gguf"}}\n}'


class FakeApp(ModuleType):
    """Stands in for the composition root: notes what it should serve, says it is ready, and stops."""

    def __init__(self) -> None:
        super().__init__("llm_router.app")
        self.served: list[tuple[Config, Path | None]] = []
        self.error: Exception | None = None

    def listen(self, host: str, port: int) -> socket.socket:
        if self.error is not None:
            raise self.error
        return socket.socket()

    def serve(
        self,
        config: Config,
        path: Path | None,
        on_ready: Callable[[str], None],
        overrides: Mapping[str, object] | None = None,
    ) -> int:
        if self.error is not None:
            raise self.error
        self.served.append((config, path))
        on_ready("http://127.0.0.1:4242")
        return 0


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    fake = FakeApp()
    monkeypatch.setitem(sys.modules, "llm_router.app", fake)
    monkeypatch.setattr("llm_router.app", fake, raising=False)
    return fake


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def written(folder: Path, content: str) -> str:
    path = folder / "router_config.json"
    path.write_text(content)
    return str(path)


def test_version_and_help() -> None:
    assert run("--version").stdout == f"llm-router {__version__}\n"
    shown = run("--help").stdout
    for command in ("serve", "demo", "check", "status", "load", "unload", "logs", "why"):
        assert f"\n  {command} " in shown
        assert "Exit codes" in run(command, "--help").stdout
    assert "130" in shown
    assert run("nonsense").exit_code == 2


def test_a_user_without_a_home_is_told_what_everybody_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "")  # so that it is put back whatever it was
    for name in [name for name in os.environ if name == "HOME" or name.startswith("XDG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)  # nobody's
    monkeypatch.setattr(sys, "argv", ["llm-router", "check"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "cannot find a configuration file" in capsys.readouterr().err


def test_check_is_silent_on_stdout_and_0_without_problems(tmp_path: Path) -> None:
    result = run("check", "--config", written(tmp_path, GOOD))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no problems" in result.stderr


def test_check_prints_every_problem_and_is_1(tmp_path: Path) -> None:
    path = written(tmp_path, BAD)
    result = run("check", "-c", path)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f'{path}:2: router_prt: there is no such key: did you mean "router_port"?',
        f"{path}:3: models.m.path: /nowhere/x.gguf doesn't exist: write the path of a model file or folder",
    ]
    assert "2 problems; the router won't start" in result.stderr


def test_check_holds_the_file_against_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        def read(self) -> dict[str, DeviceReading]:
            return {"0": DeviceReading(device="0", total_mib=24000, free_mib=20000)}

        def close(self) -> None: ...

    monkeypatch.setattr(commands, "open_reader", Reader)
    path = written(tmp_path, GOOD.replace("{", '{"memory": "30GiB", ', 1))
    result = run("check", "-c", path)
    assert result.exit_code == 1
    assert "memory: device 0 has 24000 MiB, and models are allowed 30720" in result.stdout


def test_check_as_json_has_every_field(tmp_path: Path) -> None:
    path = written(tmp_path, BAD.replace('"router_prt": 1,', ""))
    result = run("check", "-c", path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "file": path,
        "problems": [
            {
                "file": path,
                "line": 3,
                "key": "models.m.path",
                "message": "/nowhere/x.gguf doesn't exist",
                "remedy": "write the path of a model file or folder",
                "fatal": False,
            }
        ],
    }


def test_a_configuration_that_cannot_be_read_is_2(tmp_path: Path) -> None:
    for command in ("check", "serve"):
        result = run(command, "-c", str(tmp_path / "none.json"))
        assert result.exit_code == 2
        assert "cannot read" in result.stderr


@pytest.mark.parametrize("command", ["check", "history"])
def test_a_program_is_told_so_as_json(tmp_path: Path, command: str) -> None:
    result = run(command, "--json", "-c", str(tmp_path / "none.json"))
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "invalid_configuration"


@pytest.mark.parametrize("command", ["serve", "demo"])
@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_cannot_be_is_wrong_usage(router: FakeApp, command: str, port: str) -> None:
    result = run(command, "--port", port)
    assert result.exit_code == 2
    assert "Invalid value for '--port'" in result.stderr


def test_serve_gives_the_configuration_with_the_options_to_the_router(router: FakeApp, tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    result = run("serve", "--config", path, "--host", "::1", "--port", "9009")
    assert result.exit_code == 0
    ((config, given),) = router.served
    assert (config.host, config.router_port, given) == ("::1", 9009, Path(path))
    assert result.stdout == f"llm-router {__version__}: 1 model at http://127.0.0.1:4242/v1\n"


def test_serve_refuses_a_broken_configuration_with_all_its_mistakes(router: FakeApp, tmp_path: Path) -> None:
    path = written(tmp_path, BAD)
    result = run("serve", "-c", path, "--host", "0.0.0.0")
    assert result.exit_code == 1
    assert f"{path}:2: router_prt" in result.stderr
    assert "allow_insecure" in result.stderr
    assert router.served == []


def test_serve_warns_of_models_that_cannot_work_and_starts_anyway(router: FakeApp, tmp_path: Path) -> None:
    result = run("serve", "-c", written(tmp_path, BAD.replace('"router_prt": 1,', "")))
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "/nowhere/x.gguf doesn't exist" in result.stderr


def test_what_stops_the_router_from_starting_is_told(router: FakeApp, tmp_path: Path) -> None:
    router.error = ConfigError("cannot listen on 127.0.0.1:8002: in use")
    result = run("serve", "-c", written(tmp_path, GOOD))
    assert result.exit_code == 1
    assert result.stderr.endswith("llm-router: cannot listen on 127.0.0.1:8002: in use\n")


def test_ctrl_c_is_130(router: FakeApp, tmp_path: Path) -> None:
    router.error = KeyboardInterrupt()  # type: ignore[assignment]
    result = run("serve", "-c", written(tmp_path, GOOD))
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


def test_demo_prepares_models_and_says_how_to_try_them(
    router: FakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(local, "folders", list)
    cache = tmp_path / "llm-router" / "models"
    cache.mkdir(parents=True)
    (cache / "qwen2.5-0.5b-instruct-q4_k_m.gguf").touch()  # fetched earlier
    result = run("demo", "--port", "0")
    assert result.exit_code == 0, result.output
    ((config, path),) = router.served
    assert path is None
    assert (config.router_port, config.host) == (0, "127.0.0.1")
    assert "making tiny-a" in result.stdout
    assert "http://127.0.0.1:4242/v1" in result.stdout
    for name, model in config.models.items():
        assert f"{name}  " in result.stdout
        assert model.description is not None
        assert model.description in result.stdout
    command = result.stdout[result.stdout.index("curl ") :]
    assert '"model": "qwen2.5-0.5b"' in command
    assert json.loads(command[command.index("'{") + 1 : command.index("}'") + 1])["stream"] is True


def test_the_command_to_copy_chats_with_a_chat_model_not_a_base_model(
    router: FakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(local, "folders", list)
    (tmp_path / "llm-router" / "models").mkdir(parents=True)
    (tmp_path / "llm-router" / "models" / registry.FILE_NAME).touch()
    result = run("demo")
    assert next(iter(router.served[0][0].models)) == "gemma-3-270m"
    assert '"model": "tiny-a"' in result.stdout


def test_demo_notices_a_taken_port_before_it_fetches_anything(
    router: FakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    router.error = ConfigError("cannot listen on 127.0.0.1:8002: Address already in use")
    result = run("demo")
    assert result.exit_code == 1
    assert "Address already in use" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_demo_says_where_it_could_not_write(router: FakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llm-router").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(local, "folders", list)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("demo")
    assert result.exit_code == 1
    assert "XDG_CACHE_HOME" in result.stderr


def test_demo_passes_on_why_it_could_not_write(router: FakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("804352 requested and 192512 written")

    monkeypatch.setattr(demo, "prepare", full)
    result = run("demo")
    assert result.exit_code == 1
    assert "804352 requested and 192512 written; make room there" in result.stderr
