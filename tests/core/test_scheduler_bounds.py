"""How long a request can wait at most, whatever the others do; and that the same events give the same commands."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from story import LOAD_S, STOP_S, Story, model

from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import PolicySpec

POLICIES = st.builds(
    PolicySpec,
    queue_limit=st.just(100_000),
    patience_s=st.floats(min_value=0, max_value=30),
    drain_timeout_s=st.floats(min_value=0, max_value=60),
)
GAPS = st.lists(st.floats(min_value=0.5, max_value=5), min_size=1, max_size=5)
LENGTHS = st.lists(st.floats(min_value=0.1, max_value=200), min_size=1, max_size=5)


def keep_asking(story: Story, names: list[str], gaps: list[float], lengths: list[float], duration_s: float) -> None:
    """Requests for these models, in rotation, without a pause."""
    end, count = story.now + duration_s, 0
    while story.now < end:
        story.ask(names[count % len(names)], takes=lengths[count % len(lengths)])
        story.run_for(min(gaps[count % len(gaps)], end - story.now))
        count += 1


@settings(max_examples=30, deadline=None)
@given(policy=POLICIES, gaps=GAPS, lengths=LENGTHS, lead_s=st.floats(min_value=0, max_value=60))
def test_nobody_starves_behind_a_busy_resident(
    policy: PolicySpec, gaps: list[float], lengths: list[float], lead_s: float
) -> None:
    story = Story(model("busy"), model("other"), policy=policy)
    story.load("busy")
    story.run_for(LOAD_S)
    keep_asking(story, ["busy"], gaps, lengths, lead_s)
    asked_at, request = story.now, story.ask("other", takes=1)
    bound_s = policy.patience_s + policy.drain_timeout_s + STOP_S + LOAD_S
    keep_asking(story, ["busy"], gaps, lengths, bound_s + 0.01)
    assert story.granted_at[request] <= asked_at + bound_s + 1e-3


@settings(max_examples=12, deadline=None)
@given(policy=POLICIES, gaps=GAPS, lengths=LENGTHS, rivals=st.integers(min_value=2, max_value=4))
def test_a_request_waits_for_the_running_switch_and_one_of_each_rival_at_most(
    policy: PolicySpec, gaps: list[float], lengths: list[float], rivals: int
) -> None:
    names = [f"rival-{number}" for number in range(rivals)]
    story = Story(*(model(name) for name in names), model("other"), policy=policy)
    keep_asking(story, names, gaps, lengths, 100)
    asked_at, request = story.now, story.ask("other", takes=1)
    turn_s = policy.patience_s + policy.drain_timeout_s + STOP_S
    running_s = policy.drain_timeout_s + STOP_S  # a rival that drains now may have older requests waiting
    bound_s = running_s + rivals * (LOAD_S + turn_s) + LOAD_S
    keep_asking(story, names, gaps, lengths, bound_s + 0.01)
    assert story.granted_at[request] <= asked_at + bound_s + 1e-3


@settings(max_examples=10, deadline=None)
@given(policy=POLICIES, gaps=GAPS, lengths=LENGTHS)
def test_the_same_events_give_the_same_commands(policy: PolicySpec, gaps: list[float], lengths: list[float]) -> None:
    story = Story(model("a", 10), model("b", 10), model("c", 5), model("d"), policy=policy)
    keep_asking(story, ["a", "b", "a", "c", "d"], gaps, lengths, 100)
    again = Scheduler(story.witness.models, policy)
    for event, commands in story.witness.history:
        assert tuple(again.handle(event)) == commands
