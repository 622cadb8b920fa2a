"""What another configuration changes while the router runs, in words for people. Pure.

Counterpart: `app.reload`, which does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_router.config.schema import Config

NEEDS_RESTART = frozenset({"host", "router_port", "state_dir", "max_body", "tracing"})
"""Settings that hold from the start to the end of a run; all others are in force at once."""

_SECTIONS = frozenset({"models", "backends"})  # told by what they mean for each model


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Models by name, settings by key. `restarted`: their servers start differently now, so what runs is exchanged.
    `changed`: everything else about a model, in force at once. `needs_restart`: changed, but not in force."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Empty: nothing changed."""
        parts = (
            ("added", self.added),
            ("removed", self.removed),
            ("to be started anew", self.restarted),
            ("changed", self.changed),
            ("in force now", self.settings),
            ("in force after a restart", self.needs_restart),
        )
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)


def difference(
    before: Config,
    after: Config,
    *,
    launched: Mapping[str, str],
    launching: Mapping[str, str],
    running: Config,
    needs_restart: frozenset[str] = NEEDS_RESTART,
) -> Difference:
    """`launched`, `launching`: the launch keys of each configuration's models. `running`: the configuration that the
    router was started with, which counts for what needs a restart."""
    both = [name for name in after.models if name in before.models]
    restarted = [name for name in both if launched[name] != launching[name]]
    settings = [
        name
        for name in Config.model_fields
        if name not in _SECTIONS | needs_restart and getattr(before, name) != getattr(after, name)
    ]
    return Difference(
        added=tuple(name for name in after.models if name not in before.models),
        removed=tuple(name for name in before.models if name not in after.models),
        restarted=tuple(restarted),
        changed=tuple(name for name in both if name not in restarted and before.models[name] != after.models[name]),
        settings=tuple(settings),
        needs_restart=tuple(sorted(name for name in needs_restart if getattr(running, name) != getattr(after, name))),
    )
