"""Whatever a server answers, reading it makes facts, and never an error."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.backends import facts
from llm_router.backends.base import Facts

READERS: list[Callable[[bytes], Facts]] = [
    partial(facts.listing, name="m"),
    facts.llamacpp_props,
    facts.sglang_info,
    facts.sglang_loads,
    facts.version,
    facts.tabby_card,
]
WORDS = [
    *("data", "id", "aliases", "meta", "n_ctx", "max_model_len", "context_length", "total_slots", "build_info"),
    *("default_generation_settings", "max_req_input_len", "loads", "max_running_requests", "version", "parameters"),
    *("max_seq_len", "max_batch_size"),
]

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("m")
json_like = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)
)


def check(found: Facts) -> None:
    for number in (found.context_length, found.slots):
        assert number is None or (type(number) is int and number > 0)
    assert all(isinstance(name, str) and name for name in found.models)
    assert len(set(found.models)) == len(found.models)
    assert found.build is None or (isinstance(found.build, str) and found.build)


@given(st.binary())
def test_any_bytes(body: bytes) -> None:
    for read in READERS:
        check(read(body))


@given(st.dictionaries(st.sampled_from(WORDS), json_like, max_size=6))
def test_any_object_with_the_right_words_in_the_wrong_places(body: dict[str, Any]) -> None:
    for read in READERS:
        check(read(json.dumps(body).encode()))


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff\xfe\x00\xd8"])
def test_what_breaks_parsers(body: bytes) -> None:
    for read in READERS:
        assert read(body) == Facts()


def test_the_context_of_a_model_that_is_not_listed_is_unknown() -> None:
    body = b'{"data":[{"id":"a","max_model_len":1},{"id":"b","max_model_len":2}]}'
    assert facts.listing(body, "m") == Facts(models=("a", "b"))


def test_the_only_model_is_ours_whatever_it_is_called() -> None:
    assert facts.listing(b'{"data":[{"id":"a","max_model_len":1}]}', "m").context_length == 1


def test_a_server_without_limits_has_no_slots() -> None:
    assert facts.sglang_loads(b'{"loads":[{"max_running_requests":0},{}]}') == Facts()
