"""Several devices, seats, measured memory and changed configurations, each told as a small story on a virtual clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from story import LOAD_S, STOP_S, Story, model

from llm_router.core.commands import Refusal
from llm_router.core.decisions import Action
from llm_router.core.events import RequestClass
from llm_router.core.reasons import WaitPhase
from llm_router.core.specs import PolicySpec

TWO = PolicySpec(budgets={"0": 24, "1": 24}, patience_s=10, patience_per_load=0, drain_timeout_s=60, backoff_base_s=2)
ONE = PolicySpec(budgets={"0": 24}, patience_s=10, patience_per_load=0, drain_timeout_s=60, backoff_base_s=2)


def resident(story: Story, *names: str) -> None:
    """Make these ready, one after the other, without anybody using them."""
    for name in names:
        story.load(name)
        story.run_for(LOAD_S)
        assert story.state_of(name) == "ready"
    story.started.clear()
    story.starts.clear()


class TestDevices:
    def test_models_on_different_devices_load_side_by_side(self) -> None:
        story = Story(model("a", 20), model("b", 20), policy=TWO)
        story.load("a")
        story.load("b")
        assert [(start.model, start.devices, start.reserved_mib) for start in story.starts] == [
            ("a", ("0",), {"0": 20}),
            ("b", ("1",), {"1": 20}),
        ]

    def test_small_ones_spread_over_idle_devices_rather_than_wait_for_each_other(self) -> None:
        story = Story(model("a", 5), model("b", 5), model("c", 5), policy=TWO)
        for name in "abc":
            story.load(name)
        assert [(start.model, start.devices) for start in story.starts] == [("a", ("0",)), ("b", ("1",))]
        story.run_for(LOAD_S)
        assert story.started == ["a", "b", "c"]

    def test_a_whole_device_has_no_reservation_in_numbers(self) -> None:
        story = Story(model("a", devices=("1",)), policy=TWO)
        story.load("a")
        assert (story.starts[0].devices, dict(story.starts[0].reserved_mib)) == (("1",), {})

    def test_who_needs_both_devices_is_not_overtaken_by_those_that_need_one(self) -> None:
        story = Story(model("a", 20), model("b", 20), model("both", 40), policy=TWO)
        resident(story, "a")
        story.ask("a", takes=30)
        both = story.ask("both", takes=1)
        story.ask("b", takes=1)
        assert story.started == []
        assert story.wait_of(both).phase is WaitPhase.QUEUED
        story.run()
        assert story.started == ["both", "b"]

    def test_an_eviction_on_one_device_leaves_the_other_alone(self) -> None:
        story = Story(model("a", 20, devices=("0",)), model("b", 20, devices=("1",)), model("c", 20, devices=("1",)))
        story = Story(*story.witness.models.values(), policy=TWO)
        resident(story, "a", "b")
        story.ask("c")
        assert story.stopped == ["b"] and story.is_granted(story.ask("a"))

    def test_an_adopted_instance_is_where_it_says(self) -> None:
        story = Story(model("a", 20), model("b", 20), policy=TWO)
        story.adopt(7, "a", devices=("1",))
        story.run_for(1)
        story.ask("b")
        assert story.starts[0].devices == ("0",)


class TestSeatsAndCompanions:
    def test_the_holder_of_a_seat_leaves_though_there_is_memory(self) -> None:
        story = Story(model("a", 5, seats={"port"}), model("b", 5, seats={"port"}), policy=TWO)
        resident(story, "a")
        request = story.ask("b")
        assert story.stopped == ["a"] and story.started == []
        story.run()
        assert story.is_granted(request)

    def test_a_seat_is_kept_by_who_takes_no_memory_too(self) -> None:
        story = Story(model("a", 0, seats={"port"}), model("b", 0, seats={"port"}), policy=TWO)
        story.load("a")
        story.load("b")
        assert story.started == ["a"]

    def test_companions_share_a_device_of_unknown_size(self) -> None:
        story = Story(model("a", companions={"b"}), model("b"), model("c"))
        resident(story, "a", "b")
        assert story.stopped == []
        story.ask("c")
        assert sorted(story.stopped) == ["a", "b"]


class TestMeasuredMemory:
    def test_an_estimate_that_was_too_high_makes_room(self) -> None:
        story = Story(model("a", 20), model("b", 10), policy=ONE)
        resident(story, "a")
        story.measure("a", d0=14)
        story.ask("b")
        assert story.started == ["b"]

    def test_an_estimate_that_was_too_low_takes_room_now_and_at_the_next_start(self) -> None:
        story = Story(model("a", 10), model("b", 12), policy=ONE)
        resident(story, "a")
        story.measure("a", d0=13)
        story.ask("b")
        assert story.stopped == ["a"]
        story.ask("a")
        story.run()
        assert next(start for start in story.starts if start.model == "a").reserved_mib == {"0": 13}

    def test_what_the_user_declared_is_only_raised(self) -> None:
        story = Story(model("a", 20, is_declared=True), model("b", 10), policy=ONE)
        resident(story, "a")
        story.measure("a", d0=14)
        story.ask("b")
        assert story.stopped == ["a"]

    def test_an_unknown_footprint_is_known_after_the_first_load(self) -> None:
        story = Story(model("a"), model("b", 10), policy=ONE)
        resident(story, "a")
        story.measure("a", d0=14)
        story.ask("b")
        assert story.started == ["b"] and story.stopped == []

    def test_a_footprint_that_is_what_it_was_is_no_news(self) -> None:
        story = Story(model("a"), policy=ONE)
        resident(story, "a")
        story.measure("a", d0=14)
        told = [story.witness.scheduler.decisions("a")[-1]]
        assert told[0].action is Action.FOOTPRINT_CHANGED
        story.measure("a", d0=14)
        assert [story.witness.scheduler.decisions("a")[-1]] == told

    def test_while_it_loads_it_is_not_done_growing(self) -> None:
        story = Story(model("a", 20), model("b", 10), policy=ONE)
        story.load("a")
        story.measure("a", d0=3)
        story.run_for(LOAD_S)
        story.ask("b")
        assert story.stopped == ["a"]

    def test_residents_that_have_grown_too_large_for_each_other_lose_the_cheapest(self) -> None:
        story = Story(model("a", 10), model("b", 10), policy=ONE)
        resident(story, "a", "b")
        story.close(story.ask("b"))
        story.measure("a", d0=16)
        assert story.stopped == ["a"]
        assert story.witness.scheduler.decisions("a")[-1].action is Action.LEFT


class TestOutOfMemory:
    def test_it_is_tried_once_more_with_more_room_and_who_waits_stays(self) -> None:
        story = Story(model("a", 8), model("b", 12), policy=ONE)
        resident(story, "b")
        story.out_of_memory_once.add("a")
        request = story.ask("a")
        story.run_for(LOAD_S)
        assert story.is_waiting(request) and story.starts[-1].reserved_mib == {"0": 11}
        story.run()
        assert story.is_granted(request) and story.stopped == []

    def test_an_unknown_footprint_has_the_device_to_itself_the_second_time(self) -> None:
        story = Story(model("a", companions={"b"}), model("b"), policy=ONE)
        resident(story, "b")
        story.out_of_memory_once.add("a")
        request = story.ask("a")
        story.run()
        assert story.started == ["a", "a"] and story.stopped == ["b"] and story.is_granted(request)

    def test_a_pinned_companion_refuses_only_the_attempt_that_wanted_to_be_alone(self) -> None:
        story = Story(model("a", companions={"b"}), model("b", pinned=True), policy=ONE)
        resident(story, "b")
        story.out_of_memory_once.add("a")
        request = story.ask("a")
        story.run()
        assert "b is pinned" in story.rejections[request].detail
        again = story.ask("a")
        story.run()
        assert story.is_granted(again)

    def test_the_second_time_in_a_row_is_a_failed_load(self) -> None:
        story = Story(model("a", 8), policy=ONE)
        request = story.ask("a")
        for _ in range(2):
            story.out_of_memory_once.add("a")
            story.crash("a", "CUDA out of memory", out_of_memory=True)
        assert story.rejections[request].refusal is Refusal.LOAD_FAILED
        assert story.rejections[request].detail == "CUDA out of memory"

    @pytest.mark.parametrize("footprint_mib", [None, 24])
    def test_who_had_the_whole_device_to_itself_can_have_no_more_and_is_not_tried_again(
        self, footprint_mib: int | None
    ) -> None:
        story = Story(model("a", footprint_mib), policy=ONE)
        story.out_of_memory_once.add("a")
        request = story.ask("a")
        story.run()
        assert story.started == ["a"]
        assert story.rejections[request].detail == "CUDA out of memory"

    def test_who_had_company_when_it_started_is_tried_again_though_that_has_left_meanwhile(self) -> None:
        story = Story(model("a", companions={"b"}), model("b"), policy=ONE)
        resident(story, "b")
        story.out_of_memory_once.add("a")
        request = story.ask("a")
        story.unload("b")
        story.run()
        assert story.started == ["a", "a"] and story.is_granted(request)

    def test_more_than_the_device_has_is_never_asked_for(self) -> None:
        story = Story(model("a", 22), policy=ONE)
        story.out_of_memory_once.add("a")
        request = story.ask("a")
        story.run()
        assert story.starts[-1].reserved_mib == {"0": 24} and story.is_granted(request)


class TestForeignMemory:
    def test_who_needs_what_others_hold_waits_for_a_while_and_goes_on_when_it_comes_back(self) -> None:
        story = Story(model("a", 20), policy=ONE)
        story.measure_device("0", 10)
        request = story.ask("a")
        story.run_for(ONE.room_timeout_s - 1)
        assert story.started == [] and "other programs" in story.wait_of(request).reason
        story.measure_device("0", 24)
        assert story.started == ["a"]

    def test_and_is_refused_with_the_reason_if_it_does_not(self) -> None:
        story = Story(model("a", 20), model("b", 5), policy=ONE)
        story.measure_device("0", 10)
        request, other = story.ask("a"), story.ask("b")
        assert story.started == ["b"], "nobody else waits with it"
        story.run_for(ONE.room_timeout_s)
        refused = story.rejections[request]
        assert refused.refusal is Refusal.NO_ROOM
        assert "10 MiB" in refused.detail and "other programs" in refused.detail
        assert story.is_granted(other)

    def test_residents_leave_when_their_device_shrinks_below_them(self) -> None:
        story = Story(model("a", 10), model("b", 10), policy=ONE)
        resident(story, "a", "b")
        running = story.ask("b")
        story.measure_device("0", 15)
        assert story.stopped == ["a"] and story.cut == []
        story.close(running)
        story.run()
        assert story.stopped == ["a"]

    def test_a_device_that_is_gone_takes_nobody_and_who_needs_it_is_told(self) -> None:
        story = Story(model("a", 10, devices=("1",)), model("b", 10), policy=TWO)
        story.measure_device("1", None)
        refused = story.rejections[story.ask("a")]
        assert refused.refusal is Refusal.NO_ROOM and "device 1 isn't there" in refused.detail
        story.ask("b")
        assert story.starts[0].devices == ("0",)
        story.measure_device("1", 24)
        story.ask("a")
        assert story.starts[1].devices == ("1",)


class TestResidency:
    def test_an_idle_model_stays_for_its_residency_and_serves_meanwhile(self) -> None:
        story = Story(model("a"), model("b"), policy=PolicySpec(min_residency_s=60, patience_s=5, patience_per_load=0))
        resident(story, "a")
        other = story.ask("b")
        story.run_for(59)
        assert story.is_granted(story.ask("a", takes=0.1)) and story.stopped == []
        story.run_for(1)
        assert story.stopped == ["a"]
        story.run()
        assert story.is_granted(other)

    @pytest.mark.parametrize("dear", ["a", "b"])
    def test_where_one_of_the_two_takes_long_to_load_turns_are_longer(self, dear: str) -> None:
        story = Story(model("a"), model("b"), policy=PolicySpec(patience_s=10, patience_per_load=0.5))
        story.load_times[dear] = 80
        for name in "ba":
            story.load(name)
            story.run_for(80 + STOP_S)
        story.ask("a")
        story.ask("b")
        story.run_for(39)
        assert story.state_of("a") == "ready"
        story.run_for(1)
        assert story.state_of("a") == "draining"

    def test_promises_keep_a_model_no_longer_than_open_requests_would(self) -> None:
        story = Story(model("a", concurrency=1), model("b"), policy=replace(ONE, budgets={"0": None}))
        promised = [story.ask("a", takes=30) for _ in range(9)]
        other = story.ask("b")
        story.run_for(LOAD_S + 10 + 60 - 1)
        assert story.state_of("a") == "ready"
        story.run_for(1)
        assert story.state_of("a") == "draining"
        story.run()
        assert story.granted_at[promised[0]] < story.granted_at[other] < story.granted_at[promised[-1]]


class TestIdleOnesInTheWay:
    """Two models are in the way of one that needs both devices; one of them is idle."""

    MODELS = (model("busy", 20, devices=("0",)), model("idle", 20, devices=("1",)), model("both", 40))

    def test_stay_and_serve_while_the_other_is_in_use(self) -> None:
        story = Story(*self.MODELS, policy=TWO)
        resident(story, "busy", "idle")
        running, request = story.ask("busy"), story.ask("both")
        assert story.stopped == []
        assert story.is_granted(story.ask("idle", takes=1))
        story.run_for(1)
        story.close(running)
        assert story.stopped == ["busy", "idle"]
        story.run()
        assert story.is_granted(request)

    def test_leave_when_their_turn_is_over_so_that_they_delay_nobody(self) -> None:
        story = Story(*self.MODELS, policy=TWO)
        resident(story, "busy", "idle")
        story.ask("busy", takes=30)
        story.ask("both")
        story.run_for(TWO.patience_s)
        assert (story.state_of("busy"), story.stopped) == ("draining", ["idle"])

    def test_leave_at_once_for_whom_their_room_is_enough(self) -> None:
        story = Story(*self.MODELS, model("one", 20), policy=TWO)
        resident(story, "busy", "idle")
        story.ask("busy")
        story.ask("one")
        assert story.stopped == ["idle"]


class TestUrgency:
    def test_what_is_ready_sooner_for_each_that_waits_goes_first(self) -> None:
        story = Story(model("a"), model("slow"), model("slow-but-wanted"), policy=ONE)
        story.load_times.update({"slow": 20, "slow-but-wanted": 20})
        for name in ("slow", "slow-but-wanted"):
            resident(story, name)
            story.unload(name)
            story.run_for(STOP_S)
        for name in ("a", "slow", "slow-but-wanted", "slow-but-wanted"):
            story.ask(name, takes=1)
        story.run()
        assert story.started == ["a", "slow-but-wanted", "slow"]


class TestClasses:
    @pytest.mark.parametrize("first", [RequestClass.BACKGROUND, RequestClass.NORMAL])
    def test_who_is_watched_goes_first(self, first: RequestClass) -> None:
        story = Story(model("a"), model("b"), model("c"))
        story.ask("a", takes=1)
        story.ask("b", takes=1, request_class=first)
        story.ask("c", takes=1, request_class=RequestClass.INTERACTIVE)
        story.run()
        assert story.started == ["a", "c", "b"]

    def test_but_not_before_who_has_waited_longer_than_the_handicap(self) -> None:
        story = Story(model("a"), model("b"), model("c"), policy=PolicySpec(background_handicap_s=60))
        story.load_times["a"] = 70
        story.ask("a", takes=1)
        story.ask("b", takes=1, request_class=RequestClass.BACKGROUND)
        story.run_for(61)
        story.ask("c", takes=1, request_class=RequestClass.INTERACTIVE)
        story.run()
        assert story.started == ["a", "b", "c"]

    def test_places_of_one_model_go_by_class_too(self) -> None:
        story = Story(model("a", concurrency=1))
        resident(story, "a")
        running = story.ask("a")
        later = story.ask("a", request_class=RequestClass.BACKGROUND)
        sooner = story.ask("a", request_class=RequestClass.INTERACTIVE)
        assert story.wait_of(later).position == 1
        story.close(running)
        assert story.is_granted(sooner) and story.is_waiting(later)

    def test_places_of_the_router_are_shared_by_all_models(self) -> None:
        story = Story(model("a", 0), model("b", 0), policy=PolicySpec(concurrency=2))
        resident(story, "a", "b")
        first, second = story.ask("a"), story.ask("b")
        third, fourth = story.ask("b"), story.ask("a")
        assert story.is_granted(first, second) and story.is_waiting(third, fourth)
        assert "all places of the router" in story.wait_of(third).reason
        story.close(first)
        assert story.is_granted(third) and story.is_waiting(fourth)


class TestChangedModels:
    A, B = model("a", 10, launch_key="old"), model("b", 10)

    def test_a_changed_launch_drains_leaves_and_comes_back_for_who_waits(self) -> None:
        story = Story(self.A, self.B, policy=ONE)
        resident(story, "a", "b")
        running, untouched = story.ask("a"), story.ask("b")
        story.configure(replace(self.A, launch_key="new"), self.B)
        assert story.state_of("a") == "draining" and story.state_of("b") == "ready" and story.cut == []
        waiting = story.ask("a")
        story.close(running)
        story.run()
        assert story.is_granted(waiting, untouched) and story.started == ["a"]

    def test_a_load_of_an_old_launch_is_given_up_at_once(self) -> None:
        story = Story(self.A, policy=ONE)
        request = story.ask("a")
        story.configure(replace(self.A, launch_key="new"))
        assert story.stopped == ["a"]
        story.run()
        assert story.started == ["a", "a"] and story.is_granted(request)

    def test_who_waits_for_a_removed_model_is_refused_and_it_leaves(self) -> None:
        story = Story(model("a", 10, concurrency=1), self.B, policy=ONE)
        resident(story, "a")
        running, waiting = story.ask("a"), story.ask("a")
        story.configure(self.B)
        assert story.rejections[waiting].refusal is Refusal.NOT_READY
        assert story.rejections[story.ask("a")].refusal is Refusal.NOT_READY
        story.close(running)
        story.run()
        assert story.cut == [] and story.stopped == ["a"]

    def test_a_model_that_comes_back_before_it_has_left_stays(self) -> None:
        story = Story(self.A, self.B, policy=ONE)
        resident(story, "a")
        running = story.ask("a")
        story.configure(self.B)
        story.configure(self.A, self.B)
        assert story.state_of("a") == "ready" and story.is_granted(story.ask("a"))
        story.close(running)

    def test_what_shapes_no_start_holds_at_once(self) -> None:
        story = Story(self.A, policy=ONE)
        resident(story, "a")
        story.ask("a")
        story.configure(replace(self.A, concurrency=1))
        assert story.is_waiting(story.ask("a")) and story.stopped == []

    def test_a_new_model_can_be_used_and_a_repaired_one_is_tried_again(self) -> None:
        story = Story(self.A, policy=ONE)
        story.broken["a"] = "no such file"
        story.ask("a")
        story.run()
        del story.broken["a"]
        story.configure(replace(self.A, launch_key="repaired"), self.B)
        requests = [story.ask("a", takes=1), story.ask("b", takes=1)]
        story.run()
        assert story.is_granted(*requests)


class TestExplaining:
    def test_the_decisions_tell_the_story(self) -> None:
        story = Story(model("a", 20), model("b", 20), policy=ONE)
        resident(story, "a")
        story.ask("a")
        story.ask("b")
        story.run_for(ONE.patience_s)
        told = [(decision.model, decision.action) for decision in story.witness.scheduler.decisions()]
        assert told == [
            ("a", Action.STARTED),
            ("b", Action.WAITS),
            ("a", Action.TURN_ENDED),
        ]
        assert "b has waited for 10s" in story.witness.scheduler.decisions("a")[-1].reason

    def test_why_says_what_it_needs_where_that_is_and_who_would_leave(self) -> None:
        story = Story(model("a", 20), model("b", 20), policy=ONE)
        resident(story, "a")
        story.ask("a")
        story.ask("b")
        why = story.witness.scheduler.why("b")
        assert why is not None
        assert (why.state, why.waiting, why.would_leave, why.never) == (None, 1, ("a",), None)
        assert why.needs_mib == {"0": 20}
        assert [(room.device, room.budget_mib, room.reserved_mib) for room in why.rooms] == [("0", 24, {"a": 20})]
        assert list(why.urgency) == ["b"] and "a must leave first" in why.reason
        assert why.decisions[-1].action is Action.WAITS
        assert story.witness.scheduler.why("nobody") is None

    def test_what_leaves_nobody_any_room_is_said_before_anybody_asks(self) -> None:
        story = Story(model("a", 30), policy=ONE)
        why = story.witness.scheduler.why("a")
        assert why is not None and why.never is not None and "30 MiB" in why.never

    def test_the_expected_wait_is_the_loads_in_front_and_its_own(self) -> None:
        story = Story(model("a"), model("b"), policy=PolicySpec(drain_timeout_s=0))
        for name in "ab":
            resident(story, name)
            story.unload(name)
            story.run_for(STOP_S)
        story.ask("a")
        request = story.ask("b")
        story.run_for(5)
        wait = story.witness.scheduler.wait_of(request, story.now)
        assert wait is not None and (wait.ahead, wait.expected_s) == (1, LOAD_S - 5 + LOAD_S)


# -- another policy


def test_a_larger_budget_holds_at_once() -> None:
    small, large = model("a", 6000), model("b", 6000)
    story = Story(small, large, policy=PolicySpec(budgets={"0": 8000}, patience_s=30.0))
    first = story.ask("a")
    story.run_for(LOAD_S)
    second = story.ask("b")
    story.run_for(1)
    assert story.is_waiting(second)
    story.configure(small, large, policy=PolicySpec(budgets={"0": 16000}))
    story.run_for(LOAD_S)
    assert story.is_granted(first, second)


def test_under_a_smaller_budget_somebody_leaves() -> None:
    models = model("a", 6000), model("b", 6000)
    story = Story(*models, policy=PolicySpec(budgets={"0": 16000}))
    story.ask("a", takes=1)
    story.ask("b", takes=1)
    story.run_for(3 * LOAD_S)
    story.configure(*models, policy=PolicySpec(budgets={"0": 8000}))
    story.run_for(LOAD_S)
    assert sorted(story.state_of(name) for name in "ab") == ["absent", "ready"]


def test_a_device_that_is_not_named_any_more_is_left_and_a_new_one_is_used() -> None:
    story = Story(model("a", 6000), policy=PolicySpec(budgets={"0": 8000}))
    story.ask("a", takes=1)
    story.run_for(2 * LOAD_S)
    story.configure(model("a", 6000), policy=PolicySpec(budgets={"1": 8000}))
    story.run_for(STOP_S)
    assert story.state_of("a") == "absent"
    story.ask("a")
    story.run_for(LOAD_S)
    assert story.starts[-1].devices == ("1",)


def test_a_shorter_queue_and_patience_hold_at_once() -> None:
    models = model("a", 6000), model("b", 6000)
    story = Story(*models, policy=PolicySpec(budgets={"0": 8000}, patience_s=1000.0, patience_most_s=1000.0))
    story.ask("a")
    story.run_for(LOAD_S)
    waiting = story.ask("b")
    story.run_for(100)
    assert story.is_waiting(waiting)
    story.configure(*models, policy=PolicySpec(budgets={"0": 8000}, patience_s=0.0, queue_limit=1, drain_timeout_s=5.0))
    assert story.ask("b") in story.rejections
    story.run_for(2 * LOAD_S)
    assert story.is_granted(waiting)
