"""TabbyAPI, in two ways.

One server for many models: it is started without a model (or runs at a `url`) and is given one through its admin API.
That needs `model_name` or `path`, and its admin key (`tabby_keys`). A `path` needs no key where none is known: the
server is then started without keys, on the loopback address.

The plain way: a script, command or `url` whose server has its model from the start. Its `/health` says nothing about a
model, so readiness is asked of `/v1/model`, which needs the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath

from llm_router.backends import facts, tabby_admin
from llm_router.backends.base import LaunchRequest, LaunchSpec, Readiness, StopPlan
from llm_router.backends.command import HOST, Asked, Habits, is_python, plain_launch, server_name, started
from llm_router.errors import LaunchError

_HABITS = Habits(
    ready_path="/v1/model",
    remote_ready_path="/v1/model",
    ready_needs_key=True,
    # It cancels streams, but waits for other requests without limit.
    stop=StopPlan(grace_s=10.0),
    # Into a file it would cut its lines at 80 columns, and errors with them.
    env={"PYTHONUNBUFFERED": "1", "TABBY_LOG_CONSOLE_WIDTH": "240"},
    facts=(Asked(path="/v1/model", read=facts.tabby_card),),
)
# Says that the server is there, asks for no key, and knows nothing of models. `/health` turns to 503 after one failed
# generation and stays so until a restart.
_BARE = Readiness(path="/.well-known/serviceinfo", older_path="/health")


class TabbyAPI:
    """EXL3, on the main branch."""

    kind = "tabbyapi"

    def probe(self, request: LaunchRequest) -> tuple[str, ...] | None:
        return None

    def launch(self, request: LaunchRequest, probe_output: str) -> LaunchSpec:
        return replace(self._spec(request), wants_usage_asked=True)

    def claim(self, request: LaunchRequest) -> float | None:
        return None

    def _spec(self, request: LaunchRequest) -> LaunchSpec:
        if request.path is not None:
            return self._from_path(request, PurePath(request.path))
        spec = plain_launch(_with_a_key(request), _HABITS, served_name=_folder(server_name(request)))
        if request.admin_key is None or request.model_name is None:
            return spec
        if request.url is not None and len(PurePath(request.model_name).parts) > 1:
            raise LaunchError(
                f'cannot use {request.model}: TabbyAPI calls "{request.model_name}" by its last folder alone, which '
                "another model there may have too; give that folder a name of its own, right below the model folder"
            )
        started_by = (request.script, request.service)
        template = (*(request.command or ()), *(text for text in started_by if text), *request.args)
        named = tuple(item.replace("${MODEL}", request.model_name) for item in template)
        return self._with_load(request, spec, request.model_name, named)

    def _from_path(self, request: LaunchRequest, path: PurePath) -> LaunchSpec:
        is_fixed = request.admin_key is None and request.api_key is not None
        argv = (*_program(request), *_options(request, path, is_fixed=is_fixed), *request.args)
        spec = started(_with_a_key(request), argv, _HABITS, served_name=path.name)
        return spec if is_fixed else self._with_load(request, spec, path.name, argv)

    def _with_load(
        self, request: LaunchRequest, spec: LaunchSpec, model_name: str, template: tuple[str, ...]
    ) -> LaunchSpec:
        bare = replace(_BARE, path=request.ready_path, older_path=None) if request.ready_path else _BARE
        load = tabby_admin.load(request, kind=self.kind, model_name=model_name, template=template)
        return replace(spec, readiness=bare, load=load)


class TabbyAPIExl2(TabbyAPI):
    """EXL2, on the branch `exl2-checkpoint`, the last with that engine. Its own kind, because it is another checkout
    and another environment; one server can't serve the other's models."""

    kind = "tabbyapi-exl2"


def _with_a_key(request: LaunchRequest) -> LaunchRequest:
    """The admin key opens everything that the other one does."""
    return replace(request, api_key=request.api_key or request.admin_key)


def _folder(model_name: str) -> str:
    return PurePath(model_name).name


def _program(request: LaunchRequest) -> Iterator[str]:
    """Its folder has a virtual environment, which its own start script makes, and a main.py."""
    if request.directory is None:
        raise LaunchError(
            f"cannot start {request.model}: TabbyAPI runs in its own folder; "
            'name that as "directory" of the backend, or start it by a "script"'
        )
    binary = request.binary or f"{request.directory}/venv/bin/python"
    yield binary
    if is_python(binary):
        yield "main.py"


def _options(request: LaunchRequest, path: PurePath, *, is_fixed: bool) -> Iterator[str]:
    # If the port is taken it uses the next one and says so in its log alone; the port was free a moment ago.
    yield from ("--host", HOST, "--port", "${PORT}", "--model-dir", str(path.parent))
    yield from ("--model-name", path.name if is_fixed else "")  # empty: whatever config.yml names isn't loaded
    if is_fixed:
        for name, value in tabby_admin.context(request).items():
            yield from (f"--{name.replace('_', '-')}", str(value))
    elif request.admin_key is None:
        yield from ("--disable-auth", "true")
