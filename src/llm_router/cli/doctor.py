"""`llm-router doctor`: what is wrong on this machine, and what to do about it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from llm_router.cli.client import NotRunning, Refused, RouterClient, address
from llm_router.cli.guard import FAILED
from llm_router.cli.options import DEFAULT_URL, ConfigOption, JsonOption, router_url
from llm_router.cli.show import print_out
from llm_router.config import find, load
from llm_router.doctor.finding import Finding, Verdict, ok, problem, warning
from llm_router.errors import LlmRouterError

_MARKS = {Verdict.OK: "[green]ok[/]", Verdict.WARNING: "[yellow]warning[/]", Verdict.PROBLEM: "[red]problem[/]"}


def doctor(
    config: ConfigOption = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", envvar="LLM_ROUTER_URL", callback=router_url, help="Where the router listens, else as configured."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine: GPU and driver, engines, units, ports, files, rights, limits, the configuration, whether a
    router is running. Says what to do about what it finds; changes nothing.

    Exit codes: 0 no problems, but there may be warnings; 1 problems.
    """
    from llm_router.app.doctor import look

    router, is_running = _router(url or _configured(config))
    findings = [router, *look(config, is_running=is_running)]
    if as_json:
        print(json.dumps({"findings": [finding.as_json() for finding in findings]}, indent=2))
    else:
        print_out(shown(findings))
    raise typer.Exit(FAILED if any(finding.verdict is Verdict.PROBLEM for finding in findings) else 0)


def _configured(given: Path | None) -> str:
    try:
        return address(load(find(given)))
    except LlmRouterError:
        return DEFAULT_URL


def _router(url: str) -> tuple[Finding, bool]:
    """What answers there, and whether it is a router."""
    try:
        status = RouterClient(url).status()
    except NotRunning:
        return ok("router", f"isn't running at {url}"), False
    except Refused as error:
        if error.code in ("not_a_router", "lost"):
            remedy = 'end it, or choose another "router_port" and name it with --url'
            return problem("router", f"something else answers at {url}", remedy), False
        return ok("router", f"is running at {url}, and tells nobody without a key more"), True
    if found := status.get("config_problems"):
        remedy = "`llm-router reload` names them; the configuration from before is in force"
        return warning("router", f"is running at {url}; its file has {len(found)} problems", remedy), True
    return ok("router", f"is running at {url}: {status.get('version')}, pid {status.get('pid')}"), True


def shown(findings: list[Finding]) -> Group:
    """A line for each, its remedy below, and the sum."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(_MARKS[finding.verdict], escape(finding.about), escape(finding.message))
        if finding.remedy:
            table.add_row("", "", f"[dim]→ {escape(finding.remedy)}[/]")
    counts = Counter(finding.verdict for finding in findings)
    problems, warnings = counts[Verdict.PROBLEM], counts[Verdict.WARNING]
    return Group(table, "", f"{_number(problems, 'problem')}, {_number(warnings, 'warning')}")


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
