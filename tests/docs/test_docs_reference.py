"""The reference pages say what the code says: routes, headers, modes, errors, commands, options, laws."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pages
import pytest
from starlette.routing import BaseRoute, Route

import llm_router
from llm_router import errors
from llm_router.api.admin import Admin
from llm_router.api.build import build
from llm_router.api.errors import status_of
from llm_router.api.llamacpp_admin import Management
from llm_router.api.metrics import Metrics
from llm_router.api.ollama import Ollama
from llm_router.cli.client import NotRunning
from llm_router.engine import llamacpp
from llm_router.relay.status_text import Mode

HTTP_API = pages.DOCS / "reference" / "http-api.md"
TROUBLE = pages.DOCS / "how-to" / "troubleshooting.md"
STATUS_LINES = pages.DOCS / "how-to" / "status-lines.md"
ARCHITECTURE = pages.DOCS / "architecture.md"
PACKAGE = pages.ROOT / "src" / "llm_router"


def routes() -> set[str]:
    nobody = cast("Any", None)
    admin = Admin(nobody, nobody, None, lambda: 0.0)
    ollama = Ollama(nobody, nobody, nobody, path_of=nobody, limit=1)
    metrics = Metrics(nobody, nobody, admin)
    app = build(nobody, nobody, admin, ollama, Management(nobody, nobody), metrics, body_limit=1)
    described = set()
    for route in flattened(app.routes):
        assert isinstance(route, Route), route
        path = route.path.replace(":path", "")
        if path == "/upstream/{rest}":
            described.add("ANY /upstream/{model}/{path}")
        elif path != "/docs/oauth2-redirect":
            described |= {f"{method} {path}" for method in (route.methods or set()) - {"HEAD"}}
    return described


def flattened(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """FastAPI keeps included routers whole, or takes them apart, depending on its version."""
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from [route] if included is None else flattened(included.routes)


def test_every_route_is_on_the_page_and_every_route_of_the_page_exists() -> None:
    documented = {route for row in pages.rows(pages.section(HTTP_API, "Routes")) for route in pages.codes(row[0])}
    assert documented == routes()


def test_every_header_of_ours_is_documented() -> None:
    sources = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py")).lower()
    used = set(re.findall(r"x-llm-router-[a-z]+", sources))
    documented = {pages.codes(row[0])[0].lower() for row in pages.rows(pages.section(HTTP_API, "Request headers"))}
    assert documented == used


def test_the_status_modes_are_those_of_the_code() -> None:
    modes = {mode.value for mode in Mode}
    table = {pages.codes(row[0])[0] for row in pages.rows(pages.section(STATUS_LINES, "While a model loads"))}
    header = next(
        row for row in pages.rows(pages.section(HTTP_API, "Request headers")) if row[0] == "`X-LLM-Router-Status`"
    )
    assert table == modes
    assert set(pages.codes(header[1])) == modes | {"auto"}


def errors_of_the_api() -> dict[str, int]:
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.LlmRouterError)]
    return {one.code: status_of(one("x")) for one in classes}


def test_every_error_code_has_its_status_on_the_page() -> None:
    documented = {pages.codes(row[0])[0]: int(row[1]) for row in pages.rows(pages.section(HTTP_API, "Errors"))}
    assert documented == errors_of_the_api()


def test_every_error_code_has_a_cause_and_a_remedy() -> None:
    for module in pkgutil.walk_packages(llm_router.__path__, "llm_router."):
        if not module.name.endswith("tiny_weights"):  # needs the packages of the demo
            importlib.import_module(module.name)
    codes, todo = set(), [errors.LlmRouterError]
    while todo:
        one = todo.pop()
        if one.__module__.startswith("llm_router."):
            codes.add(one.code)
            todo += one.__subclasses__()
    # Codes that no class has: what the command line makes of a stranger's answer, and unknown paths.
    client = (PACKAGE / "cli" / "client.py").read_text()
    codes |= set(re.findall(r'", "([a-z_]+)"', client)) | {"error", "not_found", "method_not_allowed"}
    documented = {pages.codes(row[0])[0]: row for row in pages.rows(TROUBLE.read_text())}
    assert set(documented) == codes
    assert all(len(row) == 3 and all(row) for row in documented.values())
    assert NotRunning.code in documented


def test_the_commands_page_is_up_to_date() -> None:
    sys.path.insert(0, str(pages.DOCS))
    try:
        generate = importlib.import_module("generate")
    finally:
        sys.path.remove(str(pages.DOCS))
    assert generate.PAGE.read_text() == generate.page(), "run `make reference`"


def test_the_options_of_the_built_in_llama_cpp_server_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    [listing] = pages.blocks(pages.DOCS / "how-to" / "llama-cpp.md", "text")
    documented = set(re.findall(r"--[a-z-]+", listing))
    with pytest.raises(SystemExit):
        llamacpp.parse(["--help"])
    known = set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert documented <= known
    assert known - documented == {"--n-gpu-layers", "--embedding", "--reranking"}  # second names


def test_each_room_has_the_law_of_its_docstring() -> None:
    laws = {}
    for folder in sorted(PACKAGE.iterdir()):
        if (folder / "__init__.py").is_file():
            said = importlib.import_module(f"llm_router.{folder.name}").__doc__
            assert said is not None
            laws[folder.name] = said.split("\n\n")[0].removeprefix("LAW: ").rstrip(".").replace("\n", " ")
    documented = {
        pages.codes(row[0])[0]: row[1]
        for row in pages.rows(pages.section(ARCHITECTURE, "The rooms"))
        if ".py" not in row[0]
    }
    assert documented == laws


def test_every_file_that_the_architecture_names_exists() -> None:
    named = set(re.findall(r"[\w/]+/[\w*]+\.py", ARCHITECTURE.read_text()))
    assert named
    for name in named - {"src/llm_router/backends/NAME.py"}:
        assert list((pages.ROOT if name.startswith(("tests", "src")) else PACKAGE).glob(name)), name
