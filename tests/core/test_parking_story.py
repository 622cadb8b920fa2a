"""The ladder down and back up, as stories: hot, parked, stopped; woken, or started again where that fails."""

from __future__ import annotations

from story import LOAD_S, PARK_S, STOP_S, WAKE_S, Story, model

from llm_router.core.reasons import WaitPhase
from llm_router.core.specs import PolicySpec

TEN = PolicySpec(budgets={"0": 10})


def parked_story() -> Story:
    """One model "a" of 8 MiB on a device of 10, used once, then left alone until it is parked, with 1 MiB left."""
    story = Story(model("a", 8, park_after_s=60, idle_timeout_s=600), model("b", 8), policy=TEN)
    story.residue_mib = {"a": {"0": 1}}
    story.ask("a", takes=1)
    story.run_for(LOAD_S + 1 + 60 + PARK_S)
    assert story.state_of("a") == "parked"
    return story


def test_an_idle_model_is_parked_first_and_stopped_later() -> None:
    story = Story(model("a", park_after_s=60, idle_timeout_s=600))
    story.ask("a", takes=1)
    story.run_for(LOAD_S + 1 + 59)
    assert story.state_of("a") == "ready"
    story.run_for(1.5)
    assert story.state_of("a") == "parking"
    story.run_for(PARK_S)
    assert story.state_of("a") == "parked"
    story.run_for(500)
    assert story.state_of("a") == "parked"
    story.run_for(100)
    assert story.state_of("a") == "absent" and story.stopped == ["a"]


def test_a_model_that_is_never_stopped_stays_parked() -> None:
    story = Story(model("a", park_after_s=60))
    story.ask("a", takes=1)
    story.run()
    assert story.state_of("a") == "parked" and story.stopped == []


def test_a_request_puts_the_next_step_off() -> None:
    story = Story(model("a", park_after_s=60))
    story.ask("a", takes=1)
    story.run_for(LOAD_S + 50)
    story.ask("a", takes=1)
    story.run_for(55)
    assert story.state_of("a") == "ready"
    story.run()
    assert story.parked == ["a"]


def test_nobody_is_parked_while_a_request_runs() -> None:
    story = Story(model("a", park_after_s=5))
    story.ask("a", takes=300)
    story.run_for(LOAD_S + 200)
    assert story.state_of("a") == "ready" and story.parked == []


def test_a_request_wakes_it_and_is_granted_only_when_it_is_awake() -> None:
    story = parked_story()
    request = story.ask("a")
    wait = story.wait_of(request)
    assert story.state_of("a") == "waking" and wait.phase is WaitPhase.WAKING and "woken" in wait.reason
    story.run_for(WAKE_S - 0.5)
    assert story.is_waiting(request)
    story.run_for(0.5)
    assert story.is_granted(request) and story.started == ["a"] and story.woken == ["a"]


def test_how_long_waking_takes_is_learned_apart_from_loading() -> None:
    story = parked_story()
    story.ask("a", takes=1)
    story.run_for(WAKE_S + 1 + 60 + PARK_S)
    assert story.state_of("a") == "parked"
    assert story.wait_of(story.ask("a")).expected_s == WAKE_S


def test_waking_reserves_what_a_start_would() -> None:
    story = parked_story()
    story.ask("a")
    assert [(wake.devices, wake.reserved_mib) for wake in story.wakes] == [(("0",), {"0": 8})]


def test_what_it_gave_back_is_free_for_others() -> None:
    story = Story(model("a", 8, park_after_s=60), model("b", 9), policy=TEN)
    story.residue_mib = {"a": {"0": 1}}
    story.ask("a", takes=1)
    story.run()
    request = story.ask("b")
    assert story.state_of("a") == "parked" and story.state_of("b") == "starting"
    story.run_for(LOAD_S)
    assert story.is_granted(request)


def test_nothing_is_free_as_long_as_nobody_knows_what_it_still_holds() -> None:
    story = Story(model("a", 8, park_after_s=60), model("b", 8), policy=TEN)
    story.ask("a", takes=1)
    story.run()
    request = story.ask("b")
    assert story.state_of("a") == "stopping"
    story.run_for(STOP_S + LOAD_S)
    assert story.is_granted(request)


def test_what_is_measured_while_it_is_parked_says_nothing_about_its_next_start() -> None:
    story = Story(model("a", 8, park_after_s=60), model("b", 8), policy=TEN)
    story.ask("a", takes=1)
    story.run()
    story.measure("a", d0=2)
    story.ask("b")
    assert story.state_of("a") == "parked"
    why = story.witness.scheduler.why("a")
    assert why is not None and why.footprint_mib == 8 and why.needs_mib == {"0": 2}


def test_who_took_its_room_leaves_before_it_is_woken() -> None:
    story = parked_story()
    story.ask("b", takes=1)
    story.run_for(LOAD_S + 5)
    request = story.ask("a")
    assert story.state_of("b") == "stopping" and story.state_of("a") == "parked"
    story.run_for(STOP_S)
    assert story.state_of("a") == "waking"
    story.run_for(WAKE_S)
    assert story.is_granted(request)


def test_a_parked_model_in_the_way_is_stopped_at_once() -> None:
    story = Story(model("a", 8, park_after_s=60), model("b", 10), policy=TEN)
    story.residue_mib = {"a": {"0": 1}}
    story.ask("a", takes=1)
    story.run()
    story.ask("b")
    assert story.state_of("a") == "stopping"


def test_a_wake_that_fails_is_followed_by_a_start_and_nobody_is_refused() -> None:
    story = parked_story()
    story.restless.add("a")
    request = story.ask("a")
    story.run_for(WAKE_S)
    assert story.state_of("a") == "starting" and story.is_waiting(request)
    story.run_for(LOAD_S)
    assert story.is_granted(request) and story.started == ["a", "a"]


def test_one_that_cannot_be_parked_is_gone_and_starts_as_before() -> None:
    story = Story(model("a", park_after_s=60))
    story.restless.add("a")
    story.ask("a", takes=1)
    story.run()
    assert story.state_of("a") == "absent"
    why = story.witness.scheduler.why("a")
    assert why is not None and why.decisions[-1].reason == "it could not be parked"
    request = story.ask("a")
    story.run_for(LOAD_S)
    assert story.is_granted(request)


def test_a_request_that_comes_while_it_parks_wakes_it_afterwards() -> None:
    story = Story(model("a", park_after_s=60))
    story.ask("a", takes=1)
    story.run_for(LOAD_S + 61 + PARK_S / 2)
    request = story.ask("a")
    assert "parked" in story.wait_of(request).reason
    story.run_for(PARK_S / 2 + WAKE_S)
    assert story.is_granted(request)


def test_a_parked_one_that_dies_is_forgotten_and_starts_again_when_it_is_wanted() -> None:
    story = parked_story()
    story.crash("a", "it was killed")
    assert story.state_of("a") == "absent"
    request = story.ask("a")
    story.run_for(LOAD_S)
    assert story.is_granted(request)


def test_a_parked_model_can_be_unloaded_and_loaded_by_hand() -> None:
    story = parked_story()
    story.load("a")
    story.run_for(WAKE_S)
    assert story.state_of("a") == "ready"
    story.run_for(61 + PARK_S)
    story.unload("a")
    assert story.state_of("a") == "stopping"


def test_a_parked_one_whose_configuration_changed_is_stopped_and_not_woken() -> None:
    story = parked_story()
    story.configure(model("a", 8, park_after_s=60, launch_key="new"), model("b", 8))
    assert story.state_of("a") == "stopping"
    request = story.ask("a")
    story.run_for(STOP_S + LOAD_S)
    assert story.is_granted(request) and story.woken == []


def test_one_that_is_parked_where_it_cannot_be_woken_starts_elsewhere() -> None:
    """A pinned model took its room meanwhile, and there is another device."""
    story = Story(
        model("a", 8, park_after_s=60),
        model("b", 8, pinned=True, devices=("0",)),
        policy=PolicySpec(budgets={"0": 10, "1": 10}),
    )
    story.residue_mib = {"a": {"0": 1}}
    story.ask("a", takes=1)
    story.run()
    story.ask("b", takes=1)
    story.run()
    assert (story.state_of("a"), story.state_of("b")) == ("parked", "ready")
    request = story.ask("a")
    assert story.state_of("a") == "stopping"
    story.run_for(STOP_S + LOAD_S)
    assert story.is_granted(request) and story.starts[-1].devices == ("1",)


def test_an_adopted_one_may_turn_out_to_be_parked() -> None:
    story = Story(model("a", 8, park_after_s=60, idle_timeout_s=600), policy=TEN)
    story.adopt_parked(7, "a")
    assert story.state_of("a") == "parked"
    request = story.ask("a")
    story.run_for(WAKE_S)
    assert story.is_granted(request) and story.started == []
