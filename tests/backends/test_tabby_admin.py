"""TabbyAPI's admin API: what is sent, and what its events, errors and keys mean. Bodies as e632af4 sends them."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.backends import tabby_admin
from llm_router.backends.base import Facts, Failed, LaunchRequest, Load, Loading, Signal
from llm_router.backends.tabby_admin import read_error, read_event
from llm_router.backends.tabby_keys import Keys, read_keys

REQUEST = LaunchRequest(model="m", port=5000, script="/s.sh", admin_key="adm", api_key="k")
ADMIN = ("Authorization", "Bearer adm")


def load(request: LaunchRequest = REQUEST) -> Load:
    return tabby_admin.load(request, kind="tabbyapi", model_name="Qwen", template=("/s.sh",))


def test_a_load_is_asked_for_with_the_admin_key() -> None:
    call = load().call
    assert (call.method, call.path) == ("POST", "/v1/model/load")
    assert json.loads(call.body) == {"model_name": "Qwen"}
    assert call.headers == (("Content-Type", "application/json"), ADMIN)
    assert call.limit_s >= 3600  # as long as a load can take


@pytest.mark.parametrize(("context", "cache"), [(8192, 10240), (8193, 10496), (1, 2304)])
def test_context_and_cache_are_both_sent(context: int, cache: int) -> None:
    body = json.loads(load(dataclasses.replace(REQUEST, context_length=context)).call.body)
    assert body == {"model_name": "Qwen", "max_seq_len": context, "cache_size": cache}


def test_an_unload_that_finds_nothing_has_worked() -> None:
    unload = load().unload
    assert (unload.method, unload.path, unload.headers) == ("POST", "/v1/model/unload", (ADMIN,))
    assert load().unloaded == (200, 503)


def test_the_loaded_model_is_known_by_its_folder() -> None:
    inquiry = load().loaded
    assert (inquiry.call.method, inquiry.call.path, inquiry.call.headers) == ("GET", "/v1/model", (ADMIN,))
    card = {"id": "Qwen", "owned_by": "tabbyAPI", "parameters": {"max_seq_len": 8192, "max_batch_size": 4}}
    assert inquiry.read(json.dumps(card).encode()) == Facts(context_length=8192, slots=4, models=("Qwen",))
    assert inquiry.read(b'{"detail":"No models are currently loaded."}') == Facts()


@pytest.mark.parametrize(
    ("event", "signal"),
    [
        ('{"model_type":"model","module":1,"modules":8,"status":"processing"}', Loading(fraction=0.125, stage="model")),
        ('{"model_type":"vision","module":4,"modules":4,"status":"finished"}', Loading(fraction=1.0, stage="vision")),
        ('{"model_type":"draft","module":9,"modules":4,"status":"processing"}', Loading(fraction=1.0, stage="draft")),
        ('{"error":{"message":"Insufficient VRAM in split for model and cache","trace":null}}',
         Failed(message="Insufficient VRAM in split for model and cache")),
        ('{"error":"no"}', Failed(message="no")),
        ('{"module":1}', None),
        ('{"modules":true,"module":1}', None),
        (": ping - 2026-11-22", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_events_of_a_load(event: str, signal: Signal | None) -> None:
    assert read_event(event) == signal
    assert read_event(f"data: {event}\r") == signal  # with or without the name of the field


def test_finished_is_no_sign_of_readiness() -> None:
    """It comes once for each part, and before the model can be used."""
    event = '{"model_type":"model","module":8,"modules":8,"status":"finished"}'
    assert read_event(event) == Loading(fraction=1.0, stage="model")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"detail":"Invalid admin key"}', "Invalid admin key"),
        (b'{"detail":[{"type":"missing","loc":["body","model_name"],"msg":"Field required"}]}', "Field required"),
        (b'{"error":{"message":"no","trace":null}}', "no"),
        (b'{"x":1}', '{"x": 1}'),
        (b"Internal Server Error", "Internal Server Error"),
        (b"", "it gave no reason"),
        (b'{"detail":[]}', "it gave no reason"),
        (b'{"detail":" "}', "it gave no reason"),
    ],
)
def test_the_words_of_a_refusal(body: bytes, words: str) -> None:
    assert read_error(body) == words


@given(
    st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps({"error": x}))
)
def test_no_event_is_too_odd(text: str) -> None:
    assert isinstance(read_event(text), Loading | Failed | None)


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps({"detail": x}).encode()))
def test_no_refusal_is_too_odd(body: bytes) -> None:
    assert 0 < len(read_error(body)) <= 500


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("api_key: 0a1b\nadmin_key: 2c3d\n", Keys(api="0a1b", admin="2c3d")),
        ("api_key:\n  - first\n  - second\nadmin_key: adm\n", Keys(api="first", admin="adm")),
        ("api_key: # Insert api key here\nadmin_key: # Insert admin key here\n", Keys()),
        ("api_key: []\n", Keys()),
        ("- a\n", Keys()),
        ("api_key: [", Keys()),
        ("", Keys()),
    ],
)
def test_the_keys_of_the_file(text: str, keys: Keys) -> None:
    assert read_keys(text) == keys


@given(st.text())
def test_no_file_is_too_odd_for_keys(text: str) -> None:
    assert isinstance(read_keys(text), Keys)


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(Keys(api="secret", admin="secret"))
