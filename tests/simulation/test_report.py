"""The page in the documentation is what the command prints, and what the project says of its policy is true there."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router.core.specs import PolicySpec
from llm_router.simulation import report
from llm_router.simulation.builtin import BUILTIN, agent_ping_pong
from llm_router.simulation.compare import play

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "policy.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == report.page(), "run `make policy`"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", BUILTIN)
def test_no_rule_of_another_tool_has_a_better_p95_on_a_built_in_trace(name: str, seed: int) -> None:
    rules = ["llm-router", "ready-first", "lru", "fifo"]
    runs = {run.rule: run.figures for run in play(BUILTIN[name](seed), PolicySpec(), rules=rules)}
    ours = runs.pop("llm-router")
    assert ours.served + ours.cut == ours.requests
    assert ours.cut <= 1, "only an answer that outlives the drain time-out, and that is rare"
    assert ours.ttft_p95_s <= min(other.ttft_p95_s for other in runs.values())


@pytest.mark.parametrize("seed", range(4))
def test_agents_in_ping_pong_wait_half_as_long_and_switch_a_third_as_often_as_first_come_first_served(
    seed: int,
) -> None:
    runs = {run.rule: run.figures for run in play(agent_ping_pong(seed), PolicySpec(), rules=["llm-router", "fifo"])}
    ours, fifo = runs["llm-router"], runs["fifo"]
    assert 2 * ours.ttft_p95_s <= fifo.ttft_p95_s
    assert 3 * ours.loads <= fifo.loads


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.00 s"), (0.421, "0.42 s"), (4.24, "4.2 s"), (42.4, "42 s"), (4242.4, "4242 s")]
)
def test_seconds_are_short(value: float, text: str) -> None:
    assert report.seconds(value) == text
