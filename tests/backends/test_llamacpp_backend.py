"""llama.cpp: its command line for each build, its environment, its stop, what is read back."""

import dataclasses
import json
import sys

import pytest

from llm_router.backends.base import Address, Facts, LaunchRequest
from llm_router.backends.llamacpp import LlamaCpp

GGUF = LaunchRequest(model="qwen", port=20001, path="/m/q.gguf")
SERVER = dataclasses.replace(GGUF, binary="/opt/llama-server")
START = ["/opt/llama-server", "-m", "/m/q.gguf", "--host", "127.0.0.1", "--port", "20001", "--alias", "qwen"]

# Lines of `llama-server --help`, b11434, and of a build from before --fit.
NEW_HELP = """
-dev,  --device <dev1,dev2,..>          comma-separated list of devices to use for offloading (none = don't offload)
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM, either an exact number,
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory ('on' or 'off')
-fitc, --fit-ctx N                      minimum ctx size that can be set by --fit option, default: 4096
--jinja, --no-jinja                     whether to use jinja template engine for chat (default: enabled)
--ui, --no-ui, --webui, --no-webui      whether to serve the UI
--sse-ping-interval N                   server-sent events ping interval in seconds
"""
OLD_HELP = """
-m,    --model FNAME                    model path
-ngl,  --gpu-layers, --n-gpu-layers N   number of layers to store in VRAM
--jinja                                 use jinja template for chat (default: disabled)
--no-webui                              Disable the Web UI (default: enabled)
"""


def argv(request: LaunchRequest, help_text: str = NEW_HELP) -> list[str]:
    return list(LlamaCpp().launch(request, help_text).argv)


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
    assert spec.stop.farewell == ""
    assert LlamaCpp().probe(GGUF) is None
    assert LlamaCpp().launch(GGUF, "").argv[0] == sys.executable


@pytest.mark.parametrize(
    ("help_text", "context", "more"),
    [
        (NEW_HELP, None, ["--jinja", "--no-ui", "--sse-ping-interval", "1", "--fit-ctx", "8192"]),
        (NEW_HELP, 4096, ["-c", "4096", "--jinja", "--no-ui", "--sse-ping-interval", "1"]),
        (OLD_HELP, 8192, ["-c", "8192", "--jinja", "--no-webui", "--n-gpu-layers", "999"]),
        ("", 8192, ["-c", "8192"]),
    ],
)
def test_a_llama_server_gets_only_the_options_its_help_shows(
    help_text: str, context: int | None, more: list[str]
) -> None:
    assert LlamaCpp().probe(SERVER) == ("/opt/llama-server", "--help")
    request = dataclasses.replace(SERVER, context_length=context, args=("-ngl", "20"))
    assert argv(request, help_text) == [*START, *more, "-ngl", "20"]


@pytest.mark.parametrize(
    ("request_", "help_text", "words"),
    [
        (SERVER, NEW_HELP, ["--device", "none"]),
        (SERVER, OLD_HELP, ["-ngl", "0"]),
        (GGUF, "", ["-ngl", "0"]),
    ],
)
def test_without_a_gpu_no_layer_goes_to_one(request_: LaunchRequest, help_text: str, words: list[str]) -> None:
    on_cpu = argv(dataclasses.replace(request_, devices=()), help_text)
    assert on_cpu[on_cpu.index(words[0]) :][:2] == words
    assert "999" not in on_cpu
    assert words[0] not in argv(dataclasses.replace(request_, devices=("0",)), help_text)


def test_a_declared_memory_is_not_made_a_margin_of_what_happens_to_be_free() -> None:
    assert "--fit-target" not in argv(dataclasses.replace(SERVER, memory_mib=8192, device_mib=24576), NEW_HELP)


@pytest.mark.parametrize(("capability", "flag"), [("embedding", "--embeddings"), ("rerank", "--rerank")])
def test_llamacpp_is_told_what_a_model_is_for(capability: str, flag: str) -> None:
    assert flag not in argv(GGUF)
    assert flag in argv(dataclasses.replace(GGUF, capabilities=(capability,)))


def test_a_key_is_not_on_llamacpps_command_line() -> None:
    spec = LlamaCpp().launch(dataclasses.replace(GGUF, api_key="secret"), "")
    assert "secret" not in " ".join(spec.argv)
    assert (spec.env["LLAMA_API_KEY"], spec.credential) == ("secret", "secret")


def test_a_script_for_llamacpp_is_not_put_under_the_child_protocol() -> None:
    spec = LlamaCpp().launch(LaunchRequest(model="q", port=8085, script="/s.sh"), "")
    assert "LLAMA_SERVER_ROUTER_PORT" not in spec.env
    assert spec.stop.farewell == ""


def test_a_llama_server_is_told_to_go_then_gets_a_second_signal() -> None:
    stop = LlamaCpp().launch(SERVER, NEW_HELP).stop
    assert (stop.farewell, stop.grace_s, stop.second_term) == ("cmd_router_to_child:exit", 0.5, True)


def test_llamacpp_takes_what_its_model_needs() -> None:
    assert LlamaCpp().claim(dataclasses.replace(GGUF, device_mib=24576)) is None


@pytest.mark.parametrize("form", [GGUF, SERVER, LaunchRequest(model="qwen", port=0, url="http://gpu:8080")])
def test_the_real_context_and_the_slots_are_read_back(form: LaunchRequest) -> None:
    listing, props = LlamaCpp().launch(form, NEW_HELP).facts
    assert (listing.call.path, props.call.path) == ("/v1/models", "/props")
    # b11434 with -c 1024 -np 2
    entry = {"id": "qwen", "aliases": ["qwen"], "owned_by": "llamacpp", "meta": {"n_ctx": 512, "n_ctx_train": 2048}}
    assert listing.read(json.dumps({"data": [entry]}).encode()) == Facts(context_length=512, models=("qwen",))
    body = {"default_generation_settings": {"n_ctx": 512}, "total_slots": 2, "build_info": "b11434-x"}
    assert props.read(json.dumps(body).encode()) == Facts(context_length=512, slots=2, build="b11434-x")


def test_of_a_server_with_several_models_the_one_asked_for_counts() -> None:
    request = LaunchRequest(model="q", model_name="big", port=0, url="http://gpu:8080")
    entries = [{"id": "small", "meta": {"n_ctx": 1}}, {"id": "x", "aliases": ["big"], "meta": {"n_ctx": 9}}]
    facts = LlamaCpp().launch(request, "").facts[0].read(json.dumps({"data": entries}).encode())
    assert facts == Facts(context_length=9, models=("small", "x", "big"))
