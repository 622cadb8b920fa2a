"""What fits together, and the smallest set that must leave."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.core.placement import cheapest_eviction, fits
from llm_router.core.specs import ModelSpec
from llm_router.core.state import Instance, Lifecycle, ModelState

RESIDENTS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 4, 7, 10, None]),  # footprint
        st.booleans(),  # pinned
        st.booleans(),  # busy
        st.integers(min_value=0, max_value=3),  # last used
    ),
    max_size=5,
)


@pytest.mark.parametrize(
    ("footprints", "budget_mib", "expected"),
    [
        ([], 20, True),
        ([10, 10], 20, True),
        ([10, 11], 20, False),
        ([None], 20, True),
        ([None, 1], 20, False),
        ([None, 0, 0], 20, True),
        ([0, 0], None, True),
        ([10], None, True),
        ([10, 10], None, False),
        ([21], 20, False),
    ],
)
def test_sharing_needs_known_footprints_and_a_known_budget(
    footprints: list[int | None], budget_mib: int | None, expected: bool
) -> None:
    assert fits(footprints, budget_mib) is expected


def instance(number: int, footprint_mib: int | None, pinned: bool, busy: bool, last_used_at: float) -> Instance:
    spec = ModelSpec(name=f"m{number}", footprint_mib=footprint_mib, pinned=pinned)
    found = Instance(id=number, model=ModelState(spec), since=0.0, slots=1, last_used_at=last_used_at)
    found.lifecycle = Lifecycle.READY
    if busy:
        found.leases[number] = None
    return found


@given(described=RESIDENTS, newcomer=st.sampled_from([1, 5, 10, 20, None]))
def test_an_eviction_is_enough_and_nobody_in_it_could_have_stayed(
    described: list[tuple[int | None, bool, bool, int]], newcomer: int | None
) -> None:
    residents = [instance(number, *description) for number, description in enumerate(described, 1)]

    def is_enough(leaving: tuple[Instance, ...]) -> bool:
        staying = [r.model.spec.footprint_mib for r in residents if r not in leaving]
        return fits([*staying, newcomer], 20)

    leaving = cheapest_eviction(residents, (newcomer,), 20)
    assert not any(r.model.spec.pinned for r in leaving)
    if not is_enough(leaving):
        assert leaving == ()
        assert not is_enough(tuple(r for r in residents if not r.model.spec.pinned))
    for kept in leaving:
        assert not is_enough(tuple(r for r in leaving if r is not kept))


@given(described=RESIDENTS, newcomer=st.sampled_from([1, 5, 10, 20, None]))
def test_busy_residents_leave_only_if_the_idle_ones_are_not_enough(
    described: list[tuple[int | None, bool, bool, int]], newcomer: int | None
) -> None:
    residents = [instance(number, *description) for number, description in enumerate(described, 1)]
    leaving = cheapest_eviction(residents, (newcomer,), 20)
    idle = [r for r in residents if not r.is_busy and not r.model.spec.pinned]
    staying_if_idle_left = [r.model.spec.footprint_mib for r in residents if r not in idle]
    if fits([*staying_if_idle_left, newcomer], 20):
        assert not any(r.is_busy for r in leaving)


def test_among_equals_the_least_recently_used_leaves() -> None:
    for order in itertools.permutations([1.0, 2.0, 3.0]):
        residents = [instance(number, 7, False, False, used) for number, used in enumerate(order, 1)]
        assert [r.last_used_at for r in cheapest_eviction(residents, (5,), 21)] == [1.0]
