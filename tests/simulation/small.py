"""Small traces written by letters, and what became of them: `ABAB` is four requests for a, b, a, b."""

from __future__ import annotations

from collections.abc import Mapping

from llm_router.core.commands import Command, StartInstance, StopInstance
from llm_router.core.events import Event, InstanceGone, RequestArrived, RequestClosed
from llm_router.core.specs import PolicySpec
from llm_router.simulation.compare import RULES, policy_for
from llm_router.simulation.engine import Rule, Simulation
from llm_router.simulation.faults import Faults
from llm_router.simulation.outcome import Outcome
from llm_router.simulation.trace import Call, Profile, Trace

LOAD_S, STOP_S, SERVICE_S = 10.0, 1.0, 5.0
ROOM_MIB = 100
WIDE = PolicySpec(queue_limit=1_000_000, drain_timeout_s=1e6)


def profile(footprint_mib: int | None = 60, *, concurrency: int = 1, devices: tuple[str, ...] | None = None) -> Profile:
    """A request of 0 + 5 tokens runs for `SERVICE_S`."""
    return Profile(
        load_s=LOAD_S,
        stop_s=STOP_S,
        prompt_tokens_s=1,
        output_tokens_s=1,
        concurrency=concurrency,
        footprint_mib=footprint_mib,
        devices=devices,
    )


def trace(
    letters: str,
    *,
    gap_s: float = 0.0,
    models: Mapping[str, Profile] | None = None,
    devices: Mapping[str, int | None] | None = None,
    client: str | None = None,
) -> Trace:
    """One request for each letter, `gap_s` apart, or one after the other of the same client. A dot is a pause."""
    calls = [
        Call(letter, 0, 5, gap_s * place, client) for place, letter in enumerate(letters.lower()) if letter.isalpha()
    ]
    return Trace(
        name="small",
        about="",
        devices={"gpu": ROOM_MIB} if devices is None else devices,
        models=models or {letter: profile() for letter in sorted(set(letters.lower())) if letter.isalpha()},
        calls=calls,
    )


def play(trace: Trace, rule: str, *, policy: PolicySpec = WIDE, faults: Faults | None = None) -> Outcome:
    return Simulation(trace, RULES[rule](trace.specs(), policy_for(trace, policy)), faults).run()


def loads(outcome: Outcome) -> str:
    """The models in the order of their starts, by letter."""
    return "".join(stay.model for stay in outcome.stays).upper()


class Witness:
    """Between the engine and a rule: keeps what is said, and checks that only what was started is stopped."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.ended: list[int] = []
        self.said: list[str] = []
        self._live: set[int] = set()

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, RequestClosed):
            self.ended.append(event.request)
        if isinstance(event, InstanceGone):
            self._live.remove(event.instance)
        commands = list(self._rule.handle(event))
        for command in commands:
            self.said.append(repr(command))
            if isinstance(command, StartInstance):
                assert command.instance not in self._live
                self._live.add(command.instance)
            if isinstance(command, StopInstance):
                assert command.instance in self._live
        assert not isinstance(event, RequestArrived) or event.request not in self.ended
        return commands
