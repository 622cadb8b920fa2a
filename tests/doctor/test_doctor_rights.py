"""What is said of the polkit rule: whether the router's user may use its units, and no others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llm_router.doctor.engines import Said
from llm_router.doctor.finding import Verdict
from llm_router.doctor.rights import Rule, TooOld, rights

FILE = "/etc/polkit-1/rules.d/50-llm-router.rules"
LOADED = "LoadState=loaded\nActiveState=active\n"
AS_SERVICE = "LoadState=loaded\nUser=llm-router\n"
UNITS = ("sglang.service", "tabbyapi.service")


def rule(*units: str, user: str = "llm-router") -> Rule:
    return Rule(file=FILE, is_there=True, user=user, units=frozenset(units))


def found(
    rule: Rule,
    *,
    me: str = "anna",
    polkit: str = LOADED,
    router: str = AS_SERVICE,
    own: Sequence[str] = (),
    too_old: TooOld | None = None,
) -> list[tuple[str, Verdict, str, str]]:
    """`own`: units of the user's manager."""

    def ask(argv: Sequence[str]) -> Said:
        assert argv[0] == "systemctl" and argv[2] == "show", "nothing is tried"
        _, manager, _, unit, *_ = argv
        if manager == "--user":
            return Said(status=0, output=LOADED if unit in own else "LoadState=not-found\n")
        known = {"polkit.service": polkit, "llm-router.service": router}
        return Said(status=0, output=known.get(unit, LOADED))

    return [(one.about, one.verdict, one.message, one.remedy) for one in rights(UNITS, rule, me, ask, too_old=too_old)]


def test_a_rule_for_exactly_the_units_of_the_configuration_is_well() -> None:
    said = found(rule(*UNITS))
    assert [(about, verdict) for about, verdict, *_ in said] == [
        ("polkit", Verdict.OK),
        ("polkit rule", Verdict.OK),
    ]
    assert said[1][2] == f"{FILE} lets llm-router use sglang.service, tabbyapi.service, and no other unit"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (rule("sglang.service"), "doesn't name tabbyapi.service: llm-router can't start it"),
        (rule(*UNITS, user="someone"), "is for someone, and the router runs as llm-router"),
        (Rule(file=FILE, is_there=False), "isn't there: llm-router can't start sglang.service, tabbyapi.service"),
    ],
)
def test_a_rule_that_lets_nobody_start_a_unit_is_a_problem_that_installing_again_mends(
    written: Rule, words: str
) -> None:
    _, verdict, message, remedy = found(written)[1]
    assert verdict is Verdict.PROBLEM
    assert words in message
    assert "sudo llm-router install" in remedy


def test_a_rule_that_lets_more_than_it_must_is_a_warning() -> None:
    _, verdict, message, _ = found(rule(*UNITS, "ssh.service"))[1]
    assert (verdict, "ssh.service too" in message) == (Verdict.WARNING, True)


def test_who_may_not_read_the_rule_is_told_to_look_as_root() -> None:
    _, verdict, _, remedy = found(Rule(file=FILE, is_there=True))[1]
    assert (verdict, "sudo llm-router doctor" in remedy) == (Verdict.WARNING, True)


@pytest.mark.parametrize("state", ["LoadState=not-found\n", "LoadState=loaded\nActiveState=failed\n"])
def test_without_polkit_no_rule_helps(state: str) -> None:
    about, verdict, _, remedy = found(rule(*UNITS), polkit=state)[0]
    assert (about, verdict, bool(remedy)) == ("polkit", Verdict.PROBLEM, True)


def test_with_a_polkit_that_knows_no_rules_none_helps_however_it_is_written() -> None:
    old = TooOld(version="0.105", remedy="install with --user")
    assert found(rule(*UNITS), too_old=old) == [
        (
            "polkit",
            Verdict.PROBLEM,
            "0.105 can't tell one unit from another: llm-router can't start sglang.service, tabbyapi.service",
            "install with --user",
        )
    ]
    assert found(rule(*UNITS), own=UNITS, too_old=old) == []


def test_root_and_ones_own_manager_need_no_rule() -> None:
    nowhere = Rule(file=FILE, is_there=False)
    assert found(nowhere, own=UNITS) == []
    assert found(nowhere, router="LoadState=loaded\nUser=\n") == []
    assert found(nowhere, router="LoadState=not-found\n", me="root") == []
    assert "anna can't start" in found(nowhere, router="LoadState=not-found\n", me="anna")[1][2]
