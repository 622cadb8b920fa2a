"""Servers that die, hang, lie or won't leave, and clients that walk away: nobody hangs, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest
from routing import RouterProcess, Start, fake, is_alive, leftovers, numbers, until


async def _engine(router: RouterProcess, model: str) -> int:
    pid = (await router.status())[model]["pid"]
    assert isinstance(pid, int)
    return pid


# -- a server dies


async def test_a_server_that_dies_idle_is_noticed_and_started_again(start: Start) -> None:
    router = await start({"a": fake()})
    await router.chat("a")
    os.kill(await _engine(router, "a"), signal.SIGKILL)
    await router.until("a", "unloaded")
    assert (await router.chat("a")).text == numbers("a", 30)


async def test_a_server_that_dies_before_its_first_token_is_replaced_unseen(start: Start) -> None:
    router = await start({"a": fake()})
    first = await router.chat("a")
    os.kill(await _engine(router, "a"), signal.SIGSTOP)
    waiting = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    pid = await _engine(router, "a")
    await router.when("a", lambda status: status["leases"] > 0)
    os.kill(pid, signal.SIGKILL)
    events = await waiting
    assert events.text == first.text == numbers("a", 30)
    assert events.error is None


async def test_a_server_that_dies_in_a_stream_ends_it_with_an_error(start: Start) -> None:
    router = await start({"a": fake()})
    await router.chat("a")
    events = await router.chat("a", fault="die_after_3")
    assert events.text.startswith(" I am a: 1 2")
    assert events.error is not None
    assert events.error["code"] == "upstream_lost"
    assert events.done
    assert (await router.chat("a")).text == numbers("a", 30)


async def test_a_server_that_dies_while_it_loads_says_why(start: Start) -> None:
    router = await start({"a": fake("--say", "CUDA error: out of memory", "--exit-at-start", "1")})
    events = await router.chat("a")
    assert events.error is not None
    assert events.error["code"] == "model_load_failed"
    assert "CUDA error: out of memory" in events.error["message"]
    again = await router.chat("a")
    assert again.status == 503
    assert again.error is not None
    assert "CUDA error: out of memory" in again.error["message"]
    assert len(router.loads()) == 1, "a model that just failed isn't tried again at once"


async def test_a_model_whose_file_is_missing_disturbs_nobody(start: Start) -> None:
    router = await start({"a": fake(), "b": {"backend": "llamacpp", "path": "/nowhere/b.gguf"}})
    await router.chat("a")
    refused = await router.chat("b")
    assert refused.status == 503
    assert (refused.error or {})["message"].startswith("cannot start b: /nowhere/b.gguf doesn't exist")
    assert (await router.status())["a"]["state"] == "ready"


async def test_a_server_killed_while_it_loads_is_reported(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "30")})
    waiting = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.until("a", "starting")
    await router.when("a", lambda status: status["pid"] is not None)
    os.kill(await _engine(router, "a"), signal.SIGKILL)
    events = await waiting
    assert events.error is not None
    assert events.error["code"] == "model_load_failed"


async def test_a_server_that_never_gets_ready_is_given_up(start: Start) -> None:
    router = await start({"a": fake("--never-ready", load_timeout="0.5s"), "b": fake()})
    events = await router.chat("a")
    assert events.error is not None
    assert events.error["code"] == "model_load_failed"
    assert (await router.chat("b")).text == numbers("b", 30)


async def test_a_server_that_ignores_term_is_killed(start: Start) -> None:
    router = await start({"a": fake("--ignore-term", backend="hasty"), "b": fake()})
    await router.chat("a")
    pid = await _engine(router, "a")
    assert (await router.chat("b")).text == numbers("b", 30)
    assert not is_alive(pid)


async def test_a_servers_children_go_with_it(start: Start) -> None:
    router = await start({"a": fake("--spawn-child", "session", backend="hasty"), "b": fake()})
    await router.chat("a")
    assert len(leftovers(router)) == 2
    await router.chat("b")
    assert len(leftovers(router)) == 1


async def test_a_server_that_floods_its_output_doesnt_disturb_the_answer(start: Start) -> None:
    router = await start({"a": fake("--flood-stderr", str(64 * 2**20))})
    assert (await router.chat("a")).text == numbers("a", 30)

    async def is_small() -> bool:
        return sum(log.stat().st_size for log in (router.folder / "state" / "logs").iterdir()) < 20 * 2**20

    await until(is_small)


@pytest.mark.parametrize("fault", ["garbage", "close_before_byte", "short_length", "bad_chunk", "stall_after_2"])
async def test_a_broken_answer_is_an_error_and_the_next_one_works(share: Start, fault: str) -> None:
    router = await share({"a": fake()}, response_timeout="1s")
    await router.chat("a")
    stream = fault in ("bad_chunk", "stall_after_2", "garbage")
    async with router.client() as client:
        body = {"model": "a", "stream": stream, "messages": [{"role": "user", "content": "hi"}], "fault": fault}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code in (200, 502, 504)
        assert '"error"' in answer.text
    assert (await router.chat("a")).text == numbers("a", 30)


@pytest.mark.parametrize("fault", ["close_framed", "no_done", "early_hints", "extra_bytes"])
async def test_an_odd_but_whole_answer_is_passed_on_whole(share: Start, fault: str) -> None:
    router = await share({"a": fake()})
    events = await router.chat("a", fault=fault)
    assert events.text == numbers("a", 30)
    assert events.done


# -- a client leaves


async def test_a_client_that_leaves_while_queued_is_forgotten(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "30"), "b": fake()}, patience="30s")
    await router.chat("a", max_tokens=1)
    long = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.until("a", "ready")
    queued = asyncio.ensure_future(router.chat("b"))  # noqa: TID251
    await router.when("b", lambda status: status["waiting"] > 0)
    queued.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await queued
    assert (await long).text == numbers("a", 30)
    assert (await router.status())["b"]["waiting"] == 0
    assert router.loads() == ["a"], "nobody wanted b any more"


@pytest.mark.parametrize("fault", ["hang", None], ids=["before-the-first-byte", "streaming"])
async def test_a_client_that_leaves_cancels_the_work_upstream(start: Start, fault: str | None) -> None:
    router = await start({"a": fake("--token-ms", "50")})
    await router.chat("a", max_tokens=1)
    more = {} if fault is None else {"fault": fault}
    leaving = asyncio.ensure_future(router.chat("a", **more))  # noqa: TID251
    await router.until_running("a", 1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await router.until_running("a", 0)
    assert (await router.stats("a"))["aborted"] == 1
    assert (await router.status())["a"]["leases"] == 0


# -- the router dies


async def test_a_killed_router_loses_no_loaded_model(start: Start) -> None:
    router = await start({"a": fake()})
    await router.chat("a")
    pid = await _engine(router, "a")
    await router.kill()
    assert is_alive(pid)
    await router.start()
    assert (await router.chat("a")).text == numbers("a", 30)
    assert await _engine(router, "a") == pid
    assert router.loads() == ["a"]


async def test_a_load_survives_the_router_that_began_it(start: Start) -> None:
    router = await start({"a": fake("--startup-s", "1")})
    waiting = asyncio.ensure_future(router.chat("a"))  # noqa: TID251
    await router.when("a", lambda status: status["pid"] is not None)
    pid = await _engine(router, "a")
    await router.kill()
    assert (await waiting).broken
    await router.start()
    assert (await router.chat("a")).text == numbers("a", 30)
    assert await _engine(router, "a") == pid


async def test_a_second_router_on_one_state_folder_leaves_nothing_either(start: Start) -> None:
    router = await start({"a": fake()})
    await router.chat("a")
    pid = await _engine(router, "a")
    second = await start(
        {"b": fake("--spawn-child", "session", backend="hasty")}, state_dir=str(router.folder / "state")
    )
    await second.chat("b")
    orphan = await _engine(second, "b")
    await second.kill()
    assert is_alive(orphan), "its successor may adopt it"
    await router.kill()
    await router.start()
    assert not is_alive(orphan), "or the next router on that folder ends it"
    assert await _engine(router, "a") == pid
    assert leftovers(router) == [pid]
    await second.start()
    assert (await second.chat("b")).text == numbers("b", 30)


async def test_a_router_with_another_configuration_ends_what_it_cant_use(start: Start) -> None:
    router = await start({"a": fake(), "b": fake()})
    await router.chat("a")
    pid = await _engine(router, "a")
    await router.kill()
    router.config.write_text(router.config.read_text().replace('"30"', '"7"'))
    await router.start()
    assert not is_alive(pid)
    assert (await router.chat("a")).text == numbers("a", 7)


async def test_a_router_told_to_leave_its_models_leaves_them(start: Start) -> None:
    router = await start({"a": fake()}, on_exit="leave")
    await router.chat("a")
    pid = await _engine(router, "a")
    assert await router.stop() == 0
    assert is_alive(pid)
    router.config.write_text(router.config.read_text().replace('"leave"', '"stop"'))
    await router.start()
    assert await _engine(router, "a") == pid
    assert await router.stop() == 0
    assert not is_alive(pid)
