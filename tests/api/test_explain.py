"""What the scheduler says of its decisions, as programs read it."""

from __future__ import annotations

import json

from llm_router.api import explain
from llm_router.api.explain import Clocks
from llm_router.core.events import InstanceReady, RequestArrived
from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import ModelSpec, PolicySpec

MIB = {"a": 6000, "b": 7000}


def busy_with_a() -> Scheduler:
    """`a` is ready and in use on a device of 10000 MiB, and `b` waits for its place since second 20."""
    models = {name: ModelSpec(name=name, footprint_mib=size) for name, size in MIB.items()}
    scheduler = Scheduler(models, PolicySpec(budgets={"0": 10000}))
    scheduler.handle(RequestArrived(at=10.0, request=1, model="a"))
    scheduler.handle(InstanceReady(at=14.0, instance=1))
    scheduler.handle(RequestArrived(at=20.0, request=2, model="b"))
    return scheduler


def test_a_wait_is_explained_with_what_stands_behind_it() -> None:
    found = busy_with_a().why("b")
    assert found is not None
    told = explain.why(found, Clocks(now=25.0, wall=1_000_025.0))
    assert json.loads(json.dumps(told)) == told
    assert (told["model"], told["state"], told["waiting"]) == ("b", "unloaded", 1)
    assert told["reason"] == found.reason
    assert (told["footprint_mib"], told["needs_mib"]) == (7000, {"0": 7000})
    assert told["devices"] == [{"device": "0", "budget_mib": 10000, "is_there": True, "reserved_mib": {"a": 6000}}]
    assert told["would_leave"] == ["a"]
    assert told["never"] is None
    assert list(told["urgency"]) == ["b"]


def test_a_resident_is_explained_too() -> None:
    found = busy_with_a().why("a")
    assert found is not None
    told = explain.why(found, Clocks(now=25.0, wall=0.0))
    assert (told["state"], told["would_leave"]) == ("ready", [])
    assert told["load_s"] == 4.0


def test_decisions_have_the_time_of_day() -> None:
    scheduler = busy_with_a()
    told = explain.decisions(scheduler.decisions(), Clocks(now=25.0, wall=1_000_025.0))
    started = told[0]
    assert (started["model"], started["action"]) == ("a", "started")
    assert (started["at"], started["ago_s"]) == (1_000_010.0, 15.0)
    assert started["reason"]
    only_b = explain.decisions(scheduler.decisions("b"), Clocks(now=25.0, wall=0.0))
    assert {one["model"] for one in only_b} == {"b"}
