"""Makes the steps of an installation from what is wanted. Pure but for reading templates.

Counterparts: `plan`, which carries them out; `layout`, which says where.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_router.install import polkit, unit
from llm_router.install.findings import Engine
from llm_router.install.layout import Layout
from llm_router.install.steps import Account, File, Folder, Link, Program, Service, Step, UnitFile
from llm_router.launchers.unit import unit_name
from llm_router.models.local import LocalModel

_PORTS = {"llamacpp": 8085, "sglang": 30000, "tabbyapi": 5000, "vllm": 8000}
_CONTEXT = 8192  # of models that nobody has said more about


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be there in the end.

    `config`: the text of the configuration file; None: the one that is there. `units`: the units that its models name,
    and the backend each belongs to. `scripts`: texts of start scripts by file name. `release`: the folder that the
    program was installed into; None: it stays where it is. `is_current`: the service runs all this already.
    """

    config: str | None
    units: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    release: Path | None = None
    is_current: bool = False


def steps(layout: Layout, wanted: Wanted) -> list[Step]:
    """In the order in which they build on each other."""
    option = "--user" if layout.is_for_user else ""
    return [
        *_account(layout),
        *_folders(layout, wanted),
        *_program(layout, wanted),
        *_configuration(layout, wanted),
        *_rule(layout, wanted),
        *_units(layout, wanted, option),
        Service(name="llm-router.service", option=option, is_current=wanted.is_current),
    ]


def _account(layout: Layout) -> Iterator[Step]:
    if layout.user is not None:
        yield Account(name=layout.user, home=str(layout.state))


def _folders(layout: Layout, wanted: Wanted) -> Iterator[Step]:
    yield Folder(path=str(layout.config_dir), mode=0o750, owner=layout.reader)
    yield Folder(path=str(layout.state), mode=0o750, owner=layout.owner)
    if wanted.scripts:
        yield Folder(path=str(layout.scripts), mode=0o750, owner=layout.reader)


def _program(layout: Layout, wanted: Wanted) -> Iterator[Step]:
    if wanted.release is not None:
        yield Program(release=str(wanted.release))
        yield Link(path=str(layout.current), target=str(wanted.release))
        yield Link(path=str(layout.link), target=str(layout.program))


def _configuration(layout: Layout, wanted: Wanted) -> Iterator[Step]:
    for name, text in wanted.scripts.items():
        yield File(path=str(layout.scripts / name), text=text, mode=0o750, owner=layout.reader, keep=True)
    if wanted.config is not None:
        # There may be keys in it.
        yield File(path=str(layout.config), text=wanted.config, mode=0o640, owner=layout.reader)


def _rule(layout: Layout, wanted: Wanted) -> Iterator[Step]:
    if layout.polkit is not None and layout.user is not None and wanted.units:
        yield File(path=str(layout.polkit), text=polkit.rule(layout.user, wanted.units))


def _units(layout: Layout, wanted: Wanted, option: str) -> Iterator[Step]:
    for name, backend in wanted.units.items():
        text = unit.engine_unit(layout, backend, name)
        if text is not None:
            yield UnitFile(path=str(layout.units / name), text=text, option=option)
    yield UnitFile(path=str(layout.units / "llm-router.service"), text=unit.router_unit(layout), option=option)


def units_of(models: Mapping[str, Any]) -> dict[str, str]:
    """The units that models of a configuration name, with their suffix, and the backend of each."""
    named = ((model.get("service"), str(model.get("backend"))) for model in models.values())
    return {unit_name(service): kind for service, kind in named if service}


def configuration(
    engines: Sequence[Engine], models: Sequence[LocalModel], *, port: int, layout: Layout, in_units: bool
) -> tuple[str, dict[str, str]]:
    """A configuration file for what was found, and the start scripts that it names."""
    entries: dict[str, dict[str, Any]] = {}
    scripts: dict[str, str] = {}
    for model in models:
        name = _unused(model.name, entries)
        entry: dict[str, Any] = {"backend": "llamacpp"}
        if in_units:
            file = f"start_{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.sh"
            scripts[file] = _script(model, engines, layout)
            entry |= {"script": str(layout.scripts / file), "service": "llamacpp.service"}
        else:
            entry |= {"path": str(model.path)} | ({} if model.use == "embedding" else {"context_length": _CONTEXT})
        if model.use in ("embedding", "rerank"):
            entry["capabilities"] = [model.use]
        entries[name] = entry
    backends: dict[str, dict[str, Any]] = {
        engine.backend: {"port": _PORTS[engine.backend], engine.key: engine.path} for engine in engines
    }
    if in_units:
        backends.setdefault("llamacpp", {"port": _PORTS["llamacpp"]})
    config = {
        "router_port": port,
        "state_dir": str(layout.state),  # where the service has it: whoever runs the program by hand sees the same
        "model_load_timeout": 180,
        "backends": backends,
        "models": entries,
    }
    return json.dumps(config, indent=2) + "\n", scripts


def _script(model: LocalModel, engines: Sequence[Engine], layout: Layout) -> str:
    binary = next((engine.path for engine in engines if engine.backend == "llamacpp"), None)
    program = [binary] if binary else [str(layout.current / "bin" / "python"), "-m", "llm_router.engine.llamacpp"]
    extra = {"embedding": " --embeddings", "rerank": " --rerank"}.get(model.use, f" -c {_CONTEXT}")
    return (
        "#!/bin/sh\n"
        f"# Starts {model.name} for llm-router, which sets PORT and MODEL. Change it as you like: it is yours.\n"
        f"exec {shlex.join(program)} -m {shlex.quote(str(model.path))} --host 127.0.0.1 \\\n"
        f'  --port "${{PORT:-8085}}" --alias "${{MODEL:-model}}"{extra} --sse-ping-interval 1\n'
    )


def _unused(name: str, taken: Mapping[str, object]) -> str:
    while name in taken:
        name += "-2"
    return name
