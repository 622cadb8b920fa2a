"""The rules of other tools, on traces small enough to know the answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import LOAD_S, ROOM_MIB, SERVICE_S, STOP_S, loads, play, profile, trace

from llm_router.core.specs import ModelSpec
from llm_router.simulation.room import Room

SWITCH_S = STOP_S + LOAD_S
TWO = {"gpu0": ROOM_MIB, "gpu1": ROOM_MIB}


@pytest.mark.parametrize(
    ("rule", "letters", "expected"),
    [
        ("fifo", "ABAB", "ABAB"),
        ("lru", "ABAB", "ABAB"),
        ("ready-first", "ABAB", "AB"),
        ("fifo", "ABAACABC", "ABACABC"),
        ("ready-first", "ABAACABC", "ABC"),
        ("llm-router", "ABAACABC", "ABC"),
        ("fifo", "AAABBB", "AB"),
    ],
)
def test_models_are_loaded_in_this_order_when_all_is_asked_at_once(rule: str, letters: str, expected: str) -> None:
    assert loads(play(trace(letters), rule)) == expected


def test_fifo_lets_nobody_pass_the_first_one() -> None:
    outcome = play(trace("aba"), "fifo")
    a_is_done = LOAD_S + SERVICE_S
    assert list(outcome.granted_at) == [LOAD_S, a_is_done + SWITCH_S, a_is_done + SWITCH_S + SERVICE_S + SWITCH_S]


def test_ready_first_serves_the_loaded_model_whoever_waits() -> None:
    outcome = play(trace("a" + "b" + "a" * 30, gap_s=SERVICE_S - 1), "ready-first")
    assert outcome.granted_at[1] > max(outcome.granted_at[2:]), "b waits for as long as anybody uses a"


def test_our_own_rule_doesnt() -> None:
    outcome = play(trace("a" + "b" + "a" * 30, gap_s=SERVICE_S - 1), "llm-router")
    assert outcome.granted_at[1] < max(outcome.granted_at[2:])


def test_lru_evicts_the_least_recently_used() -> None:
    small = {letter: profile(50) for letter in "abc"}
    assert loads(play(trace("abac" + "b", gap_s=100, models=small), "lru")) == "ABCB"
    assert loads(play(trace("abac" + "a", gap_s=100, models=small), "lru")) == "ABC"


def test_lru_holds_up_everybody_while_it_makes_room() -> None:
    models = {"a": profile(50), "b": profile(50, concurrency=9), "c": profile(50)}
    outcome = play(trace("ab" + "." * 28 + "a" + "b" + "cb", gap_s=1, models=models), "lru")
    a_is_gone = 30 + SERVICE_S + STOP_S
    assert list(outcome.granted_at[2:]) == [30, 31, a_is_gone + LOAD_S, a_is_gone], "b is loaded, but waits behind c"


def test_fifo_alone_never_holds_two_models() -> None:
    small = {letter: profile(20) for letter in "ab"}
    assert loads(play(trace("abab", gap_s=100, models=small), "fifo")) == "AB"
    assert loads(play(trace("abab", gap_s=100, models=small), "fifo-alone")) == "ABAB"


@pytest.mark.parametrize("rule", ["fifo", "lru", "ready-first"])
def test_models_that_fit_together_stay_together(rule: str) -> None:
    small = {letter: profile(ROOM_MIB // 3) for letter in "abc"}
    assert loads(play(trace("abcabcabc", gap_s=1, models=small), rule)) == "ABC"


@pytest.mark.parametrize("rule", ["fifo", "lru", "ready-first"])
def test_two_devices_hold_one_large_model_each(rule: str) -> None:
    assert loads(play(trace("ababab", gap_s=1, devices=TWO), rule)) == "AB"


@pytest.mark.parametrize("rule", ["fifo", "lru", "ready-first", "llm-router"])
def test_a_model_larger_than_all_devices_is_refused(rule: str) -> None:
    outcome = play(trace("ab", models={"a": profile(3 * ROOM_MIB), "b": profile()}), rule)
    assert outcome.granted_at[0] < 0
    assert outcome.granted_at[1] >= 0


# Room


def spec(footprint_mib: int | None, devices: tuple[str, ...] | None = None) -> ModelSpec:
    return ModelSpec(name="x", footprint_mib=footprint_mib, devices=devices)


@pytest.mark.parametrize(
    ("model", "shares"),
    [
        (spec(0), {}),
        (spec(40), {"gpu0": 40}),
        (spec(60), {"gpu1": 60}),
        (spec(150), None),
        (spec(40, ("gpu1",)), {"gpu1": 40}),
        (spec(80, ("gpu0", "gpu1")), {"gpu0": 40, "gpu1": 40}),
        (spec(None), None),
        (spec(None, ("gpu1",)), {"gpu1": None}),
    ],
)
def test_where_a_model_fits_beside_another(model: ModelSpec, shares: dict[str, int | None] | None) -> None:
    room = Room(TWO)
    room.take("other", {"gpu0": 50})
    assert room.place(model) == shares


def test_what_leaves_makes_room() -> None:
    room = Room(TWO)
    room.take("other", {"gpu0": 50})
    assert room.place(spec(150), ["other"]) == {"gpu0": 75, "gpu1": 75}
    assert room.place(spec(None), ["other"]) == {"gpu0": None, "gpu1": None}


def test_a_device_of_unknown_size_and_a_model_of_unknown_size_are_never_shared() -> None:
    unknown = Room({"gpu": None})
    unknown.take("other", {"gpu": 1})
    assert unknown.place(spec(1)) is None
    held_whole = Room({"gpu": 100})
    held_whole.take("other", {"gpu": None})
    assert held_whole.place(spec(1)) is None


@settings(max_examples=100)
@given(sizes=st.lists(st.sampled_from([0, 10, 40, 60, 100, 150, None]), max_size=8))
def test_memory_is_never_given_twice(sizes: list[int | None]) -> None:
    room, held = Room(TWO), dict.fromkeys(TWO, 0)
    for number, size in enumerate(sizes):
        shares = room.place(spec(size))
        if shares is not None:
            room.take(str(number), shares)
            for device, share in shares.items():
                held[device] += ROOM_MIB if share is None else share
    assert all(held[device] <= ROOM_MIB for device in TWO)
