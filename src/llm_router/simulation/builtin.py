"""Traces made here: what agents, people and programs do with one or two graphics cards. Seeded: one seed, one trace.

Counterpart: docs/reference/policy.md, which names their parameters. The models are described by round figures for a
card with 24 GiB and a fast SSD; they are nobody's benchmark, and no rule was tuned by changing them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping

from llm_router.core.events import RequestClass
from llm_router.simulation.trace import Call, Profile, Trace

_GIB = 1024
_HOUR_S = 3600.0

# Four requests at a time, but two for the largest.
PLANNER = Profile(load_s=12, prompt_tokens_s=900, output_tokens_s=33, footprint_mib=19 * _GIB)  # a dense 32B at 4 bits
CODER = Profile(load_s=10, prompt_tokens_s=2500, output_tokens_s=120, footprint_mib=18 * _GIB)  # a 30B of experts
WRITER = Profile(load_s=8, prompt_tokens_s=1500, output_tokens_s=45, footprint_mib=14 * _GIB)  # a 24B
VISION = Profile(load_s=6, prompt_tokens_s=2200, output_tokens_s=60, footprint_mib=10 * _GIB)  # a 12B
CHAT = Profile(load_s=4, prompt_tokens_s=3500, output_tokens_s=90, footprint_mib=6 * _GIB)  # an 8B
LARGE = Profile(load_s=25, prompt_tokens_s=600, output_tokens_s=18, concurrency=2, footprint_mib=42 * _GIB)  # a 70B
EMBEDDER = Profile(load_s=2, prompt_tokens_s=8000, concurrency=8, footprint_mib=0)  # on the CPU


def agent_ping_pong(seed: int = 0, agents: int = 8) -> Trace:
    """Eight coding agents on one card: each asks a planner, then a coder once to three times, then the planner again …
    sixty times over, and runs its tools in between, 3 seconds on average. What was said before is in the servers'
    prompt caches, so prompts are short: 1500 tokens in the median, answered with 250 and 300. Loads take 12 and 10
    seconds."""
    chance = random.Random(f"{seed}/agent-ping-pong")  # noqa: S311
    calls = [
        call
        for agent in range(agents)
        for call in _agent(f"agent-{agent}", chance, rounds=60, steps=(1, 3), prompt=1500, starts_at=agent * 5.0)
    ]
    return Trace(
        name="agent-ping-pong",
        about=f"{agents} agents alternate between a planner and a coder that don't fit together",
        devices={"gpu0": 24 * _GIB},
        models={"planner": PLANNER, "coder": CODER},
        calls=calls,
    )


def poisson(seed: int = 0) -> Trace:
    """Requests at random, one every 20 seconds, for five models of 6 to 19 GiB whose popularity is 1, 1/2, 1/3 …;
    prompts of 1200 tokens in the median, answers of 250; loads of 4 to 12 seconds. Some pairs fit together."""
    chance = random.Random(f"{seed}/poisson")  # noqa: S311
    models = {"chat": CHAT, "writer": WRITER, "coder": CODER, "vision": VISION, "planner": PLANNER}
    weights = [1 / rank for rank in range(1, len(models) + 1)]
    at, calls = 0.0, []
    for _ in range(3000):
        at += chance.expovariate(1 / 20)
        [model] = chance.choices(list(models), weights)
        calls.append(Call(model, _tokens(chance, 1200), _tokens(chance, 250), at))
    return Trace(
        name="poisson",
        about="five models of skewed popularity, requests at random, about 20 s apart",
        devices={"gpu0": 24 * _GIB},
        models=models,
        calls=calls,
    )


def lab_week(seed: int = 0) -> Trace:
    """Five days of eight hours, two cards. Each day twelve people, each with six sessions around the second and the
    sixth hour, of 2 to 12 turns with one model, a favourite of that day two times of three, reading and typing for 40
    seconds in the median. Two agents for a while, with a coder once to four times for each plan and prompts of 6000
    tokens. Documents embedded in bursts beside everything else. A batch of a hundred background requests for the small
    chat model at noon. One of the models needs both cards."""
    calls = [
        call._replace(at=24 * _HOUR_S * day + call.at, client=call.client and f"{call.client}, day {day}")
        for day in range(5)
        for call in _lab_day(1000 * day + seed)
    ]
    return Trace(
        name="lab-week",
        about="five days of twelve people, two agents, embeddings and a batch job on two cards",
        devices={"gpu0": 24 * _GIB, "gpu1": 24 * _GIB},
        models={
            "chat": CHAT,
            "coder": CODER,
            "writer": WRITER,
            "vision": VISION,
            "planner": PLANNER,
            "large": LARGE,
            "embedder": EMBEDDER,
        },
        calls=calls,
    )


def _lab_day(seed: int) -> list[Call]:
    chance = random.Random(f"{seed}/lab-day")  # noqa: S311
    calls = [call for user in range(12) for call in _user(f"user-{user}", chance)]
    for agent, starts_at in enumerate((1.5 * _HOUR_S, 5.0 * _HOUR_S)):
        calls += _agent(f"agent-{agent}", chance, rounds=40, steps=(1, 4), prompt=6000, starts_at=starts_at)
    for _ in range(40):
        at = chance.uniform(0, 8 * _HOUR_S)
        calls += [Call("embedder", _tokens(chance, 500), 0, at + 0.05 * number) for number in range(20)]
    noon = 4 * _HOUR_S
    for number in range(100):
        at = noon + 0.2 * number
        calls.append(Call("chat", _tokens(chance, 2000), _tokens(chance, 150), at, None, 0.0, RequestClass.BACKGROUND))
    return calls


def burst(seed: int = 0) -> Trace:
    """A B A A C A B C within two seconds, every five minutes: three models, one card, room for one. Any rule is done
    with one burst before the next."""
    chance = random.Random(f"{seed}/burst")  # noqa: S311
    names = {"A": "planner", "B": "coder", "C": "third"}
    calls = [
        Call(names[letter], _tokens(chance, 1000), _tokens(chance, 200), 300.0 * number + 0.25 * place)
        for number in range(100)
        for place, letter in enumerate("ABAACABC")
    ]
    return Trace(
        name="burst",
        about="A B A A C A B C at once, every five minutes, with room for one of the three",
        devices={"gpu0": 24 * _GIB},
        models={"planner": PLANNER, "coder": CODER, "third": CODER},
        calls=calls,
    )


BUILTIN: Mapping[str, Callable[[int], Trace]] = {
    "agent-ping-pong": agent_ping_pong,
    "poisson": poisson,
    "lab-week": lab_week,
    "burst": burst,
}


def _agent(
    client: str, chance: random.Random, *, rounds: int, steps: tuple[int, int], prompt: int, starts_at: float
) -> Iterator[Call]:
    """A plan, then its steps; before each of them tools run, 3 seconds on average."""
    for _ in range(rounds):
        for model, answer in [("planner", 250), *[("coder", 300)] * chance.randint(*steps)]:
            think_s = chance.expovariate(1 / 3)
            yield Call(model, _tokens(chance, prompt), _tokens(chance, answer), starts_at, client, think_s)


def _user(user: str, chance: random.Random) -> Iterator[Call]:
    """Six sessions a day of 2 to 12 turns; the conversation grows, and reading and typing takes 40 seconds in the
    median. Each person has a favourite model for two sessions of three."""
    others = ["chat", "writer", "vision", "coder", "planner", "large"]
    favourite = chance.choices(others, [6, 3, 2, 3, 2, 1])[0]
    starts = sorted(chance.choice((2.0, 6.0)) * _HOUR_S + chance.gauss(0, 0.8 * _HOUR_S) for _ in range(6))
    for starts_at in starts:
        model = favourite if chance.random() < 2 / 3 else chance.choice(others)
        context = _tokens(chance, 400)
        for _ in range(chance.randint(2, 12)):
            think_s = chance.lognormvariate(math.log(40), 0.8)
            answer = _tokens(chance, 300)
            yield Call(model, context, answer, max(0.0, starts_at), user, think_s, RequestClass.INTERACTIVE)
            context += answer + _tokens(chance, 60)


def _tokens(chance: random.Random, median: float) -> int:
    return max(1, round(chance.lognormvariate(math.log(median), 0.7)))
