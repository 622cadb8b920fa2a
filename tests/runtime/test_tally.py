"""What is counted of requests: by model and outcome, with their tokens and times."""

from __future__ import annotations

from typing import Any

from llm_router.relay.headers import RequestHead
from llm_router.relay.recorder import Ended
from llm_router.relay.request import Kind
from llm_router.runtime.tally import Histogram, Requests

ENDED = Ended(
    model="m",
    kind=Kind.CHAT,
    outcome="completed",
    since=100.0,
    sent_at=100.001,
    first_at=0.0,
    now=103.0,
    prompt_n=0,
    completion_n=0,
    rate=0.0,
    client=RequestHead([]),
    upstream=None,
)


def ended(requests: Requests, **other: Any) -> None:
    requests.ended(ENDED._replace(**other))


def test_a_value_on_a_bound_counts_for_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 14.0


def test_requests_are_counted_by_model_kind_and_outcome() -> None:
    requests = Requests()
    for kind, outcome in [(Kind.CHAT, "completed"), (Kind.CHAT, "completed"), (Kind.RAW, "cancelled")]:
        ended(requests, kind=kind, outcome=outcome)
    ended(requests, model="other", outcome="no_room")
    assert set(requests.models["m"].requests()) == {(Kind.CHAT, "completed", 2), (Kind.RAW, "cancelled", 1)}
    assert list(requests.models["other"].requests()) == [(Kind.CHAT, "no_room", 1)]


def test_tokens_add_up() -> None:
    requests = Requests()
    ended(requests, prompt_n=10, completion_n=4)
    ended(requests, prompt_n=1, completion_n=2)
    tally = requests.models["m"]
    assert (tally.prompt_tokens, tally.completion_tokens) == (11, 6)


def test_a_request_that_was_never_sent_has_waited_for_nothing() -> None:
    requests = Requests()
    ended(requests, sent_at=0.0)
    assert sum(requests.models["m"].waits.counts) == 0
    assert sum(requests.models["m"].durations.counts) == 1


def test_a_wait_is_told_from_none() -> None:
    requests = Requests()
    ended(requests, sent_at=100.0001)
    ended(requests, sent_at=102.0)
    waits = requests.models["m"].waits
    assert (sum(waits.counts), waits.counts[0], waits.total) == (2, 1, 2.0)


def test_only_streams_have_a_first_token_and_a_speed() -> None:
    requests = Requests()
    ended(requests)
    ended(requests, first_at=101.0, rate=45.0)
    tally = requests.models["m"]
    assert (sum(tally.first_tokens.counts), tally.first_tokens.total) == (1, 1.0)
    assert (sum(tally.rates.counts), tally.rates.total) == (1, 45.0)


def test_what_ended_is_taken_once_with_the_time_of_day() -> None:
    requests = Requests()
    ended(requests, prompt_n=3, completion_n=4, first_at=101.0)
    ended(requests, sent_at=0.0, outcome="no_room")
    first, second = requests.taken(monotonic_s=113.0, epoch_s=5000.0)
    assert (first.at, first.took_s, first.first_token_s, first.prompt_tokens) == (4990.0, 3.0, 1.0, 3)
    assert (second.outcome, second.wait_s, second.first_token_s) == ("no_room", None, None)
    assert requests.taken(113.0, 5000.0) == []


def test_a_storm_of_requests_is_counted_but_not_all_of_it_written_down() -> None:
    requests = Requests()
    for _ in range(5000):
        ended(requests)
    assert len(requests.taken(113.0, 5000.0)) == 2000
    assert sum(requests.models["m"].durations.counts) == 5000
