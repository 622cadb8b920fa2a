"""Every kind of backend with its fake, as a `conformance.points.Subject`: what is configured, and what must come of it.

Counterpart: `test_backends_contract`, which asks the points; `tests/programs`, which are the engines.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from conformance.points import Subject
from nursery import PROGRAMS
from routing import RouterProcess, fake, leftovers, numbers

from llm_router.launchers.ports import Ports
from llm_router.models import tiny

COUNT = 20
PACE = ("--count", str(COUNT), "--token-ms", "2", "--startup-s", "0.3")
# A busy model gives way almost at once, so that a switch in the middle of a stream takes no time.
SETTINGS: dict[str, Any] = {"patience": "0s", "drain_timeout": "0.2s", "stall_timeout": "4s"}
OTHER = fake("--count", str(COUNT), "--startup-s", "0.05")
KEY = "a-key-of-the-engines-own"

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]


def program(folder: Path, name: str, fake_program: str, *options: str) -> Path:
    """An executable that stands in for an engine's own command."""
    script = folder / name
    words = " ".join(options)
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {PROGRAMS / fake_program} "$@" {words}\n')
    script.chmod(0o755)
    return script


@asynccontextmanager
async def running(folder: Path, models: dict[str, Any], **settings: Any) -> AsyncIterator[RouterProcess]:
    """A router for these models; it ends well, and nothing is left of it."""
    router = RouterProcess(folder, models, **{**SETTINGS, **settings})
    await router.start()
    yield router
    assert await router.stop() == 0
    assert leftovers(router) == []
    assert "Traceback" not in router.log.read_text(), router.log.read_text()


def _subject(router: RouterProcess, **more: Any) -> Subject:
    defaults: dict[str, Any] = {
        "model": "subject",
        "answer": numbers("subject", COUNT),
        "other": "other",
        "other_answer": numbers("other", COUNT),
        "refused": {"fault": "error400"},
        "endless": {"ignore_eos": True, "max_tokens": 20_000},
        "late": {"fault": "slow:1500"},
        "stall_s": 4.0,
    }
    return Subject(router=router, **{**defaults, **more})


@asynccontextmanager
async def llamacpp(folder: Path) -> AsyncIterator[Subject]:
    binary = program(
        folder, "llama-server", "fake_backend.py", "--push-lines", "--second-term", "--context", "1536", *PACE
    )
    model = {"backend": "llamacpp", "path": str(_file(folder)), "context_length": 2048, "api_key": KEY}
    models = {"subject": model, "other": OTHER}
    async with running(folder / "router", models, backends={"llamacpp": {"binary": str(binary)}}) as router:
        yield _subject(router, percent=True, context_length=1536, keys=(KEY,))


@asynccontextmanager
async def embedded_llamacpp(folder: Path) -> AsyncIterator[Subject]:
    path = tiny.write(folder / "subject.gguf", name="subject", count=COUNT)
    model = {"backend": "llamacpp", "path": str(path), "context_length": 8192, "args": ["-t", "1", "-np", "1"]}
    async with running(folder / "router", {"subject": model, "other": OTHER}) as router:
        yield _subject(
            router,
            refused={"messages": [{"role": "user"}]},
            endless={"ignore_eos": True, "max_tokens": 8000},
            context_length=8192,
        )


@asynccontextmanager
async def sglang(folder: Path) -> AsyncIterator[Subject]:
    binary = program(folder, "sglang", "fake_sglang.py", "--term-tick-s", "0.1", *PACE)
    model = {"backend": "sglang", "path": str(folder), "api_key": KEY}
    models = {"subject": model, "other": OTHER}
    async with running(folder / "router", models, backends={"sglang": {"binary": str(binary)}}) as router:
        yield _subject(router, percent=True, context_length=4096, keys=(KEY,), worker="sglang::schedul")


@asynccontextmanager
async def vllm(folder: Path) -> AsyncIterator[Subject]:
    binary = program(folder, "vllm", "fake_vllm.py", *PACE)
    model = {"backend": "vllm", "path": str(folder), "api_key": KEY}
    models = {"subject": model, "other": OTHER}
    async with running(folder / "router", models, backends={"vllm": {"binary": str(binary)}}) as router:
        yield _subject(router, percent=True, context_length=4096, keys=(KEY,), stop_s=12.0, worker="VLLM::EngineCor")


@asynccontextmanager
async def tabbyapi(folder: Path) -> AsyncIterator[Subject]:
    """One server, given its models through the admin API; both models are its own."""
    async with _tabbyapi(folder, "tabbyapi") as subject:
        yield subject


@asynccontextmanager
async def tabbyapi_exl2(folder: Path) -> AsyncIterator[Subject]:
    """Its branch for EXL2, whose keys are found in its folder."""
    async with _tabbyapi(folder, "tabbyapi-exl2", "--exl2") as subject:
        yield subject


@asynccontextmanager
async def _tabbyapi(folder: Path, kind: str, *options: str) -> AsyncIterator[Subject]:
    binary = program(folder, "tabby.sh", "fake_tabbyapi.py", *PACE, *options)
    home = tabby_home(folder, "subject", "other")
    settings = {"binary": str(binary), "directory": str(home)}
    models = {name: {"backend": kind, "path": str(home / "models" / name)} for name in ("subject", "other")}
    async with running(folder / "router", models, backends={kind: settings}) as router:
        keys = (KEY, f"{KEY}-admin")
        yield _subject(router, percent=True, context_length=4096, keys=keys, keeps_server=True)


@asynccontextmanager
async def tabbyapi_by_script(folder: Path) -> AsyncIterator[Subject]:
    """The plain way: a script whose server has its model from the start."""
    home = tabby_home(folder, "subject", "other")
    script = folder / "start.sh"
    command = f"{sys.executable} -IS {PROGRAMS / 'fake_tabbyapi.py'} --port $PORT --model-name subject {' '.join(PACE)}"
    script.write_text(f"#!/bin/sh\ncd {home}\nexec {command}\n")
    script.chmod(0o755)
    model = {"backend": "tabbyapi", "script": str(script), "api_key": KEY, "port": Ports().take()}
    async with running(folder / "router", {"subject": model, "other": OTHER}) as router:
        yield _subject(router, context_length=4096, keys=(KEY,))


@asynccontextmanager
async def openai_by_command(folder: Path) -> AsyncIterator[Subject]:
    model = fake(*PACE, "--style", "openai", "--strict-model")
    async with running(folder / "router", {"subject": model, "other": OTHER}) as router:
        yield _subject(router)


@asynccontextmanager
async def openai_by_url(folder: Path) -> AsyncIterator[Subject]:
    argv = (*PACE[:4], "--style", "openai", "--strict-model", "--api-key", KEY, "--name", "far")
    async with server("fake_backend.py", *argv) as url:
        model = {"backend": "openai", "url": url, "model_name": "far", "api_key": KEY}
        async with running(folder / "router", {"subject": model, "other": OTHER}) as router:
            yield _subject(router, answer=numbers("far", COUNT), remote=True)


@asynccontextmanager
async def another_router(folder: Path) -> AsyncIterator[Subject]:
    async with running(folder, {"far": fake(*PACE)}) as far:
        model = {"backend": "openai", "url": far.url, "model_name": "far"}
        async with running(folder / "router", {"subject": model, "other": OTHER}) as router:
            yield _subject(router, answer=numbers("far", COUNT), remote=True)


KINDS: dict[str, Make] = {
    make.__name__: make
    for make in (
        llamacpp,
        embedded_llamacpp,
        sglang,
        vllm,
        tabbyapi,
        tabbyapi_exl2,
        tabbyapi_by_script,
        openai_by_command,
        openai_by_url,
        another_router,
    )
}


class Standing:
    """A subject that outlives the event loop it was made on: its router is a process, and nothing of it is here."""

    def __init__(self, make: Make, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self.subject = self._runner.run(self._stack.enter_async_context(make(folder)))

    def end(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


@asynccontextmanager
async def server(fake_program: str, *options: str, port: int | None = None) -> AsyncIterator[str]:
    """One of the programs on its own, at a free port if none is named; its base URL, once it listens."""
    port = port or Ports().take()
    argv = [sys.executable, "-IS", str(PROGRAMS / fake_program), "--port", str(port), *options]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.communicate()


def _file(folder: Path) -> Path:
    path = folder / "subject.gguf"
    path.write_bytes(b"GGUF")
    return path


def tabby_home(folder: Path, *names: str) -> Path:
    """TabbyAPI's own folder, with its keys and these models."""
    home = folder / "tabby"
    for name in names:
        (home / "models" / name).mkdir(parents=True)
    (home / "api_tokens.yml").write_text(f"api_key: {KEY}\nadmin_key: {KEY}-admin\n")
    return home
