"""vLLM: its two command lines, its share of the memory, where it is polled, what is read back."""

import dataclasses
import json

import pytest

from llm_router.backends.base import Facts, LaunchRequest
from llm_router.backends.vllm import VLLM

FP8 = LaunchRequest(model="qwen", port=20001, path="/m/fp8")
CARD_24 = 24 * 1024


def argv(request: LaunchRequest) -> list[str]:
    return list(VLLM().launch(request, "").argv)


def test_vllm_from_a_path() -> None:
    request = dataclasses.replace(FP8, model_name="org/m", context_length=4096, api_key="k", args=("--x",))
    spec = VLLM().launch(request, "")
    assert spec.argv == (
        *("vllm", "serve", "/m/fp8", "--host", "127.0.0.1", "--port", "20001"),
        *("--served-model-name", "org/m", "--enable-prompt-tokens-details", "--max-model-len", "4096", "--x"),
    )
    assert (spec.readiness.path, spec.stop.grace_s, spec.served_name) == ("/health", 10.0, "org/m")
    assert VLLM().probe(request) is None


def test_a_key_is_not_on_vllms_command_line() -> None:
    spec = VLLM().launch(dataclasses.replace(FP8, api_key="secret"), "")
    assert "secret" not in " ".join(spec.argv)
    assert (spec.env["VLLM_API_KEY"], spec.secrets) == ("secret", ("secret",))


@pytest.mark.parametrize("binary", ["python3", "/opt/vllm/bin/python3.12"])
def test_an_interpreter_runs_the_module(binary: str) -> None:
    start = argv(dataclasses.replace(FP8, binary=binary))[:7]
    assert start == [binary, "-m", "vllm.entrypoints.openai.api_server", "--model", "/m/fp8", "--host", "127.0.0.1"]


def test_elsewhere_a_dead_engine_is_noticed_where_that_can_be_seen() -> None:
    readiness = VLLM().launch(LaunchRequest(model="m", port=0, url="http://gpu:8000"), "").readiness
    assert (readiness.path, readiness.older_path) == ("/health", "/v1/models")


def share_of(request: LaunchRequest) -> float | None:
    words = argv(request)
    return float(words[words.index("--gpu-memory-utilization") + 1]) if "--gpu-memory-utilization" in words else None


@pytest.mark.parametrize(("memory_gib", "share"), [(12, 0.5), (6, 0.25), (24, 0.92)])
def test_a_declared_memory_becomes_its_share(memory_gib: int, share: float) -> None:
    request = dataclasses.replace(FP8, memory_mib=memory_gib * 1024, device_mib=CARD_24)
    assert share_of(request) == pytest.approx(share)
    assert VLLM().claim(request) == pytest.approx(share)


@pytest.mark.parametrize("change", [{"memory_mib": None}, {"device_mib": None}, {"devices": ()}])
def test_no_share_is_made_up(change: dict[str, object]) -> None:
    request = dataclasses.replace(FP8, memory_mib=8192, device_mib=CARD_24)
    assert share_of(dataclasses.replace(request, **change)) is None  # type: ignore[arg-type] # fields of it


@pytest.mark.parametrize("args", [("--gpu-memory-utilization", "0.3"), ("--gpu_memory_utilization=0.3",)])
def test_the_users_own_share_stands(args: tuple[str, ...]) -> None:
    request = dataclasses.replace(FP8, memory_mib=8192, device_mib=CARD_24, args=args)
    assert argv(request)[-len(args) :] == list(args)
    assert sum("utilization" in word for word in argv(request)) == 1
    assert VLLM().claim(request) == 0.3


def test_otherwise_it_takes_nearly_everything() -> None:
    assert VLLM().claim(FP8) == 0.92
    assert VLLM().claim(LaunchRequest(model="m", port=7, script="/s.sh")) == 0.92
    assert VLLM().claim(dataclasses.replace(FP8, devices=())) is None


def test_the_context_is_read_back() -> None:
    listing, version = VLLM().launch(FP8, "").facts
    card = {"id": "qwen", "owned_by": "vllm", "root": "/m/fp8", "max_model_len": 40960, "permission": []}
    assert listing.read(json.dumps({"data": [card]}).encode()) == Facts(context_length=40960, models=("qwen",))
    assert version.call.path == "/version"
    assert version.read(b'{"version":"0.33.0"}') == Facts(build="0.33.0")


def test_what_is_to_be_parked_is_started_with_its_sleep_mode_and_says_whether_it_sleeps() -> None:
    spec = VLLM().launch(FP8, "")
    assert spec.parking is None and "--enable-sleep-mode" not in spec.argv and "VLLM_SERVER_DEV_MODE" not in spec.env
    spec = VLLM().launch(dataclasses.replace(FP8, parks=True), "")
    assert "--enable-sleep-mode" in spec.argv and spec.env["VLLM_SERVER_DEV_MODE"] == "1"
    assert spec.parking is not None and spec.parking.rest is not None
    calls = [(call.method, call.path) for call in (spec.parking.park, spec.parking.wake, spec.parking.rest.call)]
    assert calls == [("POST", "/sleep?level=1"), ("POST", "/wake_up"), ("GET", "/is_sleeping")]
    answers = (b'{"is_sleeping":true}', b'{"is_sleeping":false}', b'{"is_sleeping":1}', b"Not Found")
    assert [spec.parking.rest.read(body) for body in answers] == [True, False, None, None]


def test_one_that_somebody_else_started_is_not_parked() -> None:
    spec = VLLM().launch(LaunchRequest(model="m", port=0, url="http://gpu:8000", parks=True), "")
    assert spec.parking is None
