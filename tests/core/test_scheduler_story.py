"""The rules of the scheduler, each told as a small story on a virtual clock. The laws hold at every step of it."""

from __future__ import annotations

import math

import pytest
from story import LOAD_S, STOP_S, Story, model

from llm_router.core.commands import Refusal
from llm_router.core.events import InstanceGone, InstanceReady, RequestClosed, TimerFired, TimerKey, TimerKind
from llm_router.core.reasons import WaitPhase
from llm_router.core.specs import PolicySpec

POLICY = PolicySpec(patience_s=10.0, patience_per_load=0, drain_timeout_s=60.0, backoff_base_s=2.0, backoff_max_s=8.0)


def resident(story: Story, *names: str) -> None:
    """Make these ready, without anybody using them."""
    for name in names:
        story.load(name)
        story.run_for(LOAD_S)
        assert story.state_of(name) == "ready"
    story.started.clear()


class TestGranting:
    def test_a_request_for_a_ready_model_is_granted_at_once_and_its_end_says_nothing(self) -> None:
        story = Story(model("a"), policy=POLICY)
        resident(story, "a")
        request = story.ask("a")
        assert story.is_granted(request)
        assert story.post(RequestClosed(at=story.now, request=request)) == []

    def test_the_first_request_loads_the_model_and_is_granted_when_it_is_ready(self) -> None:
        story = Story(model("a"), policy=POLICY)
        request = story.ask("a")
        story.run_for(LOAD_S - 1)
        assert story.is_waiting(request) and story.started == ["a"]
        story.run_for(1)
        assert story.is_granted(request)

    def test_requests_beyond_the_concurrency_wait_in_order_of_arrival(self) -> None:
        story = Story(model("a", concurrency=2), policy=POLICY)
        resident(story, "a")
        first, second, third, fourth = (story.ask("a") for _ in range(4))
        assert story.is_granted(first, second) and story.is_waiting(third, fourth)
        assert story.wait_of(fourth).phase is WaitPhase.BUSY and story.wait_of(fourth).position == 1
        story.close(second)
        assert story.is_granted(third) and story.is_waiting(fourth)

    def test_a_request_for_a_model_nobody_configured_is_refused(self) -> None:
        story = Story(model("a"))
        assert story.rejections[story.ask("b")].refusal is Refusal.NOT_READY


class TestTheQueue:
    def test_one_request_too_many_is_refused_with_a_guess_from_past_loads(self) -> None:
        story = Story(model("a"), model("b"), policy=PolicySpec(queue_limit=2, patience_s=10.0))
        resident(story, "b")
        story.unload("b")
        story.run()
        story.ask("b")
        story.run_for(5)
        story.ask("a")
        refused = story.rejections[story.ask("b")]
        assert refused.refusal is Refusal.QUEUE_FULL
        assert refused.retry_after_s == LOAD_S - 5

    def test_a_full_queue_does_not_stop_what_can_be_granted(self) -> None:
        story = Story(model("a"), model("b"), policy=PolicySpec(queue_limit=1))
        resident(story, "a")
        story.ask("a")
        story.ask("b")
        assert story.is_granted(story.ask("a"))

    def test_a_client_that_leaves_makes_room_in_the_queue(self) -> None:
        story = Story(model("a"), policy=PolicySpec(queue_limit=1))
        story.close(story.ask("a"))
        assert story.is_waiting(story.ask("a"))


class TestBackgroundRequests:
    def test_they_are_served_by_the_resident(self) -> None:
        story = Story(model("a"))
        resident(story, "a")
        assert story.is_granted(story.ask("a", background=True))

    def test_they_never_start_a_switch(self) -> None:
        story = Story(model("a"))
        assert story.rejections[story.ask("a", background=True)].refusal is Refusal.NOT_READY
        assert story.started == []

    def test_they_never_wait_for_a_place(self) -> None:
        story = Story(model("a", concurrency=1))
        resident(story, "a")
        story.ask("a")
        assert story.rejections[story.ask("a", background=True)].refusal is Refusal.NOT_READY

    def test_they_never_delay_a_switch(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.ask("a")
        story.ask("b")
        assert story.is_granted(story.ask("a"))
        assert story.rejections[story.ask("a", background=True)].refusal is Refusal.NOT_READY


class TestOneStartAtATime:
    def test_models_that_compete_load_one_after_the_other_even_if_both_fit(self) -> None:
        story = Story(model("a", 10), model("b", 10), policy=PolicySpec(budgets={"gpu": 20}))
        story.ask("a")
        request = story.ask("b")
        assert story.started == ["a"]
        assert story.wait_of(request).phase is WaitPhase.QUEUED and story.wait_of(request).ahead == 1
        story.run_for(LOAD_S)
        assert story.started == ["a", "b"]

    def test_models_that_take_no_room_load_at_any_time(self) -> None:
        story = Story(model("a"), model("embed", 0), model("rerank", 0))
        for name in ("a", "embed", "rerank"):
            story.ask(name)
        assert story.started == ["a", "embed", "rerank"]

    def test_a_load_goes_on_when_everybody_who_waited_has_left(self) -> None:
        story = Story(model("a"))
        story.close(story.ask("a"))
        story.run()
        assert story.state_of("a") == "ready" and story.stopped == []


class TestPlacement:
    def test_known_footprints_share_the_device_up_to_its_budget(self) -> None:
        story = Story(model("a", 10), model("b", 10), model("c", 5), policy=PolicySpec(budgets={"gpu": 20}))
        resident(story, "a", "b")
        assert story.stopped == []
        story.ask("c")
        assert story.stopped == ["a"]

    def test_an_unknown_footprint_takes_the_whole_device(self) -> None:
        story = Story(model("a", 1), model("b"), policy=PolicySpec(budgets={"gpu": 20}))
        resident(story, "a")
        story.ask("b")
        assert story.stopped == ["a"]

    def test_idle_residents_leave_before_busy_ones_and_then_the_least_recently_used(self) -> None:
        story = Story(
            model("a", 5), model("b", 5), model("c", 5), model("d", 5), policy=PolicySpec(budgets={"gpu": 15})
        )
        resident(story, "a", "b", "c")
        story.ask("a")
        story.run_for(1)
        story.close(story.ask("b"))
        story.ask("d")
        assert story.stopped == ["c"]

    def test_no_more_leave_than_needed(self) -> None:
        story = Story(model("small", 2), model("big", 18), model("new", 18), policy=PolicySpec(budgets={"gpu": 20}))
        resident(story, "small", "big")
        story.ask("new")
        assert story.stopped == ["big"]

    def test_who_can_only_fit_in_the_place_of_a_pinned_model_is_refused_with_the_remedy(self) -> None:
        story = Story(model("a", 10, pinned=True), model("b", 15), policy=PolicySpec(budgets={"gpu": 20}))
        resident(story, "a")
        refused = story.rejections[story.ask("b")]
        assert refused.refusal is Refusal.NO_ROOM
        assert "a is pinned" in refused.detail and "unload a" in refused.detail
        assert story.stopped == []

    def test_who_is_bigger_than_the_device_is_refused(self) -> None:
        story = Story(model("a", 21), policy=PolicySpec(budgets={"gpu": 20}))
        refused = story.rejections[story.ask("a")]
        assert refused.refusal is Refusal.NO_ROOM and "21 MiB" in refused.detail and "20 MiB" in refused.detail

    def test_a_pinned_model_leaves_when_someone_unloads_it(self) -> None:
        story = Story(model("a", pinned=True), model("b"), policy=POLICY)
        resident(story, "a")
        story.unload("a")
        request = story.ask("b")
        story.run()
        assert story.is_granted(request)

    def test_the_room_counts_as_taken_until_the_old_instance_is_gone(self) -> None:
        story = Story(model("a"), model("b"))
        resident(story, "a")
        request = story.ask("b")
        assert story.state_of("a") == "stopping" and story.started == []
        assert story.wait_of(request).phase is WaitPhase.STOPPING
        story.run_for(STOP_S)
        assert story.started == ["b"]


class TestTurns:
    def test_an_idle_resident_leaves_at_once(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.ask("b")
        assert story.stopped == ["a"]

    def test_a_busy_resident_leaves_when_its_last_request_ends(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        running = story.ask("a")
        story.ask("b")
        assert story.stopped == []
        story.close(running)
        assert story.stopped == ["a"]

    def test_a_busy_resident_serves_newcomers_until_the_patience_of_the_others_is_over(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.ask("a")
        other = story.ask("b")
        assert story.wait_of(other).phase is WaitPhase.QUEUED
        story.run_for(9)
        assert story.is_granted(story.ask("a"))
        story.run_for(1)
        assert story.state_of("a") == "draining"
        assert story.wait_of(other).phase is WaitPhase.DRAINING
        late = story.ask("a")
        assert story.wait_of(late).phase is WaitPhase.QUEUED and "makes room for b" in story.wait_of(late).reason

    def test_a_turn_ends_by_the_clock_even_if_its_timer_is_late(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.ask("a")
        story.ask("b")
        story.now += 10
        assert story.is_waiting(story.ask("a"))
        assert story.state_of("a") == "draining"

    def test_an_early_timer_changes_nothing_and_is_set_again(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.ask("a")
        story.ask("b")
        timer = TimerKey(TimerKind.PATIENCE, story.instance_of("a"))
        story.post(TimerFired(at=story.now + 9, timer=timer))
        assert story.state_of("a") == "ready" and timer in story.witness.timers

    def test_requests_that_outlive_the_drain_deadline_are_cut(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        endless = story.ask("a")
        other = story.ask("b")
        story.run_for(POLICY.patience_s + POLICY.drain_timeout_s - 1)
        assert story.cut == [] and story.stopped == []
        story.run_for(1)
        assert story.cut == [endless] and story.stopped == ["a"]
        story.run()
        assert story.is_granted(other)

    def test_a_resident_has_its_turn_after_it_became_ready_however_long_others_have_waited(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        story.ask("a")
        story.ask("b")
        story.run_for(LOAD_S)
        story.run_for(POLICY.patience_s - 1)
        assert story.is_granted(story.ask("a"))

    def test_whoever_waited_when_the_model_became_ready_is_served_before_it_leaves(self) -> None:
        story = Story(model("a", concurrency=1), model("b"), policy=POLICY)
        waiting = [story.ask("a", takes=30) for _ in range(3)]
        story.ask("b")
        story.run_for(LOAD_S + 1)
        late = story.ask("a")
        story.run_for(60)
        assert story.is_granted(*waiting) and story.is_waiting(late)
        assert story.stopped == [] and story.state_of("a") == "draining"

    def test_the_drain_is_called_off_when_nobody_waits_for_the_other_model_any_more(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.ask("a")
        other = story.ask("b")
        story.run_for(POLICY.patience_s)
        late = story.ask("a")
        assert story.is_waiting(late)
        story.close(other)
        assert story.is_granted(late) and story.state_of("a") == "ready"

    def test_a_drain_goes_on_for_who_asked_later_and_grants_nothing_meanwhile(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.ask("a")
        first = story.ask("b")
        story.run_for(POLICY.patience_s - 1)
        story.ask("b")
        story.run_for(1)
        late = story.ask("a")
        story.close(first)
        assert story.state_of("a") == "draining" and story.is_waiting(late)

    def test_a_turn_is_as_long_as_the_oldest_who_needs_the_room_has_patience(self) -> None:
        story = Story(model("a"), model("b"), model("c", priority=1), policy=POLICY)
        resident(story, "a")
        story.ask("a")
        story.ask("b")
        story.run_for(POLICY.patience_s - 1)
        story.ask("c")
        story.run_for(1)
        assert story.state_of("a") == "draining"

    def test_who_becomes_idle_leaves_instead_of_who_was_told_to(self) -> None:
        policy = PolicySpec(budgets={"gpu": 20}, patience_s=5, patience_per_load=0)
        story = Story(model("a", 10), model("b", 10), model("c", 10), policy=policy)
        resident(story, "a", "b")
        story.ask("a")
        story.run_for(1)
        running = story.ask("b")
        story.ask("c")
        story.run_for(5)
        assert story.state_of("a") == "draining"
        story.close(running)
        assert story.stopped == ["b"] and story.state_of("a") == "ready"

    def test_nobody_leaves_for_a_model_that_could_not_start_yet(self) -> None:
        specs = (model("a", 10), model("b", 10), model("c", 10))
        story = Story(*specs, policy=PolicySpec(budgets={"gpu": 20}, patience_s=5))
        resident(story, "a")
        story.ask("b")
        story.ask("c")
        story.run_for(LOAD_S - 1)
        assert story.stopped == [] and story.is_granted(story.ask("a", takes=0.5))
        story.run_for(1)
        assert story.stopped == ["a"]

    def test_what_left_for_another_model_comes_back_only_after_it_even_with_a_higher_priority(self) -> None:
        story = Story(model("a", priority=5), model("b"), policy=POLICY)
        resident(story, "a")
        running = story.ask("a")
        other = story.ask("b")
        story.run_for(POLICY.patience_s)
        late = story.ask("a")
        story.close(running)
        story.run_for(STOP_S + LOAD_S)
        assert story.started == ["b"] and story.is_granted(other)
        story.close(other)
        story.run()
        assert story.is_granted(late)


class TestTheOrderOfSwitches:
    @pytest.mark.parametrize(("loaded_first", "starts"), [((), 3), (("a",), 2)])
    def test_a_mixed_burst_costs_one_start_for_each_model(self, loaded_first: tuple[str, ...], starts: int) -> None:
        story = Story(model("a"), model("b"), model("c"), policy=POLICY)
        resident(story, *loaded_first)
        requests = [story.ask(name, takes=3) for name in "abaacabc"]
        story.run()
        assert story.is_granted(*requests)
        assert len(story.started) == starts

    def test_the_oldest_request_decides_who_is_next(self) -> None:
        story = Story(model("a"), model("b"), model("c"), policy=POLICY)
        for name in "abcb":
            story.ask(name, takes=1)
        story.run()
        assert story.started == ["a", "b", "c"]

    def test_who_is_more_urgent_has_the_first_choice_from_the_moment_he_comes(self) -> None:
        policy = PolicySpec(budgets={"gpu": 20}, switch_share=0)
        models = model("a", 10), model("b", 10), model("large", 20), model("small", 10, priority=1)
        story = Story(*models, policy=policy)
        resident(story, "a", "b")
        story.ask("a")
        story.ask("large")
        story.run_for(1)
        assert story.stopped == [], "its leaving alone wouldn't help the large one"
        story.ask("small")
        assert story.stopped == ["b"]

    def test_a_higher_priority_goes_first(self) -> None:
        story = Story(model("a"), model("b"), model("c", priority=1), policy=POLICY)
        for name in "abc":
            story.ask(name, takes=1)
        story.run()
        assert story.started == ["a", "c", "b"]


class TestFailures:
    def test_a_model_that_cant_be_started_is_refused_and_nothing_leaves_for_it(self) -> None:
        story = Story(model("a"), model("b", unusable="no such file"), policy=POLICY)
        resident(story, "a")
        refused = story.rejections[story.ask("b")]
        assert (refused.refusal, refused.detail, refused.retry_after_s) == (Refusal.LOAD_FAILED, "no such file", None)
        story.load("b")
        story.run()
        assert (story.started, story.stopped) == ([], [])

    def test_a_failed_load_refuses_who_waits_and_newcomers_until_the_back_off_is_over(self) -> None:
        story = Story(model("a"), policy=POLICY)
        story.broken["a"] = "CUDA out of memory"
        waiting = story.ask("a")
        story.run_for(LOAD_S)
        refused = story.rejections[waiting]
        assert (refused.refusal, refused.detail) == (Refusal.LOAD_FAILED, "CUDA out of memory")
        assert refused.retry_after_s == 2.0
        story.run_for(0.5)
        assert story.rejections[story.ask("a")].retry_after_s == 1.5
        assert story.started == ["a"]
        story.run_for(1.5)
        story.ask("a")
        assert story.started == ["a", "a"]

    def test_the_back_off_doubles_up_to_its_limit_and_a_success_ends_it(self) -> None:
        story = Story(model("a"), policy=POLICY)
        story.broken["a"] = "no such file"
        pauses = []
        for _ in range(4):
            request = story.ask("a")
            story.run_for(LOAD_S)
            pauses.append(story.rejections[request].retry_after_s)
            story.run_for(8)
        assert pauses == [2.0, 4.0, 8.0, 8.0]
        del story.broken["a"]
        story.ask("a", takes=1)
        story.run()
        story.unload("a")
        story.run()
        assert story.witness.scheduler.snapshot().failing == {}
        story.broken["a"] = "no such file"
        request = story.ask("a")
        story.run()
        assert story.rejections[request].retry_after_s == 2.0

    def test_loading_by_hand_ends_a_back_off(self) -> None:
        story = Story(model("a"), policy=POLICY)
        story.broken["a"] = "no such file"
        story.ask("a")
        story.run()
        story.load("a")
        assert story.started == ["a", "a"]

    def test_other_models_come_next_when_a_load_fails(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        story.broken["a"] = "no such file"
        story.ask("a")
        other = story.ask("b")
        story.run()
        assert story.is_granted(other)

    def test_a_model_that_crashed_is_started_again_for_who_waits(self) -> None:
        story = Story(model("a", concurrency=1), policy=POLICY)
        resident(story, "a")
        running = story.ask("a")
        waiting = story.ask("a")
        story.crash("a")
        assert story.started == ["a"] and story.is_waiting(waiting)
        story.close(running, lost=True)
        story.run()
        assert story.is_granted(waiting) and story.checked == []

    def test_nobody_starts_a_crashed_model_again_unless_someone_wants_it(self) -> None:
        story = Story(model("a"))
        resident(story, "a")
        story.crash("a")
        assert story.started == []

    def test_a_second_crash_without_a_served_request_counts_as_a_failed_load(self) -> None:
        story = Story(model("a"), policy=PolicySpec(backoff_base_s=2.0, backoff_max_s=120.0))
        resident(story, "a")
        story.crash("a", "segfault")
        first = story.ask("a")
        story.run()
        story.crash("a", "segfault")
        assert story.rejections[story.ask("a")].refusal is Refusal.LOAD_FAILED
        story.close(first, lost=True)

    def test_a_second_crash_after_a_served_request_is_forgiven_again(self) -> None:
        story = Story(model("a"), policy=PolicySpec(backoff_base_s=2.0, backoff_max_s=120.0))
        resident(story, "a")
        for _ in range(3):
            story.crash("a")
            request = story.ask("a", takes=1)
            story.run()
            assert story.is_granted(request)


class TestLostConnections:
    def test_the_instance_is_checked_once_and_grants_nothing_meanwhile(self) -> None:
        story = Story(model("a"))
        resident(story, "a")
        lost = [story.ask("a"), story.ask("a")]
        story.close(*lost, lost=True)
        assert len(story.checked) == 1
        retried = story.ask("a")
        assert story.is_waiting(retried) and "being checked" in story.wait_of(retried).reason
        story.run_for(0)
        assert story.is_granted(retried) and story.started == []

    def test_an_instance_that_fails_the_check_is_replaced(self) -> None:
        story = Story(model("a"))
        resident(story, "a")
        story.dead.add(story.instance_of("a"))
        story.close(story.ask("a"), lost=True)
        retried = story.ask("a")
        story.run()
        assert story.is_granted(retried) and story.started == ["a"]


class TestLoadAndUnload:
    def test_a_load_makes_room_like_a_request_and_grants_nothing(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.load("b")
        story.run()
        assert story.started == ["b"] and story.granted_at == {}

    def test_a_load_waits_for_the_turn_of_a_busy_resident(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.ask("a")
        story.load("b")
        story.run_for(POLICY.patience_s - 1)
        assert story.state_of("a") == "ready"
        story.run_for(1)
        assert story.state_of("a") == "draining"

    def test_an_unloaded_model_drains_first_and_who_waits_loads_it_again(self) -> None:
        story = Story(model("a"), policy=POLICY)
        resident(story, "a")
        running = story.ask("a")
        story.unload("a")
        waiting = story.ask("a")
        assert story.state_of("a") == "draining" and story.wait_of(waiting).phase is WaitPhase.DRAINING
        story.close(running)
        assert story.wait_of(waiting).phase is WaitPhase.STOPPING
        story.run()
        assert story.stopped == ["a"] and story.started == ["a"] and story.is_granted(waiting)

    def test_unloading_what_is_still_loading_stops_it_if_nobody_waits(self) -> None:
        story = Story(model("a"))
        story.load("a")
        story.unload("a")
        assert story.stopped == ["a"]
        story.run()
        assert story.state_of("a") == "absent"

    def test_unloading_what_is_still_loading_serves_first_who_waits(self) -> None:
        story = Story(model("a"))
        request = story.ask("a", takes=1)
        story.unload("a")
        assert story.stopped == []
        story.run()
        assert story.is_granted(request) and story.stopped == ["a"] and story.started == ["a"]

    def test_a_load_takes_back_an_unload_that_still_drains(self) -> None:
        story = Story(model("a"))
        resident(story, "a")
        story.ask("a")
        story.unload("a")
        story.load("a")
        assert story.state_of("a") == "ready"

    def test_unloading_what_is_not_loaded_does_nothing(self) -> None:
        story = Story(model("a"))
        story.unload("a")
        assert story.started == story.stopped == []


class TestAdoption:
    def test_an_adopted_instance_serves_and_new_ones_get_higher_ids(self) -> None:
        story = Story(model("a"), model("b"))
        story.adopt(41, "a")
        request = story.ask("a")
        story.run()
        assert story.is_granted(request) and story.started == []
        story.close(request)
        story.ask("b")
        story.run()
        assert story.instance_of("b") == 42

    def test_an_adopted_instance_that_does_not_answer_is_replaced_without_a_back_off(self) -> None:
        story = Story(model("a"))
        story.adopt(1, "a", ready_after_s=60)
        request = story.ask("a")
        story.crash("a", "it doesn't answer")
        story.run_for(LOAD_S)
        assert story.is_granted(request)

    def test_adopted_instances_that_do_not_fit_together_lose_the_cheapest(self) -> None:
        story = Story(model("a", 10), model("b", 15), policy=PolicySpec(budgets={"gpu": 20}))
        story.adopt(1, "a")
        story.run_for(1)
        story.ask("a")
        story.adopt(2, "b")
        story.run()
        assert story.stopped == ["b"]

    @pytest.mark.parametrize("name", ["a", "no-longer-configured"])
    def test_a_second_one_or_an_unknown_one_is_stopped_and_keeps_its_room_until_then(self, name: str) -> None:
        story = Story(model("a"), model("b"))
        story.adopt(1, "a")
        story.adopt(2, name)
        assert story.stopped == [name]
        story.run()
        assert story.state_of("a") == "ready"

    def test_no_new_one_is_started_while_a_second_one_is_still_being_stopped(self) -> None:
        story = Story(model("a", 0))
        story.adopt(1, "a", ready_after_s=60)
        story.adopt(2, "a")
        story.crash("a")
        request = story.ask("a")
        assert story.started == [] and story.wait_of(request).phase is WaitPhase.STOPPING
        story.run()
        assert story.is_granted(request)

    def test_nor_where_both_were_found_while_their_model_was_not_configured(self) -> None:
        story = Story(model("b", 0))
        story.adopt(1, "a")
        story.run_for(STOP_S / 2)
        story.adopt(2, "a")
        story.configure(model("a", 0), model("b", 0))
        request = story.ask("a")
        story.run_for(STOP_S / 2)
        assert story.started == [] and story.is_waiting(request)
        story.run()
        assert story.is_granted(request)


class TestShutdown:
    def test_waiting_requests_and_newcomers_are_refused_and_running_ones_go_on(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        running = story.ask("a")
        waiting = story.ask("b")
        story.shut_down()
        late = story.ask("a")
        assert {story.rejections[r].refusal for r in (waiting, late)} == {Refusal.SHUTTING_DOWN}
        story.run()
        assert story.stopped == story.started == [] and story.cut == []
        story.close(running)

    def test_nothing_is_started_any_more(self) -> None:
        story = Story(model("a"))
        story.shut_down()
        story.load("a")
        assert story.started == []


class TestIdleness:
    def test_a_model_without_requests_is_unloaded_after_its_time(self) -> None:
        story = Story(model("a", idle_timeout_s=300))
        story.ask("a", takes=10)
        story.run_for(LOAD_S + 10 + 299)
        assert story.state_of("a") == "ready"
        story.run_for(1)
        assert story.stopped == ["a"]

    def test_each_use_prolongs_it_without_touching_the_timer(self) -> None:
        story = Story(model("a", idle_timeout_s=300))
        resident(story, "a")
        for _ in range(5):
            story.run_for(100)
            request = story.ask("a")
            assert story.post(RequestClosed(at=story.now, request=request)) == []
        story.run_for(299)
        assert story.state_of("a") == "ready"
        story.run_for(1)
        assert story.stopped == ["a"]

    def test_a_long_request_is_not_idleness(self) -> None:
        story = Story(model("a", idle_timeout_s=5))
        story.ask("a", takes=100)
        story.run_for(LOAD_S + 99)
        assert story.state_of("a") == "ready"
        story.run()
        assert story.stopped == ["a"]

    def test_pinned_models_leave_too_if_they_have_an_idle_time(self) -> None:
        story = Story(model("a", pinned=True, idle_timeout_s=5), model("b", 0, pinned=True))
        resident(story, "a", "b")
        story.run()
        assert story.stopped == ["a"]


class TestAClientsKeep:
    def test_it_replaces_the_configured_time_until_the_next_word(self) -> None:
        story = Story(model("a", idle_timeout_s=300))
        resident(story, "a")
        story.keep("a", math.inf)
        story.run_for(10_000)
        assert story.state_of("a") == "ready"
        story.close(story.ask("a"))
        story.keep("a", 20)
        story.run_for(19)
        assert story.state_of("a") == "ready"
        story.run_for(1)
        assert story.stopped == ["a"]

    def test_it_gives_a_time_to_a_model_that_has_none(self) -> None:
        story = Story(model("a"))
        resident(story, "a")
        story.keep("a", 20)
        story.run_for(20)
        assert story.stopped == ["a"]

    def test_a_shorter_one_counts_from_the_last_use_whatever_timer_was_pending(self) -> None:
        story = Story(model("a", idle_timeout_s=300))
        resident(story, "a")
        request = story.ask("a")
        story.keep("a", 20)
        story.run_for(100)
        assert story.state_of("a") == "ready"
        story.close(request)
        story.run_for(20)
        assert story.stopped == ["a"]

    def test_it_ends_with_the_instance(self) -> None:
        story = Story(model("a", idle_timeout_s=30))
        resident(story, "a")
        story.keep("a", math.inf)
        story.unload("a")
        story.run()
        story.keep("a", math.inf)
        resident(story, "a")
        story.run_for(30)
        assert story.stopped == ["a", "a"]

    def test_nobody_is_kept_out_by_it(self) -> None:
        story = Story(model("a"), model("b"), policy=POLICY)
        resident(story, "a")
        story.keep("a", math.inf)
        request = story.ask("b")
        story.run_for(STOP_S + LOAD_S)
        assert story.is_granted(request)

    def test_of_a_pinned_model_the_configuration_has_the_last_word(self) -> None:
        story = Story(model("a", pinned=True), model("b", 0, pinned=True, idle_timeout_s=50))
        resident(story, "a", "b")
        story.keep("a", 5)
        story.keep("b", math.inf)
        story.run_for(100)
        assert story.stopped == ["b"]


class TestLateMessages:
    def test_ids_that_mean_nothing_are_ignored(self) -> None:
        story = Story(model("a"))
        late = (
            RequestClosed(at=story.now, request=99),
            RequestClosed(at=story.now, request=99, lost=True),
            InstanceReady(at=story.now, instance=99),
            InstanceGone(at=story.now, instance=99, error="what?"),
            TimerFired(at=story.now, timer=TimerKey(TimerKind.DRAIN, 99)),
        )
        assert [story.post(event) for event in late] == [[]] * len(late)
        story.load("nobody")
        story.unload("nobody")
        story.keep("nobody", 1)
        assert story.started == []

    def test_an_instance_that_becomes_ready_after_it_was_stopped_stays_stopped(self) -> None:
        story = Story(model("a"))
        story.load("a")
        story.unload("a")
        story.post(InstanceReady(at=story.now, instance=story.instance_of("a")))
        assert story.state_of("a") == "stopping"
