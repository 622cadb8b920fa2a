"""`llm-router install`: asks, shows, and has `llm_router.install` do it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llm_router.cli.client import address
from llm_router.cli.guard import FAILED
from llm_router.cli.options import backend_kinds
from llm_router.config import examine
from llm_router.config.schema import Config
from llm_router.install import findings, needs, plan, proof, wanted
from llm_router.install.errors import InstallError
from llm_router.install.layout import Layout, for_machine, for_user
from llm_router.install.machine import Machine
from llm_router.install.steps import Link, Service, Step
from llm_router.install.wanted import Wanted
from llm_router.models import local
from llm_router.models.local import LocalModel

_MOST_MODELS = 30


def install(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Use this configuration instead of making one.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take the defaults.")] = False,
    user: Annotated[bool, typer.Option("--user", help="For you alone, without root: a service of your own.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print each step and its undo; change nothing.")] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Undo it all, configuration and history too.")] = False,
    proven: Annotated[bool, typer.Option("--proof/--no-proof", help="Ask a model something in the end.")] = True,
    release: Annotated[
        Path | None, typer.Option("--release", help="Where the program was put: install.sh says it.")
    ] = None,
) -> None:
    """Make a service of the router on this machine: user, folders, configuration, systemd units, rights. What is done
    already is left alone, so it also upgrades. `./install.sh` brings the program and then calls this.

    Exit codes: 0 done; 1 a step failed, or something is missing; 130 interrupted.
    """
    layout = for_user(Path.home()) if user else for_machine()
    installer = Installer(layout, Machine(), asks=not yes and not dry_run)
    if uninstall:
        installer.uninstall(is_dry=dry_run)
    else:
        installer.install(config, release, is_dry=dry_run, proven=proven)


class Installer:
    """One run of the command. `asks`: somebody answers on the terminal. Raises: InstallError without one."""

    def __init__(self, layout: Layout, machine: Machine, *, asks: bool) -> None:
        self._layout = layout
        self._machine = machine
        self._asks = asks
        if asks and not sys.stdin.isatty():
            raise InstallError(
                "cannot ask questions: there is no terminal; answer them all with --yes (and --config FILE), "
                "or look first with --dry-run"
            )

    def install(self, config: Path | None, release: Path | None, *, is_dry: bool, proven: bool) -> None:
        self._demand(has_units=False)
        goal = self._wanted(config, release)
        self._demand(has_units=bool(goal.units), is_final=True)
        steps = plan.Plan(self._steps(goal), self._layout.record)
        if is_dry:
            print("\n".join(steps.preview(self._machine)))
            return
        if self._asks:
            print("\n" + "\n".join(steps.preview(self._machine)) + "\n")
            typer.confirm("Go on?", default=True, abort=True)
        count = self._apply(steps)
        print(f"{count} steps done." if count else "Everything was there already.")
        self._forget_older_releases()
        settled = self._parsed(self._layout.config)
        url = address(settled)
        self._warn_of_unreadable(settled)
        if proven:
            said = proof.chat(url, _tell, key=os.environ.get("LLM_ROUTER_KEY"))
            print(f"It works. {said}" if said else "It answers; there is no model to ask, or it wants a key.")
        self._say_whats_next(url)

    def uninstall(self, *, is_dry: bool) -> None:
        steps = plan.recorded(self._layout.record)
        if is_dry:
            print("\n".join(f"{number:2}. {step.describe_undo()}" for number, step in enumerate(reversed(steps), 1)))
            return
        if not self._layout.is_for_user and not self._machine.is_root():
            raise InstallError("cannot uninstall: only root can; run it with sudo")
        if self._asks:
            print("\n".join(step.describe_undo() for step in reversed(steps)))
            typer.confirm("Remove all this, the configuration and the history too?", default=False, abort=True)
        failures = plan.undo_all(self._layout.record, self._machine, _tell)
        for failure in failures:
            print(f"llm-router: {failure}", file=sys.stderr)
        if failures:
            raise typer.Exit(FAILED)
        print("Nothing of it is left.")

    def _apply(self, steps: plan.Plan) -> int:
        """Where the new program can't be started, the one before goes on."""
        link = self._layout.current
        before = link.readlink() if link.is_symlink() else None
        try:
            return steps.apply(self._machine, _tell)
        except InstallError:
            if before is not None and link.readlink() != before and before.exists():
                print(f"- going back to {before}", flush=True)
                option = "--user" if self._layout.is_for_user else ""
                plan.Plan(
                    [Link(path=str(link), target=str(before)), Service(name="llm-router.service", option=option)],
                    self._layout.record,
                ).apply(self._machine, _tell)
            raise

    # -- what is wanted

    def _wanted(self, config: Path | None, release: Path | None) -> Wanted:
        if config is not None:
            examined = self._parsed(config)
            return Wanted(config=config.read_text(), units=_units(examined), release=release)
        if self._layout.config.exists():
            print(f"The configuration {self._layout.config} stays as it is.")
            return Wanted(config=None, units=_units(self._parsed(self._layout.config)), release=release)
        text, scripts = self._made_configuration()
        units = wanted.units_of(json.loads(text)["models"])
        return Wanted(config=text, units=units, scripts=scripts, release=release)

    def _made_configuration(self) -> tuple[str, dict[str, str]]:
        homes = findings.homes()
        engines = findings.engines(homes)
        print("Looking for engines and models on this machine …", flush=True)
        models = local.find(findings.model_folders(homes))[:_MOST_MODELS]
        for engine in engines:
            print(f"  found {engine.backend}: {engine.path}")
        if not models:
            raise InstallError(
                "cannot make a configuration: no GGUF model was found in ~/models, /models or the Hugging Face cache; "
                "put one there, or write a configuration and name it with --config"
            )
        for number, model in enumerate(models, 1):
            print(f"  {number:2}. {model.name} ({model.size_bytes / 1e9:.1f} GB, {model.use}) {model.path}")
        in_units = False
        port = 8002
        if self._asks:
            models = _chosen(models, typer.prompt("Which models (numbers with commas, or all)", default="all"))
            in_units = typer.confirm("Run them in a systemd unit (else as processes of the router)?", default=False)
            port = typer.prompt("Port of the router", default=port, type=int)
        return wanted.configuration(engines, models, port=port, layout=self._layout, in_units=in_units)

    def _parsed(self, path: Path) -> Config:
        examined = examine(path, kinds=backend_kinds(), look_at_files=False)
        if examined.config is None:
            problems = "\n".join(f"  {problem}" for problem in examined.problems)
            raise InstallError(f"cannot install with {path}: it has mistakes\n{problems}")
        return examined.config

    def _steps(self, goal: Wanted) -> list[Step]:
        before = wanted.steps(self._layout, goal)[:-1]
        is_current = all(step.is_done(self._machine) for step in before)
        return wanted.steps(self._layout, replace(goal, is_current=is_current))

    # -- checks

    def _demand(self, *, has_units: bool, is_final: bool = False) -> None:
        missing = needs.missing(self._layout, self._machine, has_units=has_units)
        fatal = [str(need) for need in missing if need.is_fatal]
        if fatal:
            raise InstallError("cannot install:\n" + "\n".join(f"  {need}" for need in fatal))
        for need in missing if is_final else ():
            print(f"note: {need}")

    def _warn_of_unreadable(self, config: Config) -> None:
        """A home folder is often closed to other users, and the router is one."""
        if self._layout.user is None:
            return
        named = {path for model in config.models.values() for path in (model.path, model.script) if path}
        for path in sorted(path for path in named if path.startswith("/")):
            if self._machine.ask("runuser", "-u", self._layout.user, "--", "test", "-r", path).status != 0:
                print(
                    f"warning: the user {self._layout.user} can't read {path}; allow it with "
                    f"`setfacl -m u:{self._layout.user}:rX {path}` and `…:x` for each folder above it"
                )

    def _forget_older_releases(self) -> None:
        current = self._layout.current.resolve()
        if current.parent != self._layout.releases:
            return
        for folder in self._layout.releases.iterdir():
            if folder != current:
                shutil.rmtree(folder, ignore_errors=True)

    def _say_whats_next(self, url: str) -> None:
        option = "--user " if self._layout.is_for_user else ""
        unit = "--user-unit" if self._layout.is_for_user else "-u"
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"""
Open-WebUI     Settings → Connections → OpenAI API: {url}/v1 (any key)
status         llm-router status{"" if url.endswith(":8002") else f" --url {url}"}
log            journalctl {unit} llm-router -f
configuration  {self._layout.config}, then systemctl {option}restart llm-router
remove         {f"llm-router install --uninstall {option}" if option else "sudo llm-router install --uninstall"}""")
        if self._layout.is_for_user:
            console.print(f"at boot        sudo loginctl enable-linger {os.environ.get('USER', '$USER')}")


def _tell(step: str) -> None:
    print(f"- {step}", flush=True)


def _chosen(models: list[LocalModel], answer: str) -> list[LocalModel]:
    if answer.strip().lower() == "all":
        return models
    try:
        numbers = [int(text) for text in answer.replace(",", " ").split()]
        return [models[number - 1] for number in numbers if number > 0] or models
    except (ValueError, IndexError) as error:
        raise InstallError(f'cannot understand "{answer}": write numbers of the list, as in 1,3') from error


def _units(config: Config) -> dict[str, str]:
    return wanted.units_of({name: model.model_dump() for name, model in config.models.items()})
