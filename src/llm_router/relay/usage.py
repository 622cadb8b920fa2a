"""How many tokens a reply had and how long they took: one shape for every inference server.

Counterpart: `sse`, which finds the figures in a reply and puts these in their place. Pure arithmetic on what the server
said and on the times that the caller measured. `timings` has llama.cpp's keys, because front ends know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

# TabbyAPI's own, within `usage`: times in seconds, and rates that may be the word "Indeterminate". `timings` says both.
_TABBY = ("prompt_time", "prompt_tokens_per_sec", "completion_time", "completion_tokens_per_sec", "total_time")

_HUGE = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What leaves at the end of a reply. `estimated`: the server gave no count, so the router's own stands here."""

    usage: Mapping[str, Any]
    timings: Mapping[str, float]
    estimated: bool

    @property
    def predicted_n(self) -> int:
        return int(self.timings["predicted_n"])

    def line(self) -> str:
        """The performance line for people."""
        rate = self.timings["predicted_per_second"]
        return performance_line(self.predicted_n, self.timings["predicted_ms"], rate, estimated=self.estimated)


def performance_line(predicted_n: int, predicted_ms: float, rate: float, *, estimated: bool) -> str:
    """`[Performance: 45.2 tok/s | 128 tokens in 2.83s]`; `~` before both counts that are an estimate.

    `rate`: tokens a second, as the server reckons them (llama.cpp leaves out the first one)."""
    about = "~" if estimated else ""
    return f"[Performance: {about}{rate:.1f} tok/s | {about}{predicted_n} tokens in {predicted_ms / 1000:.2f}s]"


def figures(
    usage: object, timings: object, *, counted: int, measured_prompt_ms: float | None, measured_predicted_ms: float
) -> Figures:
    """The best that can be said, never with a null in it.

    `usage`, `timings`: as the server sent them, decoded; anything but an object counts as absent. `counted`: tokens as
    the router counted or guessed them, used only where the server gave no count at all.
    `measured_prompt_ms`: None where nothing says when the prompt was done; then nothing is said of its speed either.
    1. Counts: the server's `usage`, else its `timings`, else `counted`.
    2. Times: the server's `timings`, else TabbyAPI's seconds in `usage`, else the measured ones.
    """
    said = _numbers(timings)
    timed = "predicted_n" in said and "predicted_ms" in said
    counts = normalise(usage)
    estimated = False
    if counts is None:  # 1
        estimated = not timed
        prompt = 0 if estimated else int(said.get("prompt_n", 0) + said.get("cache_n", 0))
        completion = counted if estimated else int(said["predicted_n"])
        counts = _totals(prompt, completion)
    own = _from_counts(counts, *_seconds(usage, measured_prompt_ms, measured_predicted_ms))  # 2
    return Figures(usage=counts, timings=own | said if timed else own, estimated=estimated)


def normalise(usage: object) -> dict[str, Any] | None:
    """OpenAI's `usage` with its three counts, without nulls and TabbyAPI's additions; None if there is no count."""
    found = _sound(usage)
    if _count(found, "completion_tokens") is None and _count(found, "prompt_tokens") is None:
        return None
    totals = _totals(_count(found, "prompt_tokens") or 0, _count(found, "completion_tokens") or 0)
    total = _count(found, "total_tokens")
    if total:
        totals["total_tokens"] = total
    return totals | {key: value for key, value in found.items() if key not in totals and key not in _TABBY}


def _totals(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _seconds(usage: object, prompt_ms: float | None, predicted_ms: float) -> tuple[float | None, float]:
    """TabbyAPI's own times, in milliseconds, else the measured ones."""
    if isinstance(usage, dict):
        prompt, completion = usage.get("prompt_time"), usage.get("completion_time")
        if _is_number(completion) and completion > 0:
            return (prompt if _is_number(prompt) else 0.0) * 1000.0, completion * 1000.0
    return prompt_ms, predicted_ms


def _from_counts(usage: Mapping[str, Any], prompt_ms: float | None, predicted_ms: float) -> dict[str, float]:
    details = usage.get("prompt_tokens_details")
    cache_n = (_count(details, "cached_tokens") if isinstance(details, dict) else None) or 0
    return timings_of(usage["prompt_tokens"], cache_n, usage["completion_tokens"], prompt_ms, predicted_ms)


def timings_of(
    prompt_tokens: int, cache_n: int, predicted_n: int, prompt_ms: float | None, predicted_ms: float
) -> dict[str, float]:
    """llama.cpp's `timings` from counts and measured milliseconds. `prompt_ms` None: not known, so left out."""
    prompt_n = max(0, prompt_tokens - cache_n)
    timings: dict[str, float] = {"cache_n": cache_n, "prompt_n": prompt_n}
    if prompt_ms is not None:
        timings["prompt_ms"] = round(prompt_ms, 3)
        timings["prompt_per_token_ms"] = round(prompt_ms / prompt_n, 3) if prompt_n else 0.0
        timings["prompt_per_second"] = round(_per_second(prompt_n, prompt_ms), 3)
    timings["predicted_n"] = predicted_n
    timings["predicted_ms"] = round(predicted_ms, 3)
    timings["predicted_per_token_ms"] = round(predicted_ms / predicted_n, 3) if predicted_n else 0.0
    timings["predicted_per_second"] = round(_per_second(predicted_n, predicted_ms), 3)
    return timings


def _per_second(count: int, ms: float) -> float:
    return count * 1000 / ms if ms > 0 else 0.0


def _count(found: Mapping[str, Any], key: str) -> int | None:
    value = found.get(key)
    return int(value) if _is_number(value) and value >= 0 else None


def _sound(value: object, depth: int = 3) -> dict[str, Any]:
    """The numbers, words and objects of an object, without nulls; empty for anything but an object."""
    if not isinstance(value, dict) or depth == 0:
        return {}
    inner = {key: _sound(item, depth - 1) if isinstance(item, dict) else item for key, item in value.items()}
    return {key: item for key, item in inner.items() if _is_number(item) or (isinstance(item, str | dict) and item)}


def _numbers(value: object) -> dict[str, Any]:
    return {key: item for key, item in value.items() if _is_number(item)} if isinstance(value, dict) else {}


def _is_number(value: object) -> TypeGuard[float]:
    """Whether it is one that can be reckoned with: no bool, not infinite, and not longer than a register."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE
