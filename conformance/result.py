"""What came of asking one engine."""

from __future__ import annotations

from dataclasses import dataclass, field

WORKS, DIFFERS, CANNOT_RUN = "works", "differs", "can't run here"


@dataclass(slots=True, kw_only=True)
class Result:
    """`points`: by name, the verdict and what there is to say. `trouble`: why none could be asked. `is_broken`: because
    of a fault, and not because of this machine. `when`: the day, the commit and the machine."""

    engine: str
    when: str = ""
    version: str = ""
    points: dict[str, tuple[str, str]] = field(default_factory=dict)
    trouble: str = ""
    is_broken: bool = False
