"""The virtual world: what is commanded takes place when it is due; nothing is lost, and nothing depends on chance."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import LOAD_S, SERVICE_S, STOP_S, WIDE, Witness, loads, play, profile, trace

from llm_router.core.events import RequestClass
from llm_router.core.specs import PolicySpec
from llm_router.simulation.builtin import BUILTIN
from llm_router.simulation.compare import RULES, policy_for
from llm_router.simulation.engine import Simulation
from llm_router.simulation.faults import Faults
from llm_router.simulation.outcome import Fate
from llm_router.simulation.trace import Call, Profile, Trace

EVERY_RULE = pytest.mark.parametrize("rule", RULES)


@EVERY_RULE
def test_a_request_waits_for_the_load_and_runs_for_its_tokens(rule: str) -> None:
    outcome = play(trace("a"), rule)
    assert list(outcome.granted_at) == [LOAD_S]
    assert list(outcome.ended_at) == [LOAD_S + SERVICE_S]


@EVERY_RULE
def test_a_switch_takes_the_stop_and_the_load(rule: str) -> None:
    outcome = play(trace("ab", gap_s=100), rule)
    assert outcome.granted_at[1] == 100 + STOP_S + LOAD_S
    assert [stay.model for stay in outcome.stays] == ["a", "b"]
    first, second = outcome.stays
    assert (first.ready_at, first.stopping_at, first.gone_at) == (LOAD_S, 100, 100 + STOP_S)
    assert second.started_at == first.gone_at


@EVERY_RULE
def test_the_next_request_of_a_client_comes_after_the_answer_and_a_pause(rule: str) -> None:
    calls = [Call("a", 0, 5, 0.0, "one", 3.0), Call("a", 0, 5, 0.0, "one", 3.0), Call("a", 0, 5, 100.0, "one", 3.0)]
    outcome = play(Trace(name="", about="", devices={"gpu": 100}, models={"a": profile()}, calls=calls), rule)
    assert list(outcome.arrived_at) == [0.0, LOAD_S + SERVICE_S + 3, 100.0]


@EVERY_RULE
def test_no_more_requests_run_than_the_model_takes(rule: str) -> None:
    outcome = play(trace("aaa", models={"a": profile(concurrency=2)}), rule)
    assert list(outcome.granted_at) == [LOAD_S, LOAD_S, LOAD_S + SERVICE_S]


@EVERY_RULE
def test_a_failed_load_refuses_who_waited_for_it(rule: str) -> None:
    outcome = play(trace("a"), rule, faults=Faults(load_failures=1.0))
    assert list(outcome.fates) == [Fate.REFUSED]
    assert outcome.stays[0].ready_at is None
    assert outcome.stays[0].gone_at == LOAD_S


@EVERY_RULE
def test_a_client_that_leaves_ends_its_request_and_goes_on(rule: str) -> None:
    outcome = play(trace("aa", client="one"), rule, faults=Faults(cancellations=1.0, patience_s=LOAD_S / 2))
    assert list(outcome.fates) == [Fate.LEFT, Fate.LEFT]
    assert outcome.ended_at[0] < LOAD_S
    assert outcome.arrived_at[1] == outcome.ended_at[0]


def test_a_drain_deadline_cuts_what_still_runs() -> None:
    policy = PolicySpec(patience_s=0, drain_timeout_s=2, patience_per_load=0)
    models = {"a": Profile(load_s=10, stop_s=1, output_tokens_s=0.05, footprint_mib=60), "b": profile()}
    outcome = play(trace("ab", models=models, gap_s=20), "llm-router", policy=policy)
    assert list(outcome.fates) == [Fate.CUT, Fate.SERVED]
    assert outcome.ended_at[0] == pytest.approx(20 + 2)


def test_a_full_queue_refuses_under_every_rule() -> None:
    for rule in RULES:
        outcome = play(trace("aaa"), rule, policy=PolicySpec(queue_limit=2))
        assert list(outcome.fates) == [Fate.SERVED, Fate.SERVED, Fate.REFUSED], rule


def test_loads_on_one_device_share_its_speed_and_others_dont() -> None:
    small = {letter: profile(20) for letter in "ab"}
    together = play(trace("ab", gap_s=4, models=small), "ready-first")
    assert [stay.ready_at for stay in together.stays] == [4 + 2 * (LOAD_S - 4), 2 * LOAD_S]
    apart = {"a": profile(20, devices=("gpu0",)), "b": profile(20, devices=("gpu1",))}
    beside = play(trace("ab", gap_s=4, models=apart, devices={"gpu0": 100, "gpu1": 100}), "ready-first")
    assert [stay.ready_at for stay in beside.stays] == [LOAD_S, 4 + LOAD_S]


MODELS = st.builds(
    Profile,
    load_s=st.floats(0, 30),
    stop_s=st.floats(0, 5),
    prompt_tokens_s=st.just(100.0),
    output_tokens_s=st.just(10.0),
    concurrency=st.integers(1, 3),
    footprint_mib=st.sampled_from([None, 0, 20, 40, 60, 100]),
)
CALLS = st.lists(
    st.builds(
        Call,
        st.sampled_from("abc"),
        st.integers(0, 500),
        st.integers(0, 300),
        st.floats(0, 200),
        st.sampled_from([None, None, "one", "two"]),
        st.floats(0, 20),
        st.sampled_from([RequestClass.INTERACTIVE, RequestClass.NORMAL, RequestClass.BACKGROUND]),
    ),
    min_size=1,
    max_size=25,
)
TRACES = st.builds(
    lambda models, calls, devices: Trace(name="", about="", devices=devices, models=models, calls=calls),
    st.fixed_dictionaries({"a": MODELS, "b": MODELS, "c": MODELS}),
    CALLS,
    st.sampled_from([{"gpu": 100}, {"gpu": None}, {"gpu0": 100, "gpu1": 100}]),
)


@settings(max_examples=60, deadline=None)
@given(trace=TRACES, rule=st.sampled_from(list(RULES)), seed=st.integers(0, 9), share=st.sampled_from([0.0, 0.2]))
def test_every_request_is_sent_once_and_ends_once(trace: Trace, rule: str, seed: int, share: float) -> None:
    witness = Witness(RULES[rule](trace.specs(), policy_for(trace, PolicySpec())))
    outcome = Simulation(trace, witness, Faults(seed=seed, load_failures=share, cancellations=share)).run()
    refused = [index for index, fate in enumerate(outcome.fates) if fate == Fate.REFUSED]
    assert sorted(witness.ended + refused) == list(range(len(trace.calls)))
    assert set(outcome.fates) <= {Fate.SERVED, Fate.REFUSED, Fate.CUT, Fate.LEFT}
    for index, fate in enumerate(outcome.fates):
        assert outcome.arrived_at[index] >= trace.calls[index].at
        assert outcome.ended_at[index] >= max(outcome.arrived_at[index], outcome.granted_at[index])
        assert fate != Fate.SERVED or outcome.granted_at[index] >= outcome.arrived_at[index]


@settings(max_examples=25, deadline=None)
@given(trace=TRACES, rule=st.sampled_from(list(RULES)))
def test_the_same_trace_rule_and_faults_give_the_same_commands(trace: Trace, rule: str) -> None:
    said = []
    for _ in range(2):
        witness = Witness(RULES[rule](trace.specs(), policy_for(trace, WIDE)))
        Simulation(trace, witness, Faults(seed=1, load_failures=0.1, cancellations=0.1)).run()
        said.append(witness.said)
    assert said[0] == said[1]


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_trace_is_the_same_for_the_same_seed_and_another_for_another(name: str) -> None:
    make = BUILTIN[name]
    assert make(1).calls == make(1).calls
    assert make(1).calls != make(2).calls
    assert {call.model for call in make(0).calls} == set(make(0).models)


def test_progress_is_told_and_rises() -> None:
    told: list[float] = []
    long = trace("a" * 15_000, gap_s=1, models={"a": profile(concurrency=100)})
    Simulation(long, RULES["fifo"](long.specs(), policy_for(long, WIDE))).run(told.append)
    assert told
    assert told == sorted(told)
    assert 0 < told[-1] <= 1


def test_the_letters_say_what_they_seem_to() -> None:
    assert loads(play(trace("ab", gap_s=100), "fifo")) == "AB"
