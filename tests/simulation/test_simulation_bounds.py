"""What no rule can beat: known answers, and that no rule beats it."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small import LOAD_S, SERVICE_S, STOP_S, WIDE, play, profile, trace
from test_engine import TRACES

from llm_router.simulation.bounds import lower_bound
from llm_router.simulation.builtin import BUILTIN
from llm_router.simulation.compare import RULES, promise
from llm_router.simulation.compare import play as compare
from llm_router.simulation.measure import figures, quantile, times_to_first_token_s
from llm_router.simulation.outcome import Fate
from llm_router.simulation.trace import Trace

SWITCH_S = STOP_S + LOAD_S


@pytest.mark.parametrize(
    ("letters", "client", "loads"),
    [("ababab", None, 2), ("ababab", "one", 6), ("aabb", "one", 2), ("abcabc", "one", 6)],
)
def test_strangers_can_be_sorted_but_one_client_must_be_followed(letters: str, client: str | None, loads: int) -> None:
    assert lower_bound(trace(letters, client=client)).loads == loads


def test_with_room_for_two_the_best_one_to_evict_is_the_one_needed_last() -> None:
    small = {letter: profile(50) for letter in "abc"}
    assert lower_bound(trace("abcabcabc", models=small, client="one")).loads == 6


def test_models_that_take_no_room_are_loaded_once() -> None:
    models = {"a": profile(), "b": profile(), "e": profile(0)}
    assert lower_bound(trace("aebeaebe", models=models, client="one")).loads == 5


def test_a_client_cannot_end_before_its_answers_and_switches() -> None:
    assert lower_bound(trace("aba", client="one")).makespan_s == LOAD_S + 3 * SERVICE_S + 2 * SWITCH_S


def test_models_that_exclude_each_other_cannot_work_at_the_same_time() -> None:
    assert lower_bound(trace("aabb")).makespan_s == 2 * (LOAD_S + 2 * SERVICE_S) + STOP_S


def test_a_late_request_ends_late() -> None:
    assert lower_bound(trace("a", gap_s=0)).makespan_s == LOAD_S + SERVICE_S
    assert lower_bound(trace("." * 9 + "a", gap_s=10)).makespan_s == 90 + SERVICE_S


@settings(max_examples=80, deadline=None)
@given(trace=TRACES, rule=st.sampled_from(list(RULES)))
def test_no_rule_beats_it(trace: Trace, rule: str) -> None:
    outcome = play(trace, rule, policy=WIDE)
    assume(set(outcome.fates) == {Fate.SERVED})
    bound, reached = lower_bound(trace), figures(trace, outcome)
    assert reached.loads >= bound.loads
    assert reached.makespan_s >= bound.makespan_s - 1e-6
    first = sorted(times_to_first_token_s(trace, outcome))
    assert all(one >= best - 1e-9 for one, best in zip(first, bound.ttft_s, strict=True))


@pytest.mark.parametrize("name", BUILTIN)
def test_our_own_rule_keeps_its_promise_on_every_built_in_trace(name: str) -> None:
    made = BUILTIN[name](0)
    [run] = compare(made, WIDE, rules=["llm-router"])
    kept = promise(made, run.outcome, WIDE)
    assert kept.broken == 0
    assert 0 < kept.worst_wait_s <= kept.bound_s


def test_a_wait_beyond_the_promise_is_counted() -> None:
    made = trace("ab" + "a" * 2000, gap_s=SERVICE_S - 1)
    [starving] = compare(made, WIDE, rules=["ready-first"])
    short = WIDE.__class__(drain_timeout_s=1.0, queue_limit=10_000)
    assert promise(made, starving.outcome, short).broken > 0


def test_quantiles_are_values_that_occurred() -> None:
    assert [quantile([1, 2, 3, 4], share) for share in (0.0, 0.25, 0.5, 0.51, 1.0)] == [1, 1, 2, 3, 4]
    assert quantile([], 0.5) == 0
