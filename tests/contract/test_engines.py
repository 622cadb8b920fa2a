"""What every engine must do, asked of the real one and of the fake: the fake may be trusted as far as this goes."""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_router.backends.base import LaunchRequest, LaunchSpec, Loading
from llm_router.backends.llamacpp import LlamaCpp
from llm_router.errors import LaunchError
from llm_router.launchers.base import Identity, RunningProcess
from llm_router.launchers.ports import Ports, ensure_free
from llm_router.launchers.probe import is_serving, wait_ready
from llm_router.launchers.process import ProcessLauncher
from llm_router.models import tiny

FAKE = Path(__file__).parents[1] / "programs" / "fake_backend.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    spec: LaunchSpec
    process: RunningProcess
    heard: list[Loading]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.spec.address.port}"


def real(models: Path, name: str, *args: str, **more: Any) -> LaunchSpec:
    path = str(models / f"{name}.gguf")
    request = LaunchRequest(model=name, port=Ports().take(), path=path, args=("-t", "1", *args), **more)
    return LlamaCpp().launch(request, "")


def fake(models: Path, name: str, *args: str, **more: Any) -> LaunchSpec:
    """Described by the same backend with another program, so that it is started with llama-server's own options."""
    request = LaunchRequest(model=name, port=Ports().take(), path=str(models / f"{name}.gguf"), args=args, **more)
    engine = (sys.executable, "-IS", str(FAKE), "--push-lines", "--count", "60", "--token-ms", "1")
    return LlamaCpp(embedded=engine).launch(request, "")


Describe = Callable[..., LaunchSpec]


@asynccontextmanager
async def serving(launcher: ProcessLauncher, spec: LaunchSpec) -> AsyncIterator[Engine]:
    process = await launcher.start(spec, Identity(instance=1, model="m", launch_key="k", port=spec.address.port))
    heard: list[Loading] = []
    await wait_ready(process, spec, deadline_s=20, on_loading=heard.append)
    yield Engine(spec=spec, process=process, heard=heard)
    await process.stop(spec.stop)
    ensure_free(spec.address.port)


def reap(pid: int) -> None:
    """Both routers are this process, so the one it let go is still its child."""
    os.waitpid(pid, 0)


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], **more}


def chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as client:
        yield client


@pytest.mark.parametrize("describe", [real, fake])
class TestEveryEngine:
    async def test_says_how_far_it_is_and_is_ready_by_a_pushed_line(
        self, describe: Describe, models: Path, launcher: ProcessLauncher
    ) -> None:
        spec = describe(models, "a")
        only_lines = dataclasses.replace(spec, readiness=dataclasses.replace(spec.readiness, path=None))
        async with serving(launcher, only_lines) as engine:
            assert [loading.fraction for loading in engine.heard][-1] == 1.0
            assert await is_serving(spec, 5)

    async def test_answers_a_chat_with_the_known_text(
        self, describe: Describe, models: Path, launcher: ProcessLauncher, client: httpx.AsyncClient
    ) -> None:
        async with serving(launcher, describe(models, "b")) as engine:
            reply = (await client.post(f"{engine.url}/v1/chat/completions", json=chat())).json()
        (choice,) = reply["choices"]
        assert choice["message"] == {"role": "assistant", "content": tiny.answer("b", 60)}
        assert choice["finish_reason"] == "stop"
        assert reply["usage"]["completion_tokens"] >= 61
        assert reply["timings"]["predicted_n"] == reply["usage"]["completion_tokens"]

    async def test_streams_the_known_text_and_its_figures(
        self, describe: Describe, models: Path, launcher: ProcessLauncher, client: httpx.AsyncClient
    ) -> None:
        body = chat(stream=True, stream_options={"include_usage": True})
        async with serving(launcher, describe(models, "a")) as engine:
            *parts, finish, usage = chunks((await client.post(f"{engine.url}/v1/chat/completions", json=body)).text)
        assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
        assert "".join(part["choices"][0]["delta"].get("content") or "" for part in parts) == tiny.answer("a", 60)
        assert finish["choices"] == [{"index": 0, "finish_reason": "stop", "delta": {}}]
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == usage["timings"]["predicted_n"]

    async def test_puts_timings_into_the_finish_chunk_where_usage_was_not_asked_for(
        self, describe: Describe, models: Path, launcher: ProcessLauncher, client: httpx.AsyncClient
    ) -> None:
        async with serving(launcher, describe(models, "a")) as engine:
            reply = await client.post(f"{engine.url}/v1/chat/completions", json=chat(stream=True, max_tokens=5))
        finish = chunks(reply.text)[-1]
        assert finish["choices"][0]["finish_reason"] == "length"
        assert finish["timings"]["predicted_n"] == 5
        assert "usage" not in finish

    async def test_stops_within_its_grace_with_a_stream_open(
        self, describe: Describe, models: Path, launcher: ProcessLauncher, client: httpx.AsyncClient
    ) -> None:
        body = chat(stream=True, max_tokens=100_000, ignore_eos=True)
        async with (
            serving(launcher, describe(models, "a", *ENDLESS[describe])) as engine,
            client.stream("POST", f"{engine.url}/v1/chat/completions", json=body) as reply,
        ):
            lines = reply.aiter_lines()
            await anext(lines)
            began = time.monotonic()
            await engine.process.stop(engine.spec.stop)
            assert time.monotonic() - began < 1.0
            assert engine.process.exited.result() in (0, -signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                [line async for line in lines]

    async def test_asks_for_its_key(
        self, describe: Describe, models: Path, launcher: ProcessLauncher, client: httpx.AsyncClient
    ) -> None:
        async with serving(launcher, describe(models, "a", api_key="k")) as engine:
            refused = await client.post(f"{engine.url}/v1/chat/completions", json=chat())
            headers = {"Authorization": "Bearer k"}
            allowed = await client.post(f"{engine.url}/v1/chat/completions", json=chat(max_tokens=1), headers=headers)
        assert (refused.status_code, allowed.status_code) == (401, 200)
        assert refused.json()["error"]["code"] == 401

    async def test_outlives_a_router_that_lets_go_of_it(
        self, describe: Describe, models: Path, tmp_path: Path, client: httpx.AsyncClient
    ) -> None:
        first = ProcessLauncher(tmp_path)
        async with serving(first, describe(models, "a")) as engine:
            first.close()
            second = ProcessLauncher(tmp_path)
            (adopted,) = await second.survivors()
            reply = await client.post(f"{engine.url}/v1/chat/completions", json=chat())
            assert reply.json()["choices"][0]["message"]["content"] == tiny.answer("a", 60)
            await adopted.stop(engine.spec.stop)
            second.close()
            reap(adopted.pid)


ENDLESS = {real: (), fake: ("--count", "100000")}


async def test_the_real_engine_makes_embeddings(
    models: Path, launcher: ProcessLauncher, client: httpx.AsyncClient
) -> None:
    async with serving(launcher, real(models, "embed", capabilities=("embedding",))) as engine:
        reply = (await client.post(f"{engine.url}/v1/embeddings", json={"input": ["cat", "dog"]})).json()
    assert [len(item["embedding"]) for item in reply["data"]] == [128, 128]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "error loading model: llama_model_loader: failed to load model from"),
        (("--no-such-option", "1"), "unknown option: --no-such-option 1"),
    ],
)
async def test_the_real_engine_says_why_it_cannot_start(
    models: Path, launcher: ProcessLauncher, args: tuple[str, ...], words: str
) -> None:
    spec = real(models, "bad", *args)
    process = await launcher.start(spec, Identity(instance=1, model="bad", launch_key="k", port=1))
    with pytest.raises(LaunchError) as caught:
        await wait_ready(process, spec, deadline_s=20, on_loading=lambda _: None)
    assert words in caught.value.message


async def test_the_real_engine_says_that_its_file_is_missing(models: Path, launcher: ProcessLauncher) -> None:
    spec = real(models, "nowhere")
    process = await launcher.start(spec, Identity(instance=1, model="m", launch_key="k", port=1))
    with pytest.raises(LaunchError, match=r"it exited with status 1 .*nowhere\.gguf: no such file"):
        await wait_ready(process, spec, deadline_s=20, on_loading=lambda _: None)
