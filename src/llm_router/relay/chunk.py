"""What is in a reply's JSON object, and what it becomes: one chunk of a stream, or a whole reply.

Counterpart: `sse`, which decides when it leaves. Decodes no deeper than it must; every value that isn't changed stays
the bytes that it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec

from llm_router.relay.events import as_event

Raws = dict[str, msgspec.Raw]

encode = msgspec.json.Encoder().encode
_decode_raws = msgspec.json.Decoder(Raws).decode
_decode_choices = msgspec.json.Decoder(list[Raws]).decode

# Front ends act on these at the top of a chunk: `event` runs JavaScript in Open-WebUI. No inference server has business
# sending them; the router's own status takes another way.
_NOT_A_SERVERS = frozenset({"event", "selected_model_id", "sources", "done", "output", "content", "type"})
# Open-WebUI drops the text of a chunk that has one of these as null.
_NEVER_NULL = ("timings", "choices")
_TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal")
_OPENING = frozenset({"role", *_TEXTS})
_SAYS_NOTHING = (b"null", b'""', b"[]", b"{}")
_NULL = msgspec.Raw(b"null")


class Naming:
    """What a reply calls the model: `asked` where its server says one of `known`, the names that the server and the
    router have for the same model. Any other name stays: it is the server's own word on who answers."""

    __slots__ = ("asked", "known")

    def __init__(self, asked: str, known: Iterable[str]) -> None:
        self.asked = raw(asked)
        self.known = frozenset(known)

    def apply(self, top: Raws) -> None:
        said = decoded(top["model"]) if "model" in top else None
        if isinstance(said, str) and said in self.known:
            top["model"] = self.asked


@lru_cache(maxsize=1024)
def naming(asked: str, *names: str | None) -> Naming | None:
    """None where the names are the same, so that there is nothing to look for. Clients ask for few names, often."""
    known = {name for name in names if name is not None and name != asked}
    return Naming(asked, known) if known else None


@dataclass(slots=True, kw_only=True)
class Chunk:
    """`top`: every key but the figures. `choices`: those of `top`, opened; None if there are none or of no known shape.

    `usage`, `timings`: taken out, decoded; None if absent or null. `is_finish`: it has a finish reason. `has_text`: the
    model said something in it. `changed`: it differs from what came, in more than the figures.
    """

    top: Raws
    choices: list[Raws] | None
    usage: object = None
    timings: object = None
    is_finish: bool = False
    has_text: bool = False
    changed: bool = False

    @property
    def figures(self) -> int:
        """How many of `usage` and `timings` it had."""
        return (self.usage is not None) + (self.timings is not None)

    @property
    def only_opens(self) -> bool:
        """Whether it says who speaks and nothing yet: the role, before the first token."""
        if not self.choices or self.has_text or self.is_finish or "prompt_progress" in self.top:
            return False
        deltas = [opened(choice.get("delta")) for choice in self.choices]
        return all(delta is not None and "role" in delta and _OPENING.issuperset(delta) for delta in deltas)

    def is_only_figures(self, *, after_finish: bool) -> bool:
        """Whether nothing else is in it. OpenRouter's has an empty choice, which after the finish means nothing."""
        if not self.figures or self.is_finish:
            return False
        return not self.choices or (after_finish and not self.has_text)

    def encoded(self, **more: Mapping[str, Any]) -> bytes:
        """As JSON, with `more` keys."""
        top = dict(self.top)
        if self.choices is not None:
            top["choices"] = raw(self.choices)
        for key, value in more.items():
            top[key] = raw(value)
        return encode(top)

    def split(self) -> tuple[bytes, Chunk]:
        """A finish chunk that has text too, as an event with the text alone and the chunk without; else no event."""
        if not self.has_text:
            return b"", self
        text = [choice | {"finish_reason": _NULL} for choice in self.choices or ()]
        finish = [choice | {"delta": msgspec.Raw(b"{}")} for choice in self.choices or ()]
        return as_event(Chunk(top=self.top, choices=text).encoded()), Chunk(top=self.top, choices=finish)

    def saying(self, content: str) -> bytes:
        """As JSON, a chunk of the same reply that says `content`."""
        choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
        return encode(self.top | {"choices": raw([choice])})


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(encode(value))


def decode_object(payload: bytes) -> Raws | None:
    """The JSON object, its values unread; None for anything else.

    What this parser refuses and a client's may take (NaN, lone surrogates, other white space) is read by Python's own,
    so that nothing gets past by being malformed.

    Raises: RecursionError when it is nested too deeply for either.
    """
    try:
        return _decode_raws(payload)
    except msgspec.ValidationError:
        return None
    except ValueError:
        pass
    try:
        found = json.loads(payload.decode("utf-8", "replace").strip(), strict=False)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {_sound(key): msgspec.Raw(json.dumps(value).encode()) for key, value in found.items()}


def read_chunk(top: Raws, *, reasoning: Literal["delta", "message"] | None, names: Naming | None = None) -> Chunk:
    """What the object says. `reasoning`: where in a choice to rename vLLM's key of that name. `names`: what to call the
    model. `top` is used up."""
    size = len(top)
    named = top.get("model")
    if named is None and "model_name" in top:  # TabbyAPI's text completions
        top["model"] = top.pop("model_name")
    if names is not None:
        names.apply(top)
    if not _NOT_A_SERVERS.isdisjoint(top):
        for key in _NOT_A_SERVERS & top.keys():
            del top[key]
    for key in _NEVER_NULL:
        if key in top and bytes(top[key]) == b"null":
            del top[key]
    usage = timings = None
    if "usage" in top and bytes(top["usage"]) != b"null":
        usage = decoded(top.pop("usage"))
    if "timings" in top:
        timings = decoded(top.pop("timings"))
    chunk = Chunk(top=top, choices=_choices(top), usage=usage, timings=timings)
    chunk.changed = len(top) + chunk.figures != size or top.get("model") is not named
    for choice in chunk.choices or ():
        if reasoning is not None:
            chunk.changed |= _rename_reasoning(choice, reasoning)
        chunk.is_finish |= is_said(choice, "finish_reason")
        chunk.has_text |= _has_text(choice)
    return chunk


def decoded(value: msgspec.Raw) -> Any:
    """The value, or None if it can't be read."""
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None


def opened(value: msgspec.Raw | None) -> Raws | None:
    """The object's keys, or None if it is none."""
    if value is None:
        return None
    try:
        return _decode_raws(value)
    except (ValueError, RecursionError):
        return None


def is_said(raws: Raws, key: str) -> bool:
    return key in raws and bytes(raws[key]) not in _SAYS_NOTHING


def _choices(top: Raws) -> list[Raws] | None:
    if "choices" not in top:
        return None
    try:
        return _decode_choices(top["choices"])
    except (ValueError, RecursionError):
        return None


def _rename_reasoning(choice: Raws, key: str) -> bool:
    """vLLM's word for the reasoning, as the other servers and the front ends say it."""
    if key not in choice or b"reasoning" not in bytes(choice[key]):
        return False
    delta = opened(choice[key])
    if delta is None or "reasoning" not in delta:
        return False
    said = delta.pop("reasoning")
    if not is_said(delta, "reasoning_content"):
        delta["reasoning_content"] = said
    choice[key] = raw(delta)
    return True


def _has_text(choice: Raws) -> bool:
    if is_said(choice, "text"):
        return True
    delta = opened(choice.get("delta"))
    return delta is not None and any(is_said(delta, key) for key in _TEXTS)


def _sound(key: str) -> str:
    return key.encode("utf-8", "replace").decode()
