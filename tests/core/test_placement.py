"""What fits together, where a model goes, and the smallest set that must leave for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.core.device import Device
from llm_router.core.eviction import cheapest_eviction
from llm_router.core.geometry import fits, possible_placements, spread
from llm_router.core.instance import Instance, Lifecycle
from llm_router.core.lanes import Lanes
from llm_router.core.model import ModelState
from llm_router.core.placement import choose, prospects_of
from llm_router.core.specs import ANY_DEVICE, HOST, ModelSpec, PolicySpec
from llm_router.core.state import State

POLICY = PolicySpec()
RESIDENTS = st.lists(
    st.tuples(
        st.sampled_from([1, 4, 7, 10, None]),  # footprint
        st.booleans(),  # busy
        st.integers(min_value=0, max_value=3),  # last used
    ),
    max_size=5,
)


def model(spec: ModelSpec) -> ModelState:
    return ModelState(spec, Lanes((0.0, 0.0, 0.0)), footprint_mib=spec.footprint_mib)


def named(name: str, *companions: str) -> ModelState:
    return model(ModelSpec(name=name, companions=frozenset(companions)))


def devices(**budgets: int | None) -> dict[str, Device]:
    return {name: Device(name, budget) for name, budget in budgets.items()}


class TestFits:
    @pytest.mark.parametrize(
        ("needs", "budget_mib", "expected"),
        [
            ([], 20, True),
            ([10, 10], 20, True),
            ([10, 11], 20, False),
            ([None], 20, True),
            ([None, 1], 20, False),
            ([10], None, True),
            ([10, 10], None, False),
            ([21], 20, False),
        ],
    )
    def test_sharing_needs_known_footprints_and_a_known_budget(
        self, needs: list[int | None], budget_mib: int | None, expected: bool
    ) -> None:
        assert fits([(named(f"m{number}"), need) for number, need in enumerate(needs)], budget_mib) is expected

    @pytest.mark.parametrize(
        ("needs", "budget_mib", "expected"),
        [
            ([None, None], 20, True),
            ([None, 5], None, True),
            ([15, 15], 20, True),
            ([21, 5], 20, False),  # it doesn't even fit alone
        ],
    )
    def test_companions_share_whatever_their_footprints_say(
        self, needs: list[int | None], budget_mib: int | None, expected: bool
    ) -> None:
        pair = [named("a", "b"), named("b")]
        assert fits(list(zip(pair, needs, strict=True)), budget_mib) is expected

    def test_a_third_one_must_fit_by_its_numbers(self) -> None:
        pair = [(named("a", "b"), 10), (named("b"), 10)]
        assert fits([*pair, (named("c"), 4)], 24)
        assert not fits([*pair, (named("c"), 5)], 24)
        assert not fits([(named("a", "b"), None), (named("b"), 10), (named("c"), 1)], 24)

    def test_who_has_run_out_of_memory_wants_no_companions(self) -> None:
        one = named("a", "b")
        one.ran_out = True
        assert not fits([(one, None), (named("b"), None)], 20)


class TestWhere:
    def test_named_devices_are_used_all_in_equal_parts(self) -> None:
        spec = ModelSpec(name="a", footprint_mib=11, devices=("0", "1"))
        assert possible_placements(model(spec), devices(**{"0": 20, "1": 20, "2": 20})) == [{"0": 6, "1": 6}]

    def test_measured_parts_are_used_again_on_the_same_devices(self) -> None:
        one = model(ModelSpec(name="a", footprint_mib=10))
        one.measured_mib = {"0": 7, "1": 3}
        assert spread(one, ("0", "1")) == {"0": 7, "1": 3}
        assert spread(one, ("0", "2")) == {"0": 5, "2": 5}

    def test_any_single_device_that_is_large_enough_will_do(self) -> None:
        one = model(ModelSpec(name="a", footprint_mib=10))
        there = devices(**{"0": 8, "1": 24, "2": None, HOST: 64})
        assert possible_placements(one, there) == [{"1": 10}, {"2": 10}]

    @pytest.mark.parametrize(("footprint_mib", "part"), [(30, 15), (None, None)])
    def test_what_is_too_large_for_one_or_unknown_takes_all(self, footprint_mib: int | None, part: int | None) -> None:
        one = model(ModelSpec(name="a", footprint_mib=footprint_mib))
        assert possible_placements(one, devices(**{"0": 24, "1": 24, HOST: 64})) == [{"0": part, "1": part}]

    def test_the_hosts_memory_is_for_those_that_name_it_or_where_nothing_else_is(self) -> None:
        spec = ModelSpec(name="a", footprint_mib=10, devices=(HOST,))
        assert possible_placements(model(spec), devices(**{"0": 24, HOST: 64})) == [{HOST: 10}]
        anywhere = model(ModelSpec(name="a", footprint_mib=10))
        assert possible_placements(anywhere, devices(**{HOST: 64})) == [{HOST: 10}]

    def test_where_nothing_is_known_about_the_hardware_one_device_stands_for_all(self) -> None:
        spec = ModelSpec(name="a", footprint_mib=10, devices=("0", "1"))
        assert possible_placements(model(spec), devices(**{ANY_DEVICE: None})) == [{ANY_DEVICE: 10}]

    def test_a_device_that_is_gone_or_never_was_takes_nothing(self) -> None:
        there = devices(**{"0": 24, "1": 24})
        there["0"].is_gone = True
        assert possible_placements(model(ModelSpec(name="a", footprint_mib=10)), there) == [{"1": 10}]
        for names in (("0",), ("0", "1"), ("7",)):
            assert possible_placements(model(ModelSpec(name="a", devices=names)), there) == []


def instance(
    number: int, footprint_mib: int | None, busy: bool = False, last_used_at: float = 0.0, device: str = "0"
) -> Instance:
    found = Instance(
        id=number,
        model=model(ModelSpec(name=f"m{number}", footprint_mib=footprint_mib)),
        since=0.0,
        slots=1,
        last_used_at=last_used_at,
        reserved={device: footprint_mib},
    )
    found.lifecycle = Lifecycle.READY
    if busy:
        found.leases[number] = None
    return found


def enough_for(residents: Sequence[Instance], newcomer: int | None, leaving: Sequence[Instance]) -> bool:
    staying = [(r.model, r.reserved["0"]) for r in residents if r not in leaving]
    return fits([*staying, (named("new"), newcomer)], 20)


def evicted(residents: Sequence[Instance], newcomer: int | None, at: float = 10.0) -> tuple[Instance, ...]:
    if enough_for(residents, newcomer, ()):
        return ()
    leaving = cheapest_eviction(residents, lambda gone: enough_for(residents, newcomer, gone), POLICY, at)
    assert leaving is not None
    return leaving


class TestWhoLeaves:
    @given(described=RESIDENTS, newcomer=st.sampled_from([1, 5, 10, 20, None]))
    def test_it_is_enough_and_nobody_in_it_could_have_stayed(
        self, described: list[tuple[int | None, bool, int]], newcomer: int | None
    ) -> None:
        residents = [instance(number, *description) for number, description in enumerate(described, 1)]
        leaving = evicted(residents, newcomer)
        assert enough_for(residents, newcomer, leaving)
        for kept in leaving:
            assert not enough_for(residents, newcomer, [r for r in leaving if r is not kept])

    @given(described=RESIDENTS, newcomer=st.sampled_from([1, 5, 10, 20, None]))
    def test_busy_residents_leave_only_if_the_idle_ones_are_not_enough(
        self, described: list[tuple[int | None, bool, int]], newcomer: int | None
    ) -> None:
        residents = [instance(number, *description) for number, description in enumerate(described, 1)]
        if enough_for(residents, newcomer, [r for r in residents if not r.is_busy]):
            assert not any(r.is_busy for r in evicted(residents, newcomer))

    def test_nobody_leaves_if_even_all_of_them_are_not_enough(self) -> None:
        assert cheapest_eviction([instance(1, 5)], lambda gone: False, POLICY, 0.0) is None

    def test_among_equals_the_least_recently_used_leaves(self) -> None:
        for order in itertools.permutations([1.0, 2.0, 3.0]):
            residents = [instance(number, 7, False, used) for number, used in enumerate(order, 1)]
            assert [r.last_used_at for r in evicted(residents, 5)] == [1.0]

    def test_what_takes_longer_to_bring_back_stays(self) -> None:
        slow, quick = instance(1, 10, last_used_at=1), instance(2, 10, last_used_at=2)
        for resident, load_s in ((slow, 100.0), (quick, 5.0)):
            resident.model.load_s, resident.model.uses = load_s, 1
        assert evicted([slow, quick], 10) == (quick,)

    def test_what_is_asked_for_more_often_stays_until_that_was_long_ago(self) -> None:
        often, seldom = instance(1, 10, last_used_at=1), instance(2, 10, last_used_at=2)
        often.model.rate, seldom.model.rate = 50.0, 2.0
        assert evicted([often, seldom], 10, at=10.0) == (seldom,)
        seldom.model.rate_at = 10_000.0
        assert evicted([often, seldom], 10, at=10_000.0) == (often,)

    def test_one_large_resident_leaves_rather_than_several_that_are_missed_more(self) -> None:
        residents = [instance(1, 2), instance(2, 8), instance(3, 10)]
        for resident, uses in zip(residents, (1, 3, 2), strict=True):
            resident.model.uses = uses
        assert evicted(residents, 10) == (residents[2],)


def state(budgets: dict[str, int | None], *residents: Instance) -> State:
    found = State([], PolicySpec(budgets=budgets))
    found.live = {resident.id: resident for resident in residents}
    return found


def chosen(
    newcomer: ModelState, there: State, taken: frozenset[str] = frozenset()
) -> tuple[list[str], list[int], bool] | None:
    choice = choose(newcomer, there, POLICY, 10.0, (), taken)
    if choice is None:
        return None
    return list(choice.placement), [victim.id for victim in choice.victims], choice.is_free


def new() -> ModelState:
    return model(ModelSpec(name="new", footprint_mib=8))


class TestTheChoice:
    def test_where_nobody_has_to_leave_and_the_least_room_is_left_over(self) -> None:
        there = state({"0": 20, "1": 20, "2": 20}, instance(1, 14), instance(2, 10, device="1"))
        assert chosen(new(), there) == (["1"], [], True)

    def test_else_where_the_cheapest_leave(self) -> None:
        there = state({"0": 20, "1": 20}, instance(1, 14, busy=True), instance(2, 14, device="1"))
        assert chosen(new(), there) == (["1"], [2], False)

    def test_rather_not_where_a_start_is_running(self) -> None:
        there = state({"0": 20, "1": 20}, instance(1, 10))
        assert chosen(new(), there, frozenset({"0"})) == (["1"], [], True)
        full = state({"0": 20, "1": 20}, instance(1, 10), instance(2, 20, device="1"))
        assert chosen(new(), full, frozenset({"0"})) == (["0"], [], True)  # to wait is better than to evict

    def test_who_is_stopping_leaves_without_being_evicted_but_is_still_there(self) -> None:
        leaving = instance(1, 20)
        leaving.lifecycle = Lifecycle.STOPPING
        assert chosen(new(), state({"0": 20}, leaving)) == (["0"], [], False)

    def test_the_holder_of_a_seat_leaves_wherever_it_is(self) -> None:
        holder = instance(1, 1, device="1")
        holder.seats = frozenset({"port 8000"})
        newcomer = model(ModelSpec(name="new", footprint_mib=8, seats=frozenset({"port 8000"})))
        assert chosen(newcomer, state({"0": 20, "1": 5}, holder)) == (["0"], [1], False)
        beside = model(ModelSpec(name="new", footprint_mib=0, seats=frozenset({"port 8000"})))
        assert chosen(beside, state({"0": 20, "1": 5}, holder)) == ([], [1], False)

    def test_a_pinned_holder_of_a_seat_refuses_the_others(self) -> None:
        holder = instance(1, 1)
        holder.model = model(ModelSpec(name="holder", pinned=True))
        holder.seats = frozenset({"seat"})
        newcomer = model(ModelSpec(name="new", footprint_mib=8, seats=frozenset({"seat"})))
        there = state({"0": 20}, holder)
        assert chosen(newcomer, there) is None
        verdict = prospects_of(newcomer, there).never
        assert verdict is not None and "holder is pinned" in verdict.detail and not verdict.may_pass
