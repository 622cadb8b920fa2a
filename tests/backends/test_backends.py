"""What every backend does alike: the forms of starting, urls, the registry."""

import subprocess
import sys
from pathlib import Path

import pytest

from llm_router.backends import registry
from llm_router.backends.base import Address, Backend, Facts, LaunchRequest
from llm_router.backends.command import fraction, is_python, option, parse_url
from llm_router.backends.llamacpp import LlamaCpp
from llm_router.backends.openai import OpenAI
from llm_router.backends.sglang import SGLang
from llm_router.backends.tabbyapi import TabbyAPI, TabbyAPIExl2
from llm_router.backends.vllm import VLLM
from llm_router.errors import LaunchError

BACKENDS: list[Backend] = [LlamaCpp(), OpenAI(), SGLang(), TabbyAPI(), TabbyAPIExl2(), VLLM()]


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

    def test_knows_equal_endpoints(self, backend: Backend) -> None:
        urls = ("http://a:1", "http://b:2/v1", "http://a:1/v1", "http://c/x")
        spec = backend.launch(LaunchRequest(model="m", port=0, url="http://a:1", urls=urls), "")
        assert spec.address == Address(host="a", port=1)
        others = (Address(host="b", port=2), Address(host="c", port=80, base_path="/x"))
        assert spec.alternatives == others  # the first is the address, and named twice is one

    def test_runs_in_the_configured_folder(self, backend: Backend) -> None:
        request = LaunchRequest(model="m", port=7, script="/s.sh", directory="/opt/tabby")
        assert backend.launch(request, "").directory == "/opt/tabby"

    def test_hides_every_gpu_where_none_may_be_used(self, backend: Backend) -> None:
        spec = backend.launch(LaunchRequest(model="m", port=7, script="/s.sh", devices=()), "")
        assert spec.env["CUDA_VISIBLE_DEVICES"] == ""

    def test_leaves_the_gpus_alone_where_nothing_is_said_of_them(self, backend: Backend) -> None:
        spec = backend.launch(LaunchRequest(model="m", port=7, script="/s.sh"), "")
        assert "CUDA_VISIBLE_DEVICES" not in spec.env

    def test_names_its_keys_as_secrets(self, backend: Backend) -> None:
        request = LaunchRequest(model="m", port=7, script="/s.sh", api_key="k", admin_key="a")
        assert set(backend.launch(request, "").secrets) == {"k", "a"}
        assert backend.launch(LaunchRequest(model="m", port=7, script="/s.sh"), "").secrets == ()

    def test_asks_for_facts_with_its_key_and_is_not_confused_by_the_answer(self, backend: Backend) -> None:
        inquiries = backend.launch(LaunchRequest(model="m", port=7, script="/s.sh", api_key="k"), "").facts
        assert inquiries
        for inquiry in inquiries:
            assert inquiry.call.method == "GET"
            assert inquiry.call.headers == (("Authorization", "Bearer k"),)
            assert inquiry.read(b"<html>not here</html>") == Facts()

    def test_claims_nothing_for_what_runs_elsewhere(self, backend: Backend) -> None:
        assert backend.claim(LaunchRequest(model="m", port=0, url="http://gpu:9000", device_mib=24576)) is None

    def test_a_service_is_started_as_it_is(self, backend: Backend) -> None:
        spec = backend.launch(LaunchRequest(model="m", port=7, service="m.service"), "")
        assert (spec.service, spec.argv, spec.address.port) == ("m.service", (), 7)

    def test_a_service_with_a_script_runs_that(self, backend: Backend) -> None:
        spec = backend.launch(LaunchRequest(model="m", port=7, service="m", script="/s.sh", env={"A": "1"}), "")
        assert (spec.service, spec.argv) == ("m", ("/s.sh",))
        assert {"PORT": "7", "MODEL": "m", "A": "1"}.items() <= spec.env.items()


def test_a_path_is_refused_where_no_command_is_known() -> None:
    with pytest.raises(LaunchError, match=r'cannot start m: .*use "command", "script" or "url"'):
        OpenAI().launch(LaunchRequest(model="m", port=7, path="/m"), "")


def test_a_remote_endpoint_is_asked_for_its_models() -> None:
    request = LaunchRequest(model="gpt", port=0, url="https://api.example.com/v1", model_name="gpt-x")
    spec = OpenAI().launch(request, "")
    assert (spec.readiness.path, spec.served_name) == ("/v1/models", "gpt-x")
    facts = spec.facts[0].read(b'{"data":[{"id":"gpt-y","context_length":1},{"id":"gpt-x","context_length":8192}]}')
    assert facts == Facts(context_length=8192, models=("gpt-y", "gpt-x"))


def test_a_server_without_a_health_path_is_asked_for_its_models_with_its_key() -> None:
    readiness = OpenAI().launch(LaunchRequest(model="m", port=7, command=("serve",), api_key="k"), "").readiness
    assert (readiness.path, readiness.older_path) == ("/health", "/v1/models")
    assert readiness.headers == (("Authorization", "Bearer k"),)


@pytest.mark.parametrize("form", [{"script": "/s.sh"}, {"url": "http://gpu:9000"}])
def test_a_configured_readiness_path_stands_alone(form: dict[str, str]) -> None:
    request = LaunchRequest(model="m", port=7, ready_path="/up", **form)  # type: ignore[arg-type] # one of the forms
    for backend in BACKENDS:
        assert backend.launch(request, "").readiness.older_path is None


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
    ("words", "value"),
    [
        (("--share", "0.5"), "0.5"),
        (("--share=0.5",), "0.5"),
        (("--share=0.5", "--share", "0.6"), "0.6"),
        (("--other", "1"), None),
        (("--share",), ""),
        (("--shared", "1"), None),
    ],
)
def test_an_option_of_the_user_is_found_on_the_command_line(words: tuple[str, ...], value: str | None) -> None:
    assert option(LaunchRequest(model="m", port=7, path="/m", args=words), "--share") == value
    assert option(LaunchRequest(model="m", port=7, command=("run", *words)), "--share") == value


def test_an_option_may_be_written_with_underscores() -> None:
    request = LaunchRequest(model="m", port=7, path="/m", args=("--gpu_memory_utilization=0.5",))
    assert option(request, "--gpu-memory-utilization") == "0.5"


@pytest.mark.parametrize(
    ("value", "share"), [("0.5", 0.5), ("1", 1.0), ("0", None), ("1.5", None), ("x", None), ("nan", None), (None, None)]
)
def test_a_share_is_a_number_up_to_one(value: str | None, share: float | None) -> None:
    assert fraction(value) == share


@pytest.mark.parametrize(
    ("binary", "is_it"),
    [("python", True), ("/opt/v/bin/python3.12", True), ("/opt/python3/bin/vllm", False), ("pythonic", False)],
)
def test_an_interpreter_is_known_by_its_name(binary: str, is_it: bool) -> None:
    assert is_python(binary) is is_it


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
