"""An answer that the client begins itself, with a last message of the assistant. It wants what follows alone, since it
puts that behind its own words; llama.cpp (b11434) says the beginning once more.

Counterparts: `anthropic_reply`, `ollama_reply`. Other servers than llama.cpp begin a new answer unless they are told,
each in a way of its own, to go on: that passes as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def begun_by(messages: Sequence[dict[str, Any]]) -> str:
    """The answer's first words, where these messages, in OpenAI's words, have put them into the model's mouth."""
    last = messages[-1] if messages else {}
    words = last.get("content") if last.get("role") == "assistant" and "tool_calls" not in last else ""
    return words if isinstance(words, str) else ""


class Beginning:
    """Leaves out of an answer what its client has already: `begun`."""

    def __init__(self, begun: str) -> None:
        self._begun = begun
        self._held = ""  # of the answer, as long as it may only repeat what is begun

    def without(self, text: str, *, more: bool) -> str:
        """What is new in the answer's next piece, or in all of it. `more`: further text may come."""
        self._held += text
        if more and self._begun.startswith(self._held):
            return ""
        text = self._held.removeprefix(self._begun)
        self._held = self._begun = ""
        return text
