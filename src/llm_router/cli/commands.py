"""The commands. Each gathers its arguments, calls one thing, prints, and leaves the exit code to `guard`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console

from llm_router import __version__
from llm_router.cli import explain, keys, show
from llm_router.cli.client import RouterClient
from llm_router.cli.discover import discover
from llm_router.cli.doctor import doctor
from llm_router.cli.guard import EXIT_CODES, FAILED, Commands, errors_as_json
from llm_router.cli.history import history
from llm_router.cli.install import install
from llm_router.cli.log import LogFormat, log_to_stderr
from llm_router.cli.options import DEFAULT_URL, ConfigOption, JsonOption, ModelArgument, UrlOption, backend_kinds
from llm_router.cli.simulate import simulate
from llm_router.config import check, examine, find, load
from llm_router.config.problems import Problem
from llm_router.hardware.base import DeviceReading
from llm_router.hardware.reading import open_reader

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=f"One OpenAI-compatible endpoint in front of llama.cpp, SGLang, TabbyAPI and vLLM.\n\n{EXIT_CODES}",
)

_HIGHEST_PORT = 65535


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"llm-router {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the configured one.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=_HIGHEST_PORT, help="Port to listen on, instead of the configured one.")
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="LLM_ROUTER_LOG_FORMAT", help="Of the log: `text`, or `json` for programs.")
    ] = LogFormat.TEXT,
) -> None:
    """Run the router until it is told to stop (Ctrl-C or SIGTERM; a second one skips the waiting).

    Exit codes: 0 stopped as told; 1 the configuration has mistakes, or the address is taken; 2 no configuration file.
    """
    from llm_router import app as router

    path = find(config)
    given = {"host": host, "router_port": port}
    overrides = {key: value for key, value in given.items() if value is not None}
    examined = examine(path, overrides=overrides, kinds=backend_kinds(), devices=_devices())
    if examined.config is None:
        load(path, overrides=overrides, kinds=backend_kinds())  # raises, with the whole list
    assert examined.config is not None
    for problem in examined.problems:
        print(f"warning: {problem}", file=sys.stderr)
    log_to_stderr(form=log_format)
    count = len(examined.config.models)

    def on_ready(url: str) -> None:
        print(f"llm-router {__version__}: {count} model{'s' if count > 1 else ''} at {url}/v1", flush=True)

    raise typer.Exit(router.serve(examined.config, path, on_ready, overrides))


@app.command()
def demo(
    port: Annotated[
        int, typer.Option(min=0, max=_HIGHEST_PORT, help="Port to listen on; 0 takes any free one.")
    ] = 8002,
) -> None:
    """Run the router with models found on this machine, or small ones it fetches or makes: nothing to configure.

    Exit codes: 0 stopped as told; 1 it can't start.
    """
    from llm_router.cli.demo import run

    log_to_stderr(logging.WARNING)
    raise typer.Exit(run(port))


@app.command("check")
def check_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print every mistake in the configuration, with line, key and what to write instead, and what can't fit on this
    machine. Starts nothing.

    Exit codes: 0 no problems; 1 problems; 2 the file can't be read.
    """
    with errors_as_json(as_json):
        path = find(config)
        problems = check(path, kinds=backend_kinds(), devices=_devices())
    if as_json:
        print(json.dumps({"file": str(path), "problems": [problem.as_json() for problem in problems]}, indent=2))
    else:
        for problem in problems:
            print(problem, flush=True)  # before what goes to stderr, also where both are one pipe
        print(f"{path}: {_summary(problems)}", file=sys.stderr)
    raise typer.Exit(FAILED if problems else 0)


@app.command()
def status(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Show every model and what it is doing, and the memory of each device.

    Exit codes: 0 shown; 1 something else answers there; 3 the router is not running.
    """
    with errors_as_json(as_json):
        current = RouterClient(url).status()
    if as_json:
        print(json.dumps(current, indent=2))
        return
    for line in show.configuration(current):
        print(line, file=sys.stderr)
    show.print_out(show.status_table(current))
    if current["devices"]:
        print()
        show.print_out(show.device_table(current))


@app.command()
def why(model: ModelArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Explain what a model waits for: who comes before it, what room it needs, who would leave for it, and the last
    decisions about it.

    Exit codes: 0 shown; 1 no such model; 3 the router is not running.
    """
    with errors_as_json(as_json):
        found = RouterClient(url).why(model)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show.print_out(explain.why(found))


@app.command("load")
def load_command(model: ModelArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Make a model ready and wait for it. Interrupting the wait doesn't stop the load.

    With --json: one object a line. Exit codes: 0 ready; 1 it can't be loaded; 3 the router is not running; 130
    interrupted.
    """
    steps = RouterClient(url).load(model)
    if as_json:
        with errors_as_json(as_json):
            for step in steps:
                print(json.dumps(step), flush=True)
        return
    elapsed_s = show.load_progress(Console(stderr=True), model, steps)
    print(f"{model} is ready ({show.duration(elapsed_s)})")


@app.command()
def unload(model: ModelArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Unload a model once its running requests are done, and wait until it is gone.

    Exit codes: 0 gone; 1 refused; 3 the router is not running; 130 interrupted.
    """
    with errors_as_json(as_json):
        outcome = RouterClient(url).unload(model)
    if as_json:
        print(json.dumps(outcome))
    else:
        print(f"{model} is unloaded" if outcome.get("unloaded") else f"{model} was not loaded")


@app.command("reload")
def reload_command(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Have the router read its configuration again. Only models that start differently now are exchanged, once their
    running answers are done; a file with mistakes changes nothing.

    Exit codes: 0 the file is in force; 1 it has mistakes; 3 the router is not running.
    """
    with errors_as_json(as_json):
        outcome = RouterClient(url).reload()
    if as_json:
        print(json.dumps(outcome, indent=2))
        return
    for problem in outcome["problems"]:
        print(f"warning: {show.problem(problem)}", file=sys.stderr)
    for line in show.reloaded(outcome):
        print(line)


@app.command()
def logs(
    model: ModelArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the model is unloaded.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Print what the model's server has written.

    Exit codes: 0 printed; 1 no such model; 3 the router is not running; 130 interrupted.
    """
    for line in RouterClient(url).logs(model, lines=lines, follow=follow):
        print(line, flush=follow)


app.command()(doctor)
app.command()(history)
app.command()(simulate)
app.add_typer(keys.app, name="keys")
app.command()(install)
app.command()(discover)


def _devices() -> Mapping[str, DeviceReading]:
    reader = open_reader()
    try:
        return reader.read()
    finally:
        reader.close()


def _summary(problems: list[Problem]) -> str:
    if not problems:
        return "no problems"
    fatal = sum(problem.fatal for problem in problems)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    effect = "the router won't start" if fatal else "the router starts, but not these models"
    return f"{count}; {effect}"
