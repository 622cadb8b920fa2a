"""`llm-router demo`: prepares models, runs the router with them, and shows how to try it."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Self

import platformdirs
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from llm_router.config import Config
from llm_router.errors import ConfigError
from llm_router.hardware.host import Host
from llm_router.models import demo


def run(port: int) -> int:
    """Returns the exit code. Raises: LlmRouterError where it can't start."""
    from llm_router import app as router

    console = Console(highlight=False)
    router.listen(Config.model_fields["host"].default, port).close()  # before anything is fetched for nothing
    cache = platformdirs.user_cache_path("llm-router") / "models"
    memory = Host().read()
    try:
        with Reporter(console) as report:
            data = demo.prepare(cache, report, memory_mib=memory.total_mib if memory else 0)
    except OSError as error:
        why = error.strerror or error  # numpy has no number for a full disk, and so no words
        raise ConfigError(
            f"cannot write {cache}: {why}; make room there, or set XDG_CACHE_HOME to another folder"
        ) from error
    config = Config.model_validate({**data, "router_port": port})
    return router.serve(config, None, lambda url: console.print(_welcome(config, url), soft_wrap=True))


class Reporter:
    """Shows what is being prepared: a bar on a terminal, elsewhere one line for each new message."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=None)
        self._console = console
        self._last = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, message: str, fraction: float | None = None) -> None:
        self._progress.update(
            self._task, description=escape(message), total=None if fraction is None else 1.0, completed=fraction or 0.0
        )
        if message != self._last and (message.startswith("cannot ") or not self._console.is_terminal):
            self._console.print(escape(message), soft_wrap=True)
        self._last = message


def _welcome(config: Config, url: str) -> str:
    width = max(map(len, config.models))
    models = "\n".join(
        f"  [bold]{name:{width}}[/]  {escape(str(one.description))}" for name, one in config.models.items()
    )
    first = next(name for name in config.models if "chat" in config.capabilities_of(name))
    body = json.dumps({"model": first, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]})
    return (
        f"\nllm-router is ready at [bold]{url}/v1[/] with these models, loaded when they are asked for:\n\n{models}\n\n"
        f"Try it:\n\n  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"    -d '{escape(body)}'\n\nCtrl-C ends it."
    )
