"""Gathers what the doctor has to know, and has it look. Counterpart: `cli.doctor`, which shows what was found."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from llm_router.app import parts
from llm_router.app.limits import raise_open_files
from llm_router.backends import registry
from llm_router.config import ConfigUnreadable, Examined, examine, find
from llm_router.config.schema import Config
from llm_router.doctor import engines, machine, rights
from llm_router.doctor.finding import Finding, ok, problem, warning
from llm_router.doctor.rights import Rule, TooOld
from llm_router.errors import LlmRouterError
from llm_router.hardware.base import CPU, DeviceReading
from llm_router.hardware.page_cache import cached_fraction
from llm_router.hardware.reading import open_reader
from llm_router.install import polkit
from llm_router.install.layout import for_machine
from llm_router.launchers.ports import ensure_free
from llm_router.launchers.unit import unit_name
from llm_router.runtime.instances import Launch


def look(given: Path | None, *, is_running: bool) -> Iterator[Finding]:
    """Everything, in the order of what depends on what. `given`: the configuration file; None: the first in the usual
    folders. `is_running`: a router is, on this machine. Takes seconds where engines say their version slowly."""
    reader = open_reader()
    try:
        devices = reader.read()
    finally:
        reader.close()
    yield from machine.devices(devices)
    yield machine.open_files(raise_open_files())
    backends = registry.load()
    try:
        path = find(given)
        examined = examine(path, kinds=backends, devices=devices)
    except ConfigUnreadable as error:
        yield problem("configuration", error.message, "models, ports and units are looked at when there is one")
        return
    yield from _configuration(path, examined)
    config = examined.config
    if config is not None:
        yield from machine.state_folder(config.state_folder, _free_mib(config.state_folder))
        yield from _models(config, parts.launches(config, backends), devices, is_running)


def _configuration(path: Path, examined: Examined) -> Iterator[Finding]:
    for found in examined.problems:
        kind = problem if found.fatal else warning
        yield kind("configuration", f"{found.file}:{found.line}: {found.key}: {found.message}", found.remedy)
    if not examined.problems and examined.config is not None:
        count = len(examined.config.models)
        yield ok("configuration", f"{path}: {count} model{'' if count == 1 else 's'}")


def _models(
    config: Config, launches: Mapping[str, Launch], devices: Mapping[str, DeviceReading], is_running: bool
) -> Iterator[Finding]:
    programs: defaultdict[str, list[str]] = defaultdict(list)
    ports: defaultdict[int, list[str]] = defaultdict(list)
    units: defaultdict[str, list[str]] = defaultdict(list)
    sizes_mib: dict[str, int] = {}
    built_in: list[str] = []
    for name, launch in launches.items():
        request = launch.request
        if request.service is not None:
            units[request.service].append(name)
        elif request.url is None and request.script is None:
            try:
                argv = launch.backend.launch(replace(request, port=1), "").argv
            except LlmRouterError as error:
                yield problem(f"model {name}", error.message, "see `llm-router check`")
                continue
            if argv[0] == sys.executable and request.command is None:
                built_in.append(name)
            else:
                programs[argv[0]].append(name)
        if request.url is None and launch.fixed_port is not None:
            ports[launch.fixed_port].append(name)
        if request.path is not None and (size := engines.size_mib(Path(request.path))):
            sizes_mib[name] = size
    yield from engines.built_in(built_in)
    yield from engines.programs(programs)
    yield from engines.units(units)
    if units:
        yield from rights.rights([unit_name(unit) for unit in units], _rule(), _me(), too_old=_too_old())
    yield from engines.ports(ports, ensure_free, is_running=is_running)
    cached = {name: cached_fraction(Path(launches[name].request.path or "")) for name in sizes_mib}
    yield from engines.files(sizes_mib, cached, devices[CPU].total_mib if CPU in devices else None)


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's number without a name
        return str(os.geteuid())


def _rule() -> Rule:
    path = for_machine().polkit
    assert path is not None
    try:
        found = polkit.read(path.read_text())
    except FileNotFoundError:
        return Rule(file=str(path), is_there=False)
    except (OSError, ValueError):  # the folder is polkit's own: only root looks into it
        found = None
    return Rule(file=str(path), is_there=True, user=found and found[0], units=found and found[1])


def _too_old() -> TooOld | None:
    said = engines.ask(("pkaction", "--version"))
    version = polkit.version(said.output) if said.status == 0 else None
    return TooOld(version=version, remedy=polkit.REMEDY) if version and not polkit.reads_rules(version) else None


def _free_mib(folder: Path) -> int | None:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        return shutil.disk_usage(nearest).free // 1024**2
    except OSError:
        return None
