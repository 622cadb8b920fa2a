"""TabbyAPI: started empty and given its model, or with its model from the start."""

import dataclasses
import json

import pytest

from llm_router.backends.base import Backend, LaunchRequest, LaunchSpec
from llm_router.backends.tabbyapi import TabbyAPI, TabbyAPIExl2
from llm_router.errors import LaunchError

FOLDER = LaunchRequest(model="exl", port=5000, path="/models/exl3/Qwen3-32B-exl3", directory="/opt/tabbyAPI")
WITH_KEY = dataclasses.replace(FOLDER, admin_key="adm")
SCRIPT = LaunchRequest(model="exl", port=5000, script="/s.sh", model_name="Qwen3-32B-exl3")
EMPTY = (
    *("main.py", "--host", "127.0.0.1", "--port", "5000", "--model-dir", "/models/exl3", "--model-name", ""),
)  # fmt: skip


def launch(request: LaunchRequest, backend: Backend | None = None) -> LaunchSpec:
    return (backend or TabbyAPI()).launch(request, "")


def test_from_a_path_it_starts_empty_in_its_own_folder() -> None:
    spec = launch(WITH_KEY)
    assert spec.argv == ("/opt/tabbyAPI/venv/bin/python", *EMPTY)
    assert spec.directory == "/opt/tabbyAPI"
    assert spec.served_name == "Qwen3-32B-exl3"
    assert (spec.credential, spec.secrets) == ("adm", ("adm",))


def test_its_log_lines_are_not_cut() -> None:
    assert int(launch(FOLDER).env["TABBY_LOG_CONSOLE_WIDTH"]) > 80


def test_without_a_known_key_it_is_started_without_keys() -> None:
    spec = launch(FOLDER)
    assert spec.argv == ("/opt/tabbyAPI/venv/bin/python", *EMPTY, "--disable-auth", "true")
    assert spec.load is not None
    assert spec.load.unload.headers == ()


def test_the_bare_server_is_asked_what_needs_neither_key_nor_model() -> None:
    readiness = launch(WITH_KEY).readiness
    # Not /health first: it stays 503 after one failed generation.
    assert (readiness.path, readiness.older_path, readiness.headers) == ("/.well-known/serviceinfo", "/health", ())


def test_a_readiness_path_of_the_user_counts_for_the_bare_server() -> None:
    readiness = launch(dataclasses.replace(WITH_KEY, ready_path="/health")).readiness
    assert (readiness.path, readiness.older_path) == ("/health", None)


def test_with_a_key_for_requests_alone_the_model_is_fixed() -> None:
    spec = launch(dataclasses.replace(FOLDER, api_key="k", context_length=10000))
    assert spec.load is None
    name = ("--model-name", "Qwen3-32B-exl3", "--max-seq-len", "10000", "--cache-size", "12288")
    assert spec.argv == ("/opt/tabbyAPI/venv/bin/python", *EMPTY[:-2], *name)
    assert (spec.readiness.path, spec.readiness.headers) == ("/v1/model", (("Authorization", "Bearer k"),))


@pytest.mark.parametrize(
    ("binary", "start"),
    [
        ("/opt/v/bin/python3.12", ("/opt/v/bin/python3.12", "main.py", "--host")),
        ("./start.sh", ("./start.sh", "--host")),
    ],
)
def test_another_interpreter_or_its_start_script(binary: str, start: tuple[str, ...]) -> None:
    assert launch(dataclasses.replace(WITH_KEY, binary=binary)).argv[: len(start)] == start


def test_a_path_without_its_folder_says_what_to_write() -> None:
    with pytest.raises(LaunchError, match=r'cannot start exl: .*"directory" of the backend, or .*"script"'):
        launch(dataclasses.replace(FOLDER, directory=None))


def test_the_models_arguments_come_last() -> None:
    assert launch(dataclasses.replace(WITH_KEY, args=("--cache-mode", "8,8"))).argv[-2:] == ("--cache-mode", "8,8")


@pytest.mark.parametrize(
    "form", [{"script": "/s.sh"}, {"command": ("python", "main.py")}, {"url": "http://gpu:5000"}], ids=str
)
def test_a_name_and_an_admin_key_make_any_server_load(form: dict[str, object]) -> None:
    request = LaunchRequest(model="exl", port=5000, model_name="Qwen", admin_key="adm", **form)  # type: ignore[arg-type] # one of the forms
    spec = launch(request)
    assert spec.load is not None
    assert json.loads(spec.load.call.body)["model_name"] == "Qwen"
    assert (spec.load.name, spec.served_name) == ("Qwen", "Qwen")
    assert (spec.readiness.path, spec.credential) == ("/.well-known/serviceinfo", "adm")


def test_it_names_a_model_by_its_last_folder() -> None:
    spec = launch(dataclasses.replace(SCRIPT, model_name="Qwen/4.0bpw", admin_key="adm"))
    assert spec.load is not None
    assert json.loads(spec.load.call.body)["model_name"] == "Qwen/4.0bpw"
    assert (spec.load.name, spec.served_name) == ("4.0bpw", "4.0bpw")


def test_where_others_load_too_the_last_folder_does_not_tell_models_apart() -> None:
    request = LaunchRequest(model="exl", port=0, url="http://gpu:5000", model_name="Qwen/4.0bpw", admin_key="adm")
    with pytest.raises(LaunchError, match=r'cannot use exl: .*"Qwen/4.0bpw".*a name of its own'):
        launch(request)


@pytest.mark.parametrize("change", [{"admin_key": None}, {"model_name": None}], ids=str)
def test_without_one_of_them_the_model_is_the_servers_own(change: dict[str, None]) -> None:
    request = dataclasses.replace(SCRIPT, api_key="k", admin_key="adm")
    spec = launch(dataclasses.replace(request, **change))  # type: ignore[arg-type] # fields of it
    assert spec.load is None
    assert (spec.readiness.path, spec.readiness.headers) == ("/v1/model", (("Authorization", "Bearer k"),))
    assert spec.stop.grace_s == 10.0


def test_the_admin_key_serves_for_requests_where_it_is_the_only_one() -> None:
    assert launch(dataclasses.replace(SCRIPT, admin_key="adm")).credential == "adm"
    assert launch(dataclasses.replace(SCRIPT, admin_key="adm", api_key="k")).credential == "k"


def shared(request: LaunchRequest, backend: Backend | None = None) -> str:
    load = launch(request, backend).load
    assert load is not None
    return load.shared_key


def test_models_of_one_folder_share_a_server() -> None:
    other = dataclasses.replace(WITH_KEY, model="b", port=5001, path="/models/exl3/Other", context_length=8192)
    assert shared(other) == shared(WITH_KEY)
    script = dataclasses.replace(SCRIPT, admin_key="adm")
    assert shared(dataclasses.replace(script, model="b", port=5001, model_name="Other")) == shared(script)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/models/other/Qwen3-32B-exl3"},
        {"directory": "/opt/other"},
        {"devices": ("1",)},
        {"env": {"A": "1"}},
        {"args": ("--tensor-parallel", "true")},
        {"binary": "/opt/v/bin/python"},
        {"admin_key": "other"},
    ],
    ids=str,
)
def test_servers_that_differ_are_not_shared(change: dict[str, object]) -> None:
    assert shared(dataclasses.replace(WITH_KEY, **change)) != shared(WITH_KEY)  # type: ignore[arg-type] # fields of it


def test_a_command_that_names_the_model_is_not_shared_with_another_model() -> None:
    request = LaunchRequest(model="a", model_name="A", port=1, command=("run", "${MODEL}"), admin_key="adm")
    assert shared(request) != shared(dataclasses.replace(request, model="b", model_name="B"))


def test_servers_at_different_urls_are_not_shared() -> None:
    request = LaunchRequest(model="a", model_name="A", port=0, url="http://a:5000", admin_key="adm")
    assert shared(request) != shared(dataclasses.replace(request, url="http://b:5000"))
    assert shared(request) == shared(dataclasses.replace(request, model="b", model_name="B"))


def test_the_shared_key_shows_no_secret() -> None:
    assert "adm" not in shared(WITH_KEY)


def test_exl2_is_a_kind_of_its_own_with_the_same_api() -> None:
    exl2 = TabbyAPIExl2()
    assert (exl2.kind, TabbyAPI().kind) == ("tabbyapi-exl2", "tabbyapi")
    spec, other = launch(WITH_KEY, exl2), launch(WITH_KEY)
    assert spec.argv == other.argv
    assert spec.load is not None
    assert other.load is not None
    assert spec.load.call == other.load.call
    assert shared(WITH_KEY, exl2) != shared(WITH_KEY)


def test_tabbyapi_takes_what_its_model_needs() -> None:
    assert TabbyAPI().claim(dataclasses.replace(WITH_KEY, device_mib=24576)) is None
