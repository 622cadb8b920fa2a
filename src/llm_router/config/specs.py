"""The configuration in the scheduler's words. Counterpart: `core.specs`, which defines them.

What the configuration can't know (what a model needs, what shapes its start, which devices there are) is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llm_router.config import files, room
from llm_router.config.room import Devices
from llm_router.config.schema import Config
from llm_router.config.seats import companions, seats
from llm_router.core.specs import ModelSpec, PolicySpec


def models(
    config: Config, devices: Devices, *, launch_keys: Mapping[str, str], footprint_mib: Callable[[str], int | None]
) -> dict[str, ModelSpec]:
    """One for each model that has a launch key. `footprint_mib`: asked where the configuration doesn't say it."""
    hopeless = _unusable(config, devices)
    return {
        name: _spec(config, name, devices, launch_key=key, footprint_mib=footprint_mib, unusable=hopeless.get(name))
        for name, key in launch_keys.items()
    }


def policy(config: Config, devices: Devices, budgets: Mapping[str, int | None] | None = None) -> PolicySpec:
    """`budgets`: to be kept; None: as the configuration says."""
    return PolicySpec(
        budgets=room.budgets(config, devices) if budgets is None else budgets,
        concurrency=config.concurrency,
        min_residency_s=config.min_residency,
        queue_limit=config.queue_limit,
        patience_s=config.patience,
        patience_most_s=config.longest_turn,
        drain_timeout_s=config.drain_timeout,
    )


def _unusable(config: Config, devices: Devices) -> dict[str, str]:
    """Why a model can't be started at all, by its name."""
    mistakes = [*files.missing(config), *room.misfits(config, devices)]
    return {
        str(mistake.key[1]): (
            f"cannot start {mistake.key[1]}: {mistake.message}; {mistake.remedy}, and run `llm-router reload`"
        )
        for mistake in mistakes
        if mistake.key[0] == "models" and mistake.key[2:] != ("pinned",)
    }


def _spec(
    config: Config,
    name: str,
    devices: Devices,
    *,
    launch_key: str,
    footprint_mib: Callable[[str], int | None],
    unusable: str | None,
) -> ModelSpec:
    model = config.models[name]
    return ModelSpec(
        name=name,
        footprint_mib=_footprint_mib(config, name, footprint_mib),
        is_declared=model.memory is not None,
        devices=room.placed_on(config, name, devices),
        seats=seats(config, name),
        companions=companions(config, name),
        launch_key=launch_key,
        idle_timeout_s=config.idle_timeout_s(name),
        park_after_s=config.park_after_s(name),
        concurrency=model.concurrency,
        priority=model.priority,
        pinned=model.pinned,
        load_timeout_s=config.load_timeout_s(name),
        unusable=unusable,
    )


def _footprint_mib(config: Config, name: str, otherwise: Callable[[str], int | None]) -> int | None:
    declared = config.models[name].memory
    if declared is not None:
        return declared
    return 0 if config.lives_beside(name) else otherwise(name)
