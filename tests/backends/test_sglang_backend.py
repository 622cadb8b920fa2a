"""SGLang: its two command lines, its share of the memory, readiness without generating, a bounded stop."""

import dataclasses
import json

import pytest

from llm_router.backends.base import Facts, LaunchRequest
from llm_router.backends.sglang import SGLang

AWQ = LaunchRequest(model="mistral", port=30000, path="/m/awq")
CARD_24 = 24 * 1024


def argv(request: LaunchRequest) -> list[str]:
    return list(SGLang().launch(request, "").argv)


def test_sglang_from_a_path() -> None:
    request = dataclasses.replace(AWQ, context_length=4096, api_key="k", args=("--tp-size", "2"))
    spec = SGLang().launch(request, "")
    assert spec.argv == (
        *("sglang", "serve", "--model-path", "/m/awq", "--host", "127.0.0.1", "--port", "30000"),
        *("--served-model-name", "mistral", "--enable-cache-report", "--context-length", "4096", "--api-key", "k"),
        *("--tp-size", "2"),
    )
    assert spec.served_name == "mistral"
    assert SGLang().probe(request) is None


@pytest.mark.parametrize("binary", ["python", "/opt/sglang/bin/python3.12"])
def test_an_interpreter_runs_the_module_that_older_builds_have_too(binary: str) -> None:
    start = argv(dataclasses.replace(AWQ, binary=binary))[:5]
    assert start == [binary, "-m", "sglang.launch_server", "--model-path", "/m/awq"]


def test_another_executable_has_the_command() -> None:
    assert argv(dataclasses.replace(AWQ, binary="/opt/bin/sglang"))[:2] == ["/opt/bin/sglang", "serve"]


def test_sglang_is_told_that_a_model_embeds() -> None:
    assert "--is-embedding" not in argv(AWQ)
    assert "--is-embedding" in argv(dataclasses.replace(AWQ, capabilities=("embedding",)))


def test_a_key_in_a_file_stays_off_the_command_line() -> None:
    request = dataclasses.replace(AWQ, api_key="secret", args=("--config", "/etc/sglang.yaml"))
    assert "secret" not in argv(request)
    assert SGLang().launch(request, "").credential == "secret"


def test_it_is_polled_where_it_generates_nothing() -> None:
    spec = SGLang().launch(AWQ, "")
    assert (spec.readiness.path, spec.readiness.older_path) == ("/ready", "/health")
    assert spec.env["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"  # /health of 0.4 and 0.5 generates otherwise
    remote = SGLang().launch(LaunchRequest(model="m", port=0, url="http://gpu:30000"), "")
    assert (remote.readiness.path, remote.readiness.older_path) == ("/ready", "/v1/models")


def test_before_it_is_stopped_its_requests_are_given_up() -> None:
    stop = SGLang().launch(dataclasses.replace(AWQ, api_key="k"), "").stop
    assert stop.before is not None
    assert (stop.before.method, stop.before.path) == ("POST", "/abort_request")
    assert json.loads(stop.before.body) == {"abort_all": True}
    # It refuses JSON without its type.
    assert stop.before.headers == (("Content-Type", "application/json"), ("Authorization", "Bearer k"))
    assert (stop.grace_s, stop.second_term) == (30.0, False)


def test_it_does_not_linger_when_one_of_its_processes_has_died() -> None:
    env = SGLang().launch(AWQ, "").env
    assert (env["SGLANG_PYSPY_DUMP_BEFORE_CRASH"], env["SGLANG_CUDA_COREDUMP_BEFORE_CRASH"]) == ("0", "0")


def test_an_admin_key_opens_what_it_closes() -> None:
    stop = SGLang().launch(dataclasses.replace(AWQ, api_key="k", admin_key="adm"), "").stop
    assert stop.before is not None
    assert ("Authorization", "Bearer adm") in stop.before.headers


def fraction_of(request: LaunchRequest) -> float | None:
    words = argv(request)
    return float(words[words.index("--mem-fraction-static") + 1]) if "--mem-fraction-static" in words else None


@pytest.mark.parametrize(
    ("memory_gib", "fraction"),
    [
        (12, 10 / 24),  # 2 GiB of the 12 are for what is beside weights and KV pool
        (3, 1.5 / 24),  # a small one keeps at least half
        (24, 0.720),  # never more than it would choose by itself
    ],
)
def test_a_declared_memory_becomes_its_fraction(memory_gib: int, fraction: float) -> None:
    request = dataclasses.replace(AWQ, memory_mib=memory_gib * 1024, device_mib=CARD_24)
    assert fraction_of(request) == pytest.approx(fraction, abs=0.001)


@pytest.mark.parametrize(
    "change",
    [{"memory_mib": None}, {"device_mib": None}, {"devices": ()}],
)
def test_no_fraction_is_made_up(change: dict[str, object]) -> None:
    request = dataclasses.replace(AWQ, memory_mib=8192, device_mib=CARD_24)
    assert fraction_of(request) is not None
    assert fraction_of(dataclasses.replace(request, **change)) is None  # type: ignore[arg-type] # fields of it


def test_the_users_own_fraction_stands() -> None:
    args = ("--mem-fraction-static", "0.5")
    request = dataclasses.replace(AWQ, memory_mib=8192, device_mib=CARD_24, args=args)
    assert argv(request).count("--mem-fraction-static") == 1
    assert fraction_of(request) == 0.5


@pytest.mark.parametrize(
    ("card_gib", "automatic"),
    # by the rules of arg_groups/memory_hook.py, 0.5.23
    [(16, 0.772), (24, 0.720), (48, 0.861), (80, 0.836), (96, 0.863), (180, 0.858)],
)
def test_its_claim_is_what_it_takes_by_itself(card_gib: int, automatic: float) -> None:
    claim = SGLang().claim(dataclasses.replace(AWQ, device_mib=card_gib * 1024))
    assert claim == pytest.approx(automatic + 2 / card_gib, abs=0.002)


def test_its_claim_is_what_was_declared_or_written() -> None:
    declared = dataclasses.replace(AWQ, memory_mib=12 * 1024, device_mib=CARD_24)
    assert SGLang().claim(declared) == pytest.approx(0.5)
    written = dataclasses.replace(declared, args=("--mem-fraction-static=0.25",))
    assert SGLang().claim(written) == pytest.approx(0.25 + 2 / 24)
    command = LaunchRequest(model="m", port=1, command=("sglang", "serve", "--mem-fraction-static", "0.9"))
    assert SGLang().claim(command) == 0.9
    assert SGLang().claim(AWQ) == 1.0  # on a device of unknown size: all of it
    assert SGLang().claim(dataclasses.replace(AWQ, devices=())) is None


def test_the_longest_request_is_the_models_or_the_pools() -> None:
    info, listing, loads = SGLang().launch(AWQ, "").facts
    assert [one.call.path for one in (info, listing, loads)] == ["/server_info", "/v1/models", "/v1/loads?include=core"]
    # 0.5.23: a pool of 20000 tokens, though the model has room for 131072
    body = {"version": "0.5.23", "max_total_num_tokens": 20000, "max_req_input_len": 19994, "api_key": "k"}
    assert info.read(json.dumps(body).encode()) == Facts(context_length=20000, build="0.5.23")
    card = {"id": "mistral", "owned_by": "sglang", "root": "mistral", "parent": None, "max_model_len": 131072}
    read = listing.read(json.dumps({"object": "list", "data": [card]}).encode())
    assert read == Facts(context_length=131072, models=("mistral",))
    ranks = {"loads": [{"dp_rank": 0, "max_running_requests": 48}, {"dp_rank": 1, "max_running_requests": 48}]}
    assert loads.read(json.dumps(ranks).encode()) == Facts(slots=96)


def test_what_is_to_be_parked_is_started_with_its_memory_saver_and_a_copy_of_the_weights() -> None:
    assert SGLang().launch(AWQ, "").parking is None and "--enable-memory-saver" not in argv(AWQ)
    spec = SGLang().launch(dataclasses.replace(AWQ, parks=True, api_key="k", admin_key="a"), "")
    assert {"--enable-memory-saver", "--enable-weights-cpu-backup"} <= set(spec.argv)
    parking = spec.parking
    assert parking is not None and parking.canary is not None and parking.rest is None
    asked = [
        (call.path, json.loads(call.body), dict(call.headers)["Authorization"]) for call in (parking.park, parking.wake)
    ]
    assert asked == [("/release_memory_occupation", {}, "Bearer a"), ("/resume_memory_occupation", {}, "Bearer a")]
    assert (parking.canary.path, dict(parking.canary.headers)["Authorization"]) == ("/generate", "Bearer k")


def test_a_model_that_embeds_proves_by_embedding_that_it_is_awake() -> None:
    parking = SGLang().launch(dataclasses.replace(AWQ, parks=True, capabilities=("embedding",)), "").parking
    assert parking is not None and parking.canary is not None and parking.canary.path == "/encode"
