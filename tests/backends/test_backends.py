"""The exact command lines, environments and habits that each backend describes."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from llm_router.backends import registry
from llm_router.backends.base import Address, Backend, LaunchRequest, LaunchSpec, Loading, Ready, Signal
from llm_router.backends.command import parse_url
from llm_router.backends.llamacpp import LlamaCpp
from llm_router.backends.openai import OpenAI
from llm_router.backends.sglang import SGLang
from llm_router.backends.signals import read_llamacpp, read_safetensors
from llm_router.backends.tabbyapi import TabbyAPI
from llm_router.backends.vllm import VLLM
from llm_router.errors import LaunchError

GGUF = LaunchRequest(model="qwen", port=20001, path="/m/q.gguf")
SERVER = dataclasses.replace(GGUF, binary="/opt/llama-server")

NEW_HELP = """
--fit,   -fit [on|off]                  whether to adjust unset arguments to fit in device memory
--fit-ctx, -fitc N                      minimum ctx size that can be set by --fit option
--jinja, --no-jinja                     whether to use jinja template engine for chat (default: enabled)
--ui, --no-ui, --webui, --no-webui      whether to serve the UI
--sse-ping-interval N                   server-sent events ping interval in seconds
"""
OLD_HELP = """
-m,    --model FNAME                    model path
--jinja                                 use jinja template for chat (default: disabled)
--no-webui                              Disable the Web UI (default: enabled)
"""
FIT_WITHOUT_FLOOR = "-fit,  --fit [on|off]   whether to adjust unset arguments"


def test_the_server_in_the_package_is_used_where_no_other_is_configured() -> None:
    spec = LlamaCpp(embedded=("py", "-m", "engine")).launch(GGUF, "")
    assert spec.argv == (
        *("py", "-m", "engine", "-m", "/m/q.gguf", "--host", "127.0.0.1", "--port", "20001", "--alias", "qwen"),
        *("--sse-ping-interval", "1"),
    )
    assert spec.address == Address(host="127.0.0.1", port=20001)
    assert spec.env["LLAMA_SERVER_ROUTER_PORT"] == "20001"
    assert spec.readiness.path == "/health"
    assert spec.stop.second_term
    assert LlamaCpp().probe(GGUF) is None
    assert LlamaCpp().launch(GGUF, "").argv[0] == sys.executable


@pytest.mark.parametrize(
    ("help_text", "context", "more"),
    [
        (NEW_HELP, None, ["--jinja", "--no-ui", "--sse-ping-interval", "1"]),
        (NEW_HELP, 8192, ["-c", "8192", "--jinja", "--no-ui", "--sse-ping-interval", "1", "--fit-ctx", "8192"]),
        (OLD_HELP, 8192, ["-c", "8192", "--jinja", "--no-webui"]),
        (FIT_WITHOUT_FLOOR, 8192, ["-c", "8192", "--fit", "off"]),
        ("", 8192, ["-c", "8192"]),
    ],
)
def test_a_llama_server_gets_only_the_options_its_help_shows(
    help_text: str, context: int | None, more: list[str]
) -> None:
    assert LlamaCpp().probe(SERVER) == ("/opt/llama-server", "--help")
    request = dataclasses.replace(SERVER, context_length=context, args=("-ngl", "20"))
    start = ["/opt/llama-server", "-m", "/m/q.gguf", "--host", "127.0.0.1", "--port", "20001", "--alias", "qwen"]
    assert list(LlamaCpp().launch(request, help_text).argv) == [*start, *more, "-ngl", "20"]


@pytest.mark.parametrize(("capability", "flag"), [("embedding", "--embeddings"), ("rerank", "--rerank")])
def test_llamacpp_is_told_what_a_model_is_for(capability: str, flag: str) -> None:
    plain = LlamaCpp().launch(GGUF, "").argv
    assert flag not in plain
    assert flag in LlamaCpp().launch(dataclasses.replace(GGUF, capabilities=(capability,)), "").argv


def test_a_key_is_not_on_llamacpps_command_line() -> None:
    spec = LlamaCpp().launch(dataclasses.replace(GGUF, api_key="secret"), "")
    assert "secret" not in " ".join(spec.argv)
    assert (spec.env["LLAMA_API_KEY"], spec.credential) == ("secret", "secret")


def test_a_script_for_llamacpp_is_not_put_under_the_child_protocol() -> None:
    spec = LlamaCpp().launch(LaunchRequest(model="q", port=8085, script="/s.sh"), "")
    assert "LLAMA_SERVER_ROUTER_PORT" not in spec.env
    assert spec.stop.second_term


def test_sglang_from_a_path() -> None:
    request = LaunchRequest(
        model="mistral", port=30000, path="/m/awq", context_length=4096, api_key="k", args=("--tp-size", "2")
    )
    spec = SGLang().launch(request, "")
    assert spec.argv == (
        *("sglang", "serve", "--model-path", "/m/awq", "--host", "127.0.0.1", "--port", "30000"),
        *("--served-model-name", "mistral", "--context-length", "4096", "--api-key", "k", "--tp-size", "2"),
    )
    assert (spec.readiness.path, spec.stop.grace_s, spec.served_name) == ("/ready", 30.0, "mistral")


def test_vllm_from_a_path() -> None:
    request = LaunchRequest(
        model="m", model_name="org/m", port=20001, path="/m/fp8", context_length=4096, api_key="k", args=("--x",)
    )
    spec = VLLM().launch(request, "")
    assert spec.argv == (
        *("vllm", "serve", "/m/fp8", "--host", "127.0.0.1", "--port", "20001"),
        *("--served-model-name", "org/m", "--max-model-len", "4096", "--x"),
    )
    assert (spec.readiness.path, spec.stop.grace_s, spec.served_name) == ("/health", 10.0, "org/m")
    assert spec.env["VLLM_API_KEY"] == "k"


def test_tabbyapi_is_ready_when_its_model_is_and_asks_for_the_key() -> None:
    request = LaunchRequest(model="exl", port=5000, script="/s.sh", model_name="Dir-Of-The-Model", api_key="k")
    spec = TabbyAPI().launch(request, "")
    assert spec.readiness.path == "/v1/model"
    assert spec.readiness.headers == (("Authorization", "Bearer k"),)
    assert spec.served_name == "Dir-Of-The-Model"
    assert spec.stop.grace_s == 10.0


BACKENDS = [LlamaCpp(), OpenAI(), SGLang(), TabbyAPI(), VLLM()]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.kind)
class TestEveryBackend:
    def test_fills_in_a_command(self, backend: Backend) -> None:
        command = ("run", "--port=${PORT}", "${MODEL}", "-h", "${HOST}", "${OTHER}", "$PORT")
        request = LaunchRequest(
            model="m", port=7, command=command, args=("--name", "${MODEL}"), env={"A": "1"}, devices=("0", "2")
        )
        spec = backend.launch(request, "")
        assert spec.argv == ("run", "--port=7", "m", "-h", "127.0.0.1", "${OTHER}", "$PORT", "--name", "m")
        given = {"PORT": "7", "MODEL": "m", "HOST": "127.0.0.1", "A": "1"}
        assert spec.env.items() >= given.items()
        assert (spec.env["CUDA_VISIBLE_DEVICES"], spec.env["CUDA_DEVICE_ORDER"]) == ("0,2", "PCI_BUS_ID")
        assert backend.probe(request) is None

    def test_lets_the_models_environment_win(self, backend: Backend) -> None:
        env = {"PORT": "9", "CUDA_VISIBLE_DEVICES": "7", "PYTHONUNBUFFERED": ""}
        spec = backend.launch(LaunchRequest(model="m", port=7, script="/s.sh", env=env, devices=("0",)), "")
        assert spec.argv == ("/s.sh",)
        assert spec.env.items() >= env.items()

    def test_uses_the_configured_readiness_path(self, backend: Backend) -> None:
        request = LaunchRequest(model="m", port=7, script="/s.sh", ready_path="/up")
        assert backend.launch(request, "").readiness.path == "/up"

    def test_starts_nothing_for_a_url(self, backend: Backend) -> None:
        request = LaunchRequest(model="m", port=0, url="http://gpu:9000/v1", api_key="k")
        spec = backend.launch(request, "")
        assert spec.argv == ()
        assert spec.address == Address(host="gpu", port=9000)
        assert spec.readiness.headers == (("Authorization", "Bearer k"),)
        assert spec.credential == "k"

    def test_says_what_to_write_instead_of_a_service(self, backend: Backend) -> None:
        with pytest.raises(LaunchError, match=r'cannot start m: .* use "script" or "command"'):
            backend.launch(LaunchRequest(model="m", port=7, service="m.service"), "")


@pytest.mark.parametrize("backend", [OpenAI(), TabbyAPI()], ids=lambda backend: backend.kind)
def test_a_path_is_refused_where_no_command_is_known(backend: Backend) -> None:
    with pytest.raises(LaunchError, match=r'cannot start m: .*use "command", "script" or "url"'):
        backend.launch(LaunchRequest(model="m", port=7, path="/m"), "")


def remote(request: LaunchRequest) -> LaunchSpec:
    return OpenAI().launch(request, "")


def test_a_remote_endpoint_is_asked_for_its_models() -> None:
    request = LaunchRequest(model="gpt", port=0, url="https://api.example.com/v1", model_name="gpt-x")
    assert (remote(request).readiness.path, remote(request).served_name) == ("/v1/models", "gpt-x")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://gpu:9000", Address(host="gpu", port=9000)),
        ("http://gpu/", Address(host="gpu", port=80)),
        ("https://api.example.com/v1", Address(host="api.example.com", port=443, tls=True)),
        ("https://h/openai/v1/", Address(host="h", port=443, tls=True, base_path="/openai")),
        ("http://[::1]:81/api", Address(host="::1", port=81, base_path="/api")),
    ],
)
def test_a_url_is_where_the_v1_paths_begin(url: str, address: Address) -> None:
    assert parse_url("m", url) == address


@pytest.mark.parametrize("url", ["gpu:9000", "ftp://gpu", "http://", "http://gpu:port", "http://[::1"])
def test_what_is_no_url_is_told_so(url: str) -> None:
    with pytest.raises(LaunchError, match=r'cannot reach m .*write it as "http://host:port"'):
        parse_url("m", url)


@pytest.mark.parametrize(
    ("rest", "signal"),
    [
        ('{"state":"loading","payload":{"stages":["text_model"],"current":"text_model","value":0.33}}',
         Loading(fraction=0.33, stage="text_model")),
        ('{"state":"loading","payload":{"stages":[],"current":"b","value":1}}', Loading(fraction=1.0, stage="b")),
        ('{"state":"loading","payload":{"stage":"mmproj_model"}}', Loading(stage="mmproj_model")),
        ('{"state":"loading","payload":{"current":"text_model","value":7}}', Loading(stage="text_model")),
        ('{"state":"loading","payload":{"current":["x"],"value":true}}', Loading()),
        ('{"state":"loading","payload":null}', None),
        ('{"state":"ready","payload":{"id":"q"}}', Ready()),
        ('{"state":"ready","payload":null}', Ready()),
        ('{"state":"sleeping","payload":{}}', None),
        ('{"state":"downloading","payload":{"url":"x","downloaded":1,"total":2}}', None),
        ("[]", None),
        ("{", None),
    ],
)  # fmt: skip
def test_llamacpps_child_lines(rest: str, signal: Signal | None) -> None:
    assert read_llamacpp("cmd_child_to_router:state:" + rest) == signal


def test_other_lines_mean_nothing_to_llamacpp() -> None:
    assert read_llamacpp('state:{"state":"ready"}') is None


@pytest.mark.parametrize(
    ("line", "signal"),
    [
        ("Loading safetensors checkpoint shards:  25% Completed | 1/4", Loading(fraction=0.25, stage="weights")),
        ("(W pid=7) Loading safetensors checkpoint shards: 100% Completed", Loading(fraction=1.0, stage="weights")),
        ("Model loading took 7 GiB memory", None),
    ],
)  # fmt: skip
def test_the_progress_of_safetensors(line: str, signal: Signal | None) -> None:
    assert read_safetensors(line) == signal


def test_all_backends_are_registered_under_their_kind() -> None:
    assert {kind: backend.kind for kind, backend in registry.load().items()}.items() >= {
        (backend.kind, backend.kind) for backend in BACKENDS
    }


def test_a_broken_backend_of_someone_else_costs_a_warning_and_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[llm_router.backends]\nbroken = no.such.module:Thing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = registry.load()
    assert "broken" not in found
    assert "llamacpp" in found
    assert "cannot load the backend broken" in caplog.text


def test_loading_the_backends_loads_no_machinery() -> None:
    """They are pure: no event loop, no process control."""
    code = "import sys, llm_router.backends.llamacpp, llm_router.backends.vllm; print({'asyncio','subprocess'} & set(sys.modules))"  # noqa: E501
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
