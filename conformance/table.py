"""What came of it, engine by point: on the terminal, and as a page of the documentation."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conformance.result import CANNOT_RUN, DIFFERS, WORKS, Result
from conformance.switch import NAME

_SIGNS = {WORKS: "[green]works[/]", DIFFERS: "[red]differs[/]", CANNOT_RUN: "[dim]–[/]"}
_HEAD = """# What a client may rely on, engine by engine

<!-- Written by `python -m conformance --page docs/reference/conformance.md`: not by hand. -->

Each point is asked of a real inference server behind a router, on a machine without a GPU: vLLM and SGLang compute on
the CPU, and under TabbyAPI's own HTTP layer is a stand-in for its engine. How to run it, and what the stand-ins are:
[conformance](../../conformance/README.md). The seconds are a small machine's that may have had other work to do: they
say what was waited for, not how fast an engine is.
"""


def words(name: str) -> str:
    return name.replace("_", " ")


def show(console: Console, results: list[Result]) -> None:
    table = Table(title="What a client may rely on, engine by engine")
    table.add_column("point")
    columns, tours = _parted(results)
    for result in columns:
        table.add_column(f"{result.engine}\n[dim]{result.version or 'not run'}[/]", justify="center")
    for name in _names(columns):
        table.add_row(words(name), *(_SIGNS[result.points.get(name, (CANNOT_RUN,))[0]] for result in columns))
    if any(result.points for result in columns):
        console.print(table)
    for line in _remarks(results, tours):
        console.print(line, markup=False)


def page(results: list[Result]) -> str:
    columns, tours = _parted(results)
    lines = [_HEAD, f"Asked on {' and on '.join(dict.fromkeys(result.when for result in results))}.\n"]
    lines += ["| | " + " | ".join(f"{result.engine} ({result.version or 'not run'})" for result in columns) + " |"]
    lines += ["| --- |" + " --- |" * len(columns)]
    for name in _names(columns):
        cells = (result.points.get(name, (CANNOT_RUN, "")) for result in columns)
        lines.append(f"| {words(name)} | " + " | ".join(_cell(*cell) for cell in cells) + " |")
    for tour in tours:
        lines += ["", f"## {tour.engine.capitalize()}", "", "One router, one endpoint, one model after the other.", ""]
        lines += [
            "| | |",
            "| --- | --- |",
            *(f"| {words(name)} | {_cell(*cell)} |" for name, cell in tour.points.items()),
        ]
    if troubles := [f"- {result.engine}: {result.trouble}" for result in results if result.trouble]:
        lines += ["", "## What wasn't run", "", *troubles]
    return "\n".join(lines) + "\n"


def _cell(verdict: str, said: str) -> str:
    said = said.replace("|", "\\|").replace("\n", " ")
    if verdict == WORKS:
        return said or "yes"
    if verdict == DIFFERS:
        return f"**no**: {said}"
    return f"– ({said})" if said else "–"


def _parted(results: list[Result]) -> tuple[list[Result], list[Result]]:
    """Those that were asked the common points, and those with points of their own."""

    tours = [result for result in results if result.engine == NAME]
    return [result for result in results if result not in tours], tours


def _names(results: list[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.points))


def _remarks(results: list[Result], tours: list[Result]) -> Iterator[str]:
    for result in results:
        if result.trouble:
            yield f"{result.engine}: can't run here: {result.trouble}"
        for name, (verdict, said) in result.points.items():
            if verdict == DIFFERS or result in tours:
                yield f"{result.engine}: {words(name)}: {verdict}: {said}"


def when(root: Path) -> str:
    """The day, and what was run where."""
    argv = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    day = time.strftime("%Y-%m-%d", time.gmtime())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{day}, commit {commit}, {machine}"
