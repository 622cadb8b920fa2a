"""One shape of figures for every inference server."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.relay.usage import Figures, figures, normalise, performance_line

TIMING_KEYS = {
    "cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second",
    "predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second",
}  # fmt: skip


def made(usage: object = None, timings: object = None, counted: int = 7) -> Figures:
    return figures(usage, timings, counted=counted, measured_prompt_ms=500.0, measured_predicted_ms=2000.0)


@pytest.mark.parametrize(
    ("count", "ms", "estimated", "line"),
    [
        (128, 2831.0, False, "[Performance: 45.2 tok/s | 128 tokens in 2.83s]"),
        (128, 2831.0, True, "[Performance: ~45.2 tok/s | ~128 tokens in 2.83s]"),
        (1, 0.0, False, "[Performance: 0.0 tok/s | 1 tokens in 0.00s]"),
    ],
)
def test_the_performance_line(count: int, ms: float, estimated: bool, line: str) -> None:
    assert performance_line(count, ms, count * 1000 / ms if ms else 0.0, estimated=estimated) == line


def test_a_servers_usage_and_the_measured_times_make_timings() -> None:
    found = made({"prompt_tokens": 30, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 10}})
    assert not found.estimated
    assert found.usage["total_tokens"] == 130
    assert found.usage["prompt_tokens_details"] == {"cached_tokens": 10}
    assert found.timings == {
        "cache_n": 10,
        "prompt_n": 20,
        "prompt_ms": 500.0,
        "prompt_per_token_ms": 25.0,
        "prompt_per_second": 40.0,
        "predicted_n": 100,
        "predicted_ms": 2000.0,
        "predicted_per_token_ms": 20.0,
        "predicted_per_second": 50.0,
    }
    assert found.line() == "[Performance: 50.0 tok/s | 100 tokens in 2.00s]"


def test_a_servers_own_timings_are_believed_and_completed() -> None:
    said = {"prompt_n": 6, "cache_n": 4, "predicted_n": 128, "predicted_ms": 2831.0, "draft_n": 3, "prompt_ms": None}
    found = made(None, said)
    assert found.usage == {"prompt_tokens": 10, "completion_tokens": 128, "total_tokens": 138}
    assert not found.estimated
    assert found.timings.items() >= {"predicted_ms": 2831.0, "draft_n": 3, "cache_n": 4}.items()
    assert found.timings.keys() == TIMING_KEYS | {"draft_n"}


def test_tabbyapis_seconds_become_timings_and_its_words_vanish() -> None:
    usage = {
        "prompt_tokens": 10,
        "prompt_time": 0.25,
        "prompt_tokens_per_sec": "Indeterminate",
        "completion_tokens": 20,
        "completion_time": 0.5,
        "completion_tokens_per_sec": 40.0,
        "total_tokens": 30,
        "total_time": 0.75,
    }
    found = made(usage)
    assert found.usage == {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    assert (found.timings["prompt_ms"], found.timings["predicted_ms"]) == (250.0, 500.0)
    assert found.timings["predicted_per_second"] == 40.0


@pytest.mark.parametrize("usage", [None, {}, [], "usage", {"prompt_tokens": None, "completion_tokens": None}])
@pytest.mark.parametrize("timings", [None, {}, 3, {"predicted_n": 5}, {"predicted_n": None, "predicted_ms": 3}])
def test_a_server_that_says_nothing_gets_an_estimate(usage: object, timings: object) -> None:
    found = made(usage, timings, counted=42)
    assert found.estimated
    assert found.usage == {"prompt_tokens": 0, "completion_tokens": 42, "total_tokens": 42}
    assert found.line() == "[Performance: ~21.0 tok/s | ~42 tokens in 2.00s]"


def test_nulls_and_missing_totals_are_mended() -> None:
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": None,
        "prompt_tokens_details": {"cached_tokens": None},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": None},
        "reasoning_tokens": 2,
    }
    assert normalise(usage) == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 2},
        "reasoning_tokens": 2,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = [*sorted(TIMING_KEYS), "prompt_tokens", "completion_tokens", "total_tokens", "prompt_time", "completion_time"]
SAID: st.SearchStrategy[Any] = JSON | st.dictionaries(st.sampled_from([*NAMES, "prompt_tokens_details"]), JSON)


def has_no_null(value: Any) -> bool:
    return value is not None and all(map(has_no_null, value.values() if isinstance(value, dict) else ()))


@given(SAID, SAID, st.integers(0, 10**6))
def test_whatever_a_server_says_there_are_all_keys_and_no_null(usage: Any, timings: Any, counted: int) -> None:
    found = made(usage, timings, counted)
    assert found.timings.keys() >= TIMING_KEYS
    assert found.usage.keys() >= {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert all(math.isfinite(value) for value in found.timings.values())
    assert has_no_null(found.usage)
    assert found.line().startswith("[Performance: ")
    msgspec.json.encode([found.usage, found.timings])
