"""Finds and reads the configuration file. Counterpart: `schema`, which says what may be in it.

All mistakes are found in one go. Nothing here knows the backends: their kinds come as an argument.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError

from llm_router.config import environment, extras, files, groups, idleness, keys, problems, room, rules
from llm_router.config.problems import Problem
from llm_router.config.room import Devices
from llm_router.config.rules import Mistake
from llm_router.config.schema import Config
from llm_router.config.text import BadSyntax, Text, parse
from llm_router.errors import ConfigError

_SYSTEM = Path("/etc/llm-router")
_SYSTEM_STATE = Path("/var/lib/llm-router")
_NAMES = ("router_config.json", "router_config.yaml", "router_config.yml")


class ConfigUnreadable(ConfigError):
    """There is no configuration file, or it can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """`config` None: there are fatal problems. Without them it works, except for what the other problems name."""

    config: Config | None
    problems: list[Problem]


def find(explicit: Path | None = None) -> Path:
    """The configuration file: `explicit`, else the first in ./config, the user's and the system's folder.

    Raises: ConfigUnreadable naming every place that was looked at, or the one that may not be.
    """
    if explicit is not None:
        return explicit
    folders = [
        Path("config"),
        platformdirs.user_config_path("llm-router"),
        platformdirs.site_config_path("llm-router"),
        _SYSTEM,
    ]
    for folder in folders:
        for name in _NAMES:
            if _is_file(folder / name):
                return folder / name
    places = "\n".join(f"  {folder}/{_NAMES[0]} (or .yaml)" for folder in dict.fromkeys(folders))
    raise ConfigUnreadable(
        f"cannot find a configuration file; these places were looked at:\n{places}\n"
        "write one there, name one with --config, or try the router with `llm-router demo`"
    )


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError as error:
        raise ConfigUnreadable(
            f"cannot look for {path}: {error.strerror}; ask as root, or name a readable file with --config"
        ) from error
    except OSError:
        return False


def load(path: Path, *, overrides: Mapping[str, object] | None = None, kinds: Collection[str] | None = None) -> Config:
    """The configuration in `path`; `overrides` replace top-level keys, as command line options do.

    Raises: ConfigUnreadable; ConfigError listing every mistake, each with file, line, key and remedy.
    """
    examined = examine(path, overrides=overrides, kinds=kinds, look_at_files=False)
    if examined.config is not None:
        return examined.config
    fatal = [problem for problem in examined.problems if problem.fatal]
    count = "one mistake" if len(fatal) == 1 else f"{len(fatal)} mistakes"
    raise ConfigError(f"cannot use {path}: {count}\n" + "\n".join(f"  {problem}" for problem in fatal))


def check(
    path: Path, *, files: bool = True, kinds: Collection[str] | None = None, devices: Devices | None = None
) -> list[Problem]:
    """Every problem of the file, in the order of its lines; empty: none. `files` False looks at no other file.
    `devices`: what the hardware has, to hold the file against; None: nobody looked.

    Raises: ConfigUnreadable.
    """
    return examine(path, look_at_files=files, kinds=kinds, devices=devices).problems


def examine(
    path: Path,
    *,
    overrides: Mapping[str, object] | None = None,
    kinds: Collection[str] | None = None,
    look_at_files: bool = True,
    devices: Devices | None = None,
) -> Examined:
    """Configuration and problems at once. `kinds`: the backends there are; None: any name will do. `devices`: what the
    hardware has; None: nobody looked.

    Raises: ConfigUnreadable.
    """
    try:
        text = parse(_read(path), path)
    except BadSyntax as error:
        problem = Problem(file=path, line=error.line, key="", message=error.message, remedy=error.remedy)
        return Examined(config=None, problems=[problem])
    if not isinstance(text.data, dict):
        mistake = Mistake(key=(), message="it isn't a section of keys", remedy='write {"models": {…}}')
        return Examined(config=None, problems=_located([mistake], path, text))
    mistakes = list(text.mistakes)
    expanded = environment.expand(text.data, os.environ, mistakes)
    assert isinstance(expanded, dict)
    expanded.pop("$schema", None)  # for editors
    data = _state_of_the_service(path) | files.absolute(expanded, path.parent.resolve()) | dict(overrides or {})
    config, refused = _validated(data)
    conflicts = [*rules.conflicts(data), *groups.conflicts(data)]
    # The schema names conflicts too, but all in one; that counts only where the plain data didn't show them.
    mistakes += [mistake for mistake in refused if mistake.key or not conflicts] + conflicts
    mistakes += _unknown_kinds(data, kinds)
    sound = _sound(data, mistakes) if config is None else config
    warnings: list[Mistake] = []
    if sound is not None:
        mistakes += [*keys.read(sound, os.environ)[1], *idleness.mistakes(sound), *extras.missing(sound)]
        warnings += [*(files.missing(sound) if look_at_files else ()), *room.misfits(sound, devices)]
    found = [*_located(mistakes, path, text), *_located(warnings, path, text, fatal=False)]
    return Examined(config=None if mistakes else config, problems=sorted(found, key=lambda problem: problem.line))


def _state_of_the_service(path: Path) -> dict[str, object]:
    """What is asked by hand with the machine's configuration is asked of its service, whose state isn't the asker's."""
    is_for_the_machine = path.parent.resolve() == _SYSTEM.resolve() and _SYSTEM_STATE.is_dir()
    return {"state_dir": str(_SYSTEM_STATE)} if is_for_the_machine and "STATE_DIRECTORY" not in os.environ else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigUnreadable(f"cannot read {path}: {reason}; name a readable file with --config") from error


def _validated(data: Mapping[str, object]) -> tuple[Config | None, list[Mistake]]:
    try:
        return Config.model_validate(data), []
    except ValidationError as error:
        return None, list(problems.from_validation(error))


def _sound(data: Mapping[str, Any], mistakes: Iterable[Mistake]) -> Config | None:
    """What is left without the sections that have a mistake, so that the rest is looked at too. None: not enough."""
    rest: dict[Any, Any] = dict(data)
    for mistake in mistakes:
        match mistake.key:
            case (section, name, *_) if isinstance(rest.get(section), Mapping):
                rest[section] = {key: value for key, value in rest[section].items() if str(key) != str(name)}
            case (key, *_):
                rest.pop(key, None)
    return _validated(rest)[0]


def _unknown_kinds(data: Mapping[str, object], kinds: Collection[str] | None) -> list[Mistake]:
    if kinds is None:
        return []
    found = []
    models, backends = data.get("models"), data.get("backends")
    for name, model in models.items() if isinstance(models, dict) else ():
        kind = model.get("backend") if isinstance(model, dict) else None
        if isinstance(kind, str) and kind not in kinds:
            found.append(problems.unknown_backend(("models", name, "backend"), kind, kinds))
    sections = backends if isinstance(backends, dict) else ()
    return found + [problems.unknown_backend(("backends", kind), kind, kinds) for kind in sections if kind not in kinds]


def _located(mistakes: Iterable[Mistake], path: Path, text: Text, *, fatal: bool = True) -> list[Problem]:
    return [
        Problem(
            file=path,
            line=text.line(mistake.key),
            key=rules.dotted(mistake.key),
            message=mistake.message,
            remedy=mistake.remedy,
            fatal=fatal,
        )
        for mistake in mistakes
    ]
