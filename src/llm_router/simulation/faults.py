"""What goes wrong in a simulated world, by chance but repeatably. Counterpart: `engine`, which lets it happen."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """`load_failures`, `cancellations`: shares, 0 to 1. A client that
    cancels leaves within `patience_s` of asking, whether it waits or is being served."""

    seed: int = 0
    load_failures: float = 0.0
    cancellations: float = 0.0
    patience_s: float = 60.0

    def fails_load(self, model: str, number: int) -> bool:
        return self.load_failures > 0 and self._random("load", model, number).random() < self.load_failures

    def leaves_after_s(self, request: int) -> float | None:
        if self.cancellations <= 0:
            return None
        chance = self._random("leave", "", request)
        return chance.uniform(0, self.patience_s) if chance.random() < self.cancellations else None

    def _random(self, what: str, model: str, number: int) -> random.Random:
        # By what it is about, not by turn: each rule meets the same faults, whatever it does first.
        return random.Random(f"{self.seed}/{what}/{model}/{number}")  # noqa: S311 (no secret)
