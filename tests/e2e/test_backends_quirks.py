"""Each engine's own quirks, as a client of the router meets them: not at all, or as something it can use."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from engines import COUNT, KEY, OTHER, PACE, program, server, tabby_home
from routing import RouterProcess, Start, fake, is_alive, leftovers, numbers

ADMIN = f"{KEY}-admin"


async def whole(router: RouterProcess, model: str, **more: Any) -> httpx.Response:
    async with router.client() as client:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
        return await client.post("/v1/chat/completions", json=body)


# -- TabbyAPI


async def tabby(
    start: Start, folder: Path, *options: str, one_more: dict[str, Any] | None = None, **settings: Any
) -> RouterProcess:
    """One server for the models one, two and bad; the last fails to load. Beside it `other`, on another backend."""
    home = tabby_home(folder, "one", "two", "bad")
    (home / "models/bad/failure").write_text("Insufficient VRAM in split for model and cache")
    (home / "models/two/vision").touch()
    binary = program(folder, "tabby.sh", "fake_tabbyapi.py", *PACE, *options)
    backend = {"binary": str(binary), "directory": str(home), "api_key": KEY, "admin_key": ADMIN}
    models: dict[str, Any] = {
        name: {"backend": "tabbyapi", "path": str(home / "models" / name)} for name in ("one", "two", "bad")
    }
    models["one"] |= one_more or {}
    defaults = {"patience": "0s", "drain_timeout": "0.2s"}
    return await start({**models, "other": OTHER}, backends={"tabbyapi": backend}, **{**defaults, **settings})


async def engine_of(router: RouterProcess, model: str) -> int:
    pid = (await router.status())[model]["pid"]
    assert isinstance(pid, int)
    return pid


async def test_one_tabbyapi_serves_its_models_one_after_the_other(start: Start, tmp_path: Path) -> None:
    router = await tabby(start, tmp_path)
    pids = set()
    for name in ("one", "two", "one"):
        assert (await router.chat(name)).text == numbers(name, COUNT)
        pids.add(await engine_of(router, name))
    assert len(pids) == 1, "the process stays, and the models change in it"


async def test_a_load_that_tabbyapi_reports_as_failed_says_why_and_the_next_one_works(
    start: Start, tmp_path: Path
) -> None:
    router = await tabby(start, tmp_path)
    await router.chat("one")
    failed = await router.chat("bad")
    assert failed.error is not None
    assert failed.error["code"] == "model_load_failed"
    assert "Insufficient VRAM in split for model and cache" in failed.error["message"]
    assert (await router.chat("one")).text == numbers("one", COUNT)


async def test_a_tabbyapi_that_lost_its_model_is_never_asked_for_it(start: Start, tmp_path: Path) -> None:
    """It would answer a plain 500, and with another model loaded it would answer as that."""
    router = await tabby(start, tmp_path)
    await router.chat("one")
    port = (await router.status())["one"]["port"]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"x-admin-key": ADMIN}) as direct:
        assert (await direct.post("/v1/model/unload")).status_code == 200
    for events in (await router.chat("one"), await router.chat("one")):
        assert "Internal Server Error" not in str(events)
        assert events.text == numbers("one", COUNT) or events.error is not None, events
    assert (await router.chat("one")).text == numbers("one", COUNT)


async def test_a_stream_that_tabbyapi_cancels_but_never_ends_is_ended(start: Start, tmp_path: Path) -> None:
    router = await tabby(start, tmp_path, "--endless-pings", "--ping-s", "0.05")
    await router.chat("one", max_tokens=1)
    stream = asyncio.ensure_future(router.chat("one", ignore_eos=True, max_tokens=2000))  # noqa: TID251
    await router.when("one", lambda status: status["leases"] == 1)
    assert (await router.chat("two")).text == numbers("two", COUNT)
    events = await stream
    assert events.error is not None
    assert events.error["code"] == "preempted"
    assert events.done


async def test_a_port_that_someone_else_has_is_told_rather_than_shared(start: Start, tmp_path: Path) -> None:
    """TabbyAPI would go on at the next port, and the router would ask a stranger."""
    home = tabby_home(tmp_path, "one")
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        script = program(tmp_path, "start.sh", "fake_tabbyapi.py", "--port", str(port), "--model-name", "one")
        script.write_text(script.read_text().replace("exec", f"cd {home}\nexec"))
        model = {"backend": "tabbyapi", "script": str(script), "api_key": KEY, "port": port, "load_timeout": "3s"}
        router = await start({"one": model})
        events = await router.chat("one")
    assert events.error is not None
    assert events.error["code"] == "model_load_failed"
    assert str(port) in events.error["message"]


async def test_the_whole_of_a_small_context_can_be_used_on_tabbyapi(start: Start, tmp_path: Path) -> None:
    """It wants room for a chunk of output beside the prompt, in a cache that is as large as it was told."""
    router = await tabby(start, tmp_path, one_more={"context_length": 1024})
    events = await router.chat("one")
    assert events.error is None, events.error
    assert events.text == numbers("one", COUNT)


# -- vLLM


async def vllm(start: Start, folder: Path, *options: str, **settings: Any) -> RouterProcess:
    binary = program(folder, "vllm", "fake_vllm.py", *PACE, *options)
    model = {"backend": "vllm", "path": str(folder)}
    return await start({"one": model, "other": OTHER}, backends={"vllm": {"binary": str(binary)}}, **settings)


async def test_what_vllm_calls_reasoning_is_reasoning_content(start: Start, tmp_path: Path) -> None:
    router = await vllm(start, tmp_path, "--reasoning")
    events = await router.chat("one")
    deltas = [choice["delta"] for chunk in events.chunks for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == " 1 2 3"
    assert not any("reasoning" in delta for delta in deltas)
    assert events.text == numbers("one", COUNT).replace(" 1 2 3", "", 1)
    message = (await whole(router, "one")).json()["choices"][0]["message"]
    assert message["reasoning_content"] == " 1 2 3"
    assert "reasoning" not in message


async def test_vllm_tells_how_much_of_a_prompt_was_cached(start: Start, tmp_path: Path) -> None:
    router = await vllm(start, tmp_path)
    events = await router.chat("one")
    assert events.chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_a_vllm_without_room_says_so_in_its_own_words(start: Start, tmp_path: Path) -> None:
    router = await vllm(start, tmp_path, "--free-memory", "3.1")
    events = await router.chat("one")
    assert events.error is not None
    assert "Free memory on device cuda:0 (3.10/23.50 GiB) on startup is less than desired" in events.error["message"]


async def test_vllms_engine_goes_when_its_server_is_killed(start: Start, tmp_path: Path) -> None:
    router = await vllm(start, tmp_path)
    assert (await router.chat("one")).error is None
    server_pid = await engine_of(router, "one")
    (engine,) = (pid for pid in leftovers(router) if pid != server_pid)
    os.kill(server_pid, signal.SIGKILL)
    await router.when("one", lambda status: status["pid"] is None)
    assert (await router.chat("one")).text == numbers("one", COUNT)
    assert not is_alive(engine)


# -- SGLang


async def sglang(start: Start, folder: Path, *options: str, name: str = "sglang", **more: Any) -> RouterProcess:
    binary = program(folder, name, "fake_sglang.py", "--term-tick-s", "0.1", *PACE, *options)
    if name.startswith("python"):
        binary.write_text(binary.read_text().replace("exec", "shift 2\nexec"))
    model = {"backend": "sglang", "path": str(folder), **more}
    settings = {"patience": "0s", "drain_timeout": "0.2s", "backends": {"sglang": {"binary": str(binary)}}}
    return await start({"one": model, "other": OTHER}, **settings)


async def test_an_sglang_without_a_ready_path_is_asked_for_its_health(start: Start, tmp_path: Path) -> None:
    router = await sglang(start, tmp_path, "--older")
    assert (await router.chat("one")).text == numbers("one", COUNT)


async def test_an_sglang_is_started_as_a_module_of_its_interpreter(start: Start, tmp_path: Path) -> None:
    router = await sglang(start, tmp_path, name="python3")
    assert (await router.chat("one")).text == numbers("one", COUNT)


async def test_sglang_says_what_it_thinks_apart_from_what_it_says(start: Start, tmp_path: Path) -> None:
    router = await sglang(start, tmp_path, "--reasoning")
    events = await router.chat("one")
    deltas = [choice["delta"] for chunk in events.chunks for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == " 1 2 3"


async def test_an_sglang_with_a_stream_open_is_stopped_at_once(start: Start, tmp_path: Path) -> None:
    """By itself it would finish the stream first, however long that is."""
    router = await sglang(start, tmp_path)
    await router.chat("one", max_tokens=1)
    pid = await engine_of(router, "one")
    stream = asyncio.ensure_future(router.chat("one", ignore_eos=True, max_tokens=20_000))  # noqa: TID251
    await router.when("one", lambda status: status["leases"] == 1)
    async with asyncio.timeout(8):
        assert (await router.chat("other")).text == numbers("other", COUNT)
    assert not is_alive(pid)
    assert (await stream).error is not None


# -- any of them


async def test_pings_alone_do_not_keep_a_silent_server_alive(start: Start) -> None:
    router = await start({"a": fake()}, response_timeout="0.5s")
    await router.chat("a")
    events = await router.chat("a", fault="ping_after_2")
    assert events.error is not None
    assert events.error["code"] == "upstream_timeout"
    assert (await router.chat("a")).text == numbers("a", 30)


@pytest.mark.parametrize("style", ["llamacpp", "openai"])
async def test_a_stream_without_its_done_is_given_one(start: Start, style: str) -> None:
    router = await start({"a": fake("--style", style)})
    events = await router.chat("a", fault="no_done")
    assert events.done
    assert events.text == numbers("a", 30)


async def test_an_equal_endpoint_takes_over_when_the_first_is_gone(start: Start) -> None:
    options = ("--style", "openai", "--name", "far", "--count", str(COUNT))
    async with server("fake_backend.py", *options) as second:
        async with server("fake_backend.py", *options) as first:
            router = await start({"a": {"backend": "openai", "url": [first, second], "model_name": "far"}})
            assert (await router.chat("a")).text == numbers("far", COUNT)
        assert (await router.chat("a")).text == numbers("far", COUNT)


async def test_a_key_on_the_command_line_is_in_no_log(start: Start, tmp_path: Path) -> None:
    router = await sglang(start, tmp_path, api_key=KEY)
    assert (await router.chat("one")).text == numbers("one", COUNT)
    async with router.client() as client:
        shown = (await client.get("/admin/logs/one")).text + router.log.read_text()
    assert KEY not in shown
