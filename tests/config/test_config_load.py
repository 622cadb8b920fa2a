"""What a file means once it is loaded: defaults, units, names, paths, environment, and where files are looked for."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest

from llm_router.config import Config, ConfigUnreadable, check, find, load
from llm_router.errors import ConfigError

# The file users of the predecessor have.
MINIMAL = """{
  "router_port": 8002,
  "model_load_timeout": 180,
  "backends": {"sglang": {"port": 30000}, "tabbyapi": {"port": 5000}, "llamacpp": {"port": 8085}},
  "models": {
    "mistral-large-awq":   {"backend": "sglang",   "script": "/path/to/start_mistral.sh",  "service": "sglang.service"},
    "behemoth-123b-iq4nl": {"backend": "llamacpp", "script": "/path/to/start_behemoth.sh", "service": "llamacpp.service"},
    "some-exl-model":      {"backend": "tabbyapi", "service": "tabbyapi.service", "model_name": "Dir-Of-The-Model"}
  }
}
"""  # noqa: E501
ONE_LINE = '{"models": {"qwen": {"backend": "llamacpp", "path": "/models/qwen.gguf"}}}'


def written(folder: Path, content: str, name: str = "router_config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def one_model(**keys: object) -> Config:
    return Config.model_validate({"models": {"m": {"backend": "openai", "url": "http://x", **keys}}})


def test_the_minimal_file_loads_as_it_is(tmp_path: Path) -> None:
    config = load(written(tmp_path, MINIMAL), kinds={"sglang", "llamacpp", "tabbyapi"})
    assert (config.host, config.router_port, config.model_load_timeout) == ("127.0.0.1", 8002, 180.0)
    assert config.backend_config("tabbyapi").port == 5000
    assert config.backend_config("vllm").port is None
    assert config.models["mistral-large-awq"].script == "/path/to/start_mistral.sh"
    assert config.models["mistral-large-awq"].service == "sglang.service"
    assert config.models["some-exl-model"].model_name == "Dir-Of-The-Model"


def test_one_line_is_a_complete_file_with_safe_defaults(tmp_path: Path) -> None:
    config = load(written(tmp_path, ONE_LINE))
    assert config.models["qwen"].path == "/models/qwen.gguf"
    assert (config.host, config.allow_insecure) == ("127.0.0.1", False)
    assert (config.patience, config.drain_timeout, config.response_timeout) == (10.0, 120.0, 600.0)
    assert (config.queue_limit, config.max_body) == (256, 64 * 1024**2)
    assert (config.status, config.performance_line, config.on_exit) == ("auto", "auto", "stop")


def test_yaml_says_the_same_with_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "# comment\nidle_timeout: 10m\nstatus: off\nmodels:\n  qwen:\n    backend: llamacpp\n    path: /models/q.gguf\n"
        "    env: {CUDA_VISIBLE_DEVICES: 0}\n",
        "router_config.yaml",
    )
    config = load(path)
    assert (config.idle_timeout, config.status) == (600.0, "off")
    assert config.models["qwen"].env == {"CUDA_VISIBLE_DEVICES": "0"}
    written(tmp_path, "models:\n  a:\n    backend: openai\n    url: http://x\n    pined: true\n", "bad.yaml")
    (problem,) = check(tmp_path / "bad.yaml")
    assert (problem.line, problem.key, problem.remedy) == (5, "models.a.pined", 'did you mean "pinned"?')


def test_the_example_that_ships_is_valid() -> None:
    assert check(Path(__file__).parents[2] / "config" / "router_config.example.json", files=False) == []


def test_units_are_understood() -> None:
    config = Config.model_validate(
        {
            "models": {"m": {"backend": "openai", "url": "http://x", "memory": "22GiB", "load_timeout": "3m"}},
            "memory": "96GiB",
            "max_body": "1MB",
            "patience": 2.5,
            "drain_timeout": "90",
        }
    )
    assert (config.memory, config.models["m"].memory) == (96 * 1024, 22 * 1024)
    assert (config.max_body, config.patience, config.drain_timeout) == (1_000_000, 2.5, 90.0)
    assert config.load_timeout_s("m") == 180.0


def test_a_model_falls_back_to_what_is_set_for_all() -> None:
    config = Config.model_validate(
        {
            "model_load_timeout": 60,
            "idle_timeout": "10m",
            "models": {
                "plain": {"backend": "openai", "url": "http://x"},
                "own": {"backend": "openai", "url": "http://x", "idle_timeout": 5, "load_timeout": 7},
                "kept": {"backend": "openai", "url": "http://x", "idle_timeout": "never"},
            },
        }
    )
    assert [config.idle_timeout_s(name) for name in ("plain", "own", "kept")] == [600.0, 5.0, None]
    assert [config.load_timeout_s(name) for name in ("plain", "own")] == [60.0, 7.0]
    assert one_model().idle_timeout_s("m") is None


def test_aliases_lead_to_the_model() -> None:
    config = one_model(aliases=["gpt-4o", "default"])
    assert [config.canonical(name) for name in ("m", "gpt-4o", "default")] == ["m", "m", "m"]
    assert config.canonical("M") is None


def test_command_lines_are_lists_or_text() -> None:
    both = {"models": {"m": {"backend": "openai", "command": "run --port ${PORT} 'two words'", "args": ["-t", 1]}}}
    model = Config.model_validate(both).models["m"]
    assert model.command == ("run", "--port", "${PORT}", "two words")
    assert model.args == ("-t", "1")
    assert one_model(devices=[0, "GPU-1"]).models["m"].devices == ("0", "GPU-1")


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("bge-m3", {}, ("embedding",)),
        ("multilingual-e5-small", {}, ("embedding",)),
        ("bge-reranker-v2", {}, ("rerank",)),
        ("vectors", {"model_name": "all-MiniLM-L6-v2"}, ("embedding",)),
        ("nomic-embed-text", {"capabilities": ["chat"]}, ("chat",)),
        ("vectors", {"capabilities": ["embedding"]}, ("embedding",)),
        ("qwen", {}, ()),
        ("page5", {}, ()),
    ],
)
def test_embedding_and_rerank_models_are_helpers(name: str, keys: dict[str, object], expected: tuple[str, ...]) -> None:
    config = Config.model_validate({"models": {name: {"backend": "openai", "url": "http://x", **keys}}})
    assert config.capabilities_of(name) == expected
    assert config.is_helper(name) == (bool(expected) and expected != ("chat",))


def test_a_folder_called_embeddings_makes_no_helper() -> None:
    config = Config.model_validate({"models": {"m": {"backend": "llamacpp", "path": "/embeddings/chat.gguf"}}})
    assert not config.is_helper("m")


def test_environment_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_TABBY", "s3cret")
    monkeypatch.setenv("MY_PORT", "9000")
    monkeypatch.setenv("PORT", "1")
    path = written(
        tmp_path,
        """{"router_port": "${MY_PORT}", "backends": {"tabbyapi": {"api_key": "${KEY_OF_TABBY}"}}, "models": {
        "a": {"backend": "openai", "command": ["x-${KEY_OF_TABBY}", "${PORT}", "${MODEL}"], "env": {"P": "${HOST}"}},
        "b": {"backend": "openai", "url": "http://x:${PORT}"},
        "c": {"backend": "openai", "url": "http://x", "description": "on ${PORT}"}}}""",
    )
    config = load(path)
    key = config.backend_config("tabbyapi").api_key
    assert key is not None
    assert key.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(config.backends)
    assert config.router_port == 9000
    assert config.models["a"].command == ("x-s3cret", "${PORT}", "${MODEL}")
    assert config.models["a"].env == {"P": "${HOST}"}
    assert config.models["b"].url == ("http://x:${PORT}",)
    assert config.models["c"].description == "on 1"


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.gguf", "m/b.gguf"):
        written((tmp_path / name).parent, "GGUF", Path(name).name)
    path = written(
        tmp_path,
        """{"models": {"a": {"backend": "llamacpp", "path": "a.gguf"}, "b": {"backend": "llamacpp", "path": "m/b.gguf"},
        "c": {"backend": "llamacpp", "path": "~/m/b.gguf"}, "d": {"backend": "llamacpp", "path": "m/none.gguf"},
        "e": {"backend": "vllm", "path": "Qwen/Qwen2.5"}}}""",
    )
    models = load(path).models
    assert [models[name].path for name in "abcd"] == [
        str(tmp_path / name) for name in ("a.gguf", "m/b.gguf", "m/b.gguf", "m/none.gguf")
    ]
    assert models["e"].path == "Qwen/Qwen2.5"


def test_a_reachable_host_needs_consent_also_on_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, ONE_LINE)
    with pytest.raises(ConfigError, match="allow_insecure"):
        load(path, overrides={"host": "0.0.0.0"})
    assert load(path, overrides={"host": "0.0.0.0", "allow_insecure": True}).host == "0.0.0.0"
    assert load(path, overrides={"host": "::1", "router_port": 9}).router_port == 9


def test_a_configuration_built_in_code_obeys_the_same_rules() -> None:
    with pytest.raises(pydantic.ValidationError, match="how the model starts"):
        Config.model_validate({"models": {"m": {"backend": "openai"}}})
    with pytest.raises(pydantic.ValidationError, match="no model"):
        Config.model_validate(
            {
                "groups": {"big": {"models": ["m", "n"], "together": "never"}},
                "models": {"m": {"backend": "openai", "url": "http://x"}},
            }
        )


def test_an_editor_may_name_the_schema(tmp_path: Path) -> None:
    assert check(written(tmp_path, '{"$schema": "config.schema.json", ' + ONE_LINE[1:]), files=False) == []


def test_the_file_is_looked_for_here_then_the_users_then_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "system"))
    monkeypatch.setattr(sys.modules[check.__module__], "_SYSTEM", tmp_path / "etc")  # this machine may have one
    with pytest.raises(ConfigUnreadable) as raised:
        find()
    for place in ("config/router_config.json", "user/llm-router", "system/llm-router", "/etc"):
        assert place in raised.value.message
    system = written(tmp_path / "system" / "llm-router", ONE_LINE, "router_config.yaml")
    assert find() == system
    user = written(tmp_path / "user" / "llm-router", ONE_LINE)
    assert find() == user
    written(tmp_path / "config", ONE_LINE, "router_config.yml")
    assert find() == Path("config/router_config.yml")
    assert find(Path("other.json")) == Path("other.json")


def test_state_goes_where_it_was_told_else_to_systemds_folder_else_to_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert one_model().state_folder == tmp_path / "llm-router"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/llm-router")
    assert one_model().state_folder == Path("/var/lib/llm-router")
    told = {"state_dir": "/data", "models": {"m": {"backend": "openai", "url": "http://x"}}}
    assert Config.model_validate(told).state_folder == Path("/data")


def test_what_is_asked_by_hand_with_the_machines_configuration_is_asked_of_its_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_module = sys.modules[check.__module__]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(load_module, "_SYSTEM", tmp_path / "etc")
    monkeypatch.setattr(load_module, "_SYSTEM_STATE", tmp_path / "var")
    machines, other = written(tmp_path / "etc", ONE_LINE), written(tmp_path / "elsewhere", ONE_LINE)
    assert load(machines).state_folder == tmp_path / "mine" / "llm-router", "no service was ever installed"
    (tmp_path / "var").mkdir()
    assert load(machines).state_folder == tmp_path / "var"
    assert load(other).state_folder == tmp_path / "mine" / "llm-router"
    assert load(machines, overrides={"state_dir": "/data"}).state_folder == Path("/data")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/another")
    assert load(machines).state_folder == Path("/var/lib/another"), "a service's own word goes before"


def test_where_one_may_not_look_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "stat", refusing(Path.stat))
    with pytest.raises(ConfigUnreadable, match=r"cannot look for config/router_config\.json: Permission denied"):
        find()


def refusing(stat: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    """As a closed folder does for everyone but root."""

    def refused(path: Path, **options: bool) -> os.stat_result:
        if path.parent.name == "config":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    return refused


def test_what_can_be_parked_is_parked_unless_it_says_otherwise() -> None:
    plain = {"path": "/m"}
    config = Config.model_validate(
        {
            "park_after": "5m",
            "models": {
                "plain": {"backend": "vllm", **plain},
                "own": {"backend": "sglang", **plain, "park_after": 7},
                "never": {"backend": "vllm", **plain, "park_after": "never"},
                "cannot": {"backend": "llamacpp", **plain},
                "elsewhere": {"backend": "vllm", "url": "http://x"},
            },
        }
    )
    assert [config.park_after_s(name) for name in config.models] == [300.0, 7.0, None, None, None]
