"""A trace: the machine, the models as they behave on it, and who asks for what, when. Pure values.

Counterparts: `files` and `public` read traces, `builtin` makes them, `engine` plays them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from llm_router.core.events import RequestClass
from llm_router.core.specs import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one model behaves. Every request runs at these speeds, however many run beside it, up to `concurrency`.

    `load_s`, `stop_s`: from the start to ready, and from the stop until its memory is free, in seconds.
    `prompt_tokens_s`, `output_tokens_s`: tokens a second while reading the prompt and while answering.
    `concurrency`: requests that run at the same time; more wait.
    `footprint_mib`, `devices`: as in `ModelSpec`; a footprint of 0 takes no room.
    """

    load_s: float = 20.0
    stop_s: float = 1.0
    prompt_tokens_s: float = 2000.0
    output_tokens_s: float = 50.0
    concurrency: int = 4
    footprint_mib: int | None = None
    devices: tuple[str, ...] | None = None

    def first_token_s(self, prompt_tokens: int) -> float:
        """From the grant to the first token, in seconds."""
        return prompt_tokens / self.prompt_tokens_s

    def service_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """From the grant to the end of the answer, in seconds."""
        return prompt_tokens / self.prompt_tokens_s + output_tokens / self.output_tokens_s

    def spec(self, name: str) -> ModelSpec:
        return ModelSpec(
            name=name,
            footprint_mib=self.footprint_mib,
            is_declared=True,
            devices=self.devices,
            concurrency=self.concurrency,
        )


class Call(NamedTuple):
    """One request. It is sent at `at` (seconds from the start), and not before `think_s` after its client's previous
    request has ended, however that ended. `client` None: it depends on nobody."""

    model: str
    prompt_tokens: int
    output_tokens: int
    at: float = 0.0
    client: str | None = None
    think_s: float = 0.0
    request_class: RequestClass = RequestClass.NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """`devices`: memory of each device in MiB; None: unknown, so that one model has it alone. `about`: one line for
    people. The calls of one client are in its order."""

    name: str
    about: str
    devices: Mapping[str, int | None]
    models: Mapping[str, Profile]
    calls: Sequence[Call]

    def specs(self) -> dict[str, ModelSpec]:
        return {name: profile.spec(name) for name, profile in self.models.items()}

    def head(self, limit: int) -> Trace:
        """The first calls only, in the order of the trace."""
        return replace(self, calls=self.calls[:limit])

    def stretched(self, factor: float) -> Trace:
        """The same calls with `factor` times the time between them; think times stay."""
        return replace(self, calls=[call._replace(at=call.at * factor) for call in self.calls])
