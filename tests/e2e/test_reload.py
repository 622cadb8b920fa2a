"""Another configuration while the router runs: by difference, without a cut stream, and never half of it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
from routing import RouterProcess, Start, fake, until

SLOW = ("--token-ms", "60")


def small(*options: str) -> dict[str, Any]:
    """Small enough for all of them together."""
    return fake(*options, memory="20MiB")


def write(router: RouterProcess, models: dict[str, Any], **settings: Any) -> None:
    """As editors do: a new file takes the place of the old one."""
    before = json.loads(router.config.read_text())
    fresh = router.config.with_suffix(".new")
    fresh.write_text(json.dumps({**before, **settings, "models": models}, indent=1))
    fresh.rename(router.config)


async def reloaded(router: RouterProcess) -> httpx.Response:
    async with router.client() as client:
        return await client.post("/admin/reload")


async def full_status(router: RouterProcess) -> dict[str, Any]:
    async with router.client() as client:
        status: dict[str, Any] = (await client.get("/admin/status")).json()
    return status


def logged(router: RouterProcess, words: str) -> int:
    return sum(words in line for line in router.log.read_text().splitlines())


async def test_twenty_streams_run_on_over_a_good_and_a_broken_file(start: Start) -> None:
    before = {"a": small(*SLOW), "b": small(), "c": small()}
    router = await start(before, memory={"cpu": "1GiB"})
    await router.chat("b")
    await router.chat("c")
    pids = {name: entry["pid"] for name, entry in (await router.status()).items()}
    streams = [asyncio.ensure_future(router.chat("a")) for _ in range(20)]  # noqa: TID251
    await router.until_running("a", 20)
    write(router, {**before, "b": {**before["b"], "env": {"X": "1"}}, "d": small()}, patience=3)
    await until(lambda: _listed(router, "d"))
    await router.when("b", lambda status: status["state"] == "ready" and status["pid"] != pids["b"])
    router.config.write_text('{"models": {"a": {"backend": "openai", "comand": "x"}}}')
    assert (await reloaded(router)).status_code == 422
    router.config.write_text('{"models": ')
    assert (await reloaded(router)).status_code == 422
    answers = await asyncio.gather(*streams)
    assert [(answer.done, answer.error, answer.text.split()[-1]) for answer in answers] == [(True, None, "30")] * 20
    assert (await router.status())["c"]["pid"] == pids["c"], "only b was exchanged"
    assert router.loads().count("a") == 1
    assert (await router.chat("d")).done


async def _listed(router: RouterProcess, model: str) -> bool:
    return model in await router.status()


async def test_streams_of_an_exchanged_and_of_a_removed_model_end_first(start: Start) -> None:
    models = {"a": small(*SLOW), "b": small(*SLOW)}
    router = await start(models, memory={"cpu": "1GiB"})
    streams = [asyncio.ensure_future(router.chat(name)) for name in "ab"]  # noqa: TID251
    await router.until_running("a", 1)
    await router.until_running("b", 1)
    old = (await router.status())["a"]["pid"]
    write(router, {"a": {**models["a"], "env": {"X": "1"}}})
    answer = (await reloaded(router)).json()
    assert (answer["restarted"], answer["removed"]) in ((["a"], ["b"]), ([], [])), (
        "by the reload that was asked for or the file's"
    )
    ended = await asyncio.gather(*streams)
    assert [(one.done, one.error) for one in ended] == [(True, None)] * 2
    await router.when("a", lambda status: status["state"] == "ready" and status["pid"] != old)
    assert (await router.chat("b")).error is not None


async def test_a_broken_file_is_told_once_in_the_log_and_as_long_as_it_lasts_in_the_status(start: Start) -> None:
    router = await start({"a": fake()})
    good = router.config.read_text()
    router.config.write_text('{\n "models": {\n  "a": {"backend": "openai", "comand": "x"}\n }\n}')
    for _ in range(3):
        refused = await reloaded(router)
    body = refused.json()
    assert (refused.status_code, body["error"]["code"], body["reloaded"]) == (422, "invalid_configuration", False)
    problem = body["problems"][0]
    assert (problem["line"], problem["key"], problem["fatal"]) == (3, "models.a.comand", True)
    assert (await full_status(router))["config_problems"] == body["problems"]
    assert logged(router, "cannot use the changed configuration") == 1
    assert (await router.chat("a")).done
    router.config.write_text(good)
    await until(lambda: _is_calm(router))
    assert (await reloaded(router)).json()["reloaded"]


async def _is_calm(router: RouterProcess) -> bool:
    return not (await full_status(router))["config_problems"]


async def test_a_hundred_rapid_changes_end_in_the_last_one(start: Start) -> None:
    router = await start({"a": fake()})
    await router.chat("a")
    pid = (await router.status())["a"]["pid"]
    for number in range(100):
        write(router, {"a": {**fake(), "description": f"number {number}"}}, patience=number)
        if number % 10 == 0:
            router.signal(signal.SIGHUP)
    await until(lambda: _described(router, "number 99"))
    assert (await router.status())["a"]["pid"] == pid
    assert logged(router, "configuration reloaded") <= 20


async def _described(router: RouterProcess, text: str) -> bool:
    async with router.client() as client:
        return bool((await client.get("/v1/models/a")).json()["description"] == text)


async def test_a_file_that_is_deleted_changes_nothing_until_it_is_back(start: Start) -> None:
    router = await start({"a": fake()})
    content = json.loads(router.config.read_text())
    router.config.unlink()
    await until(lambda: _has_problems(router))
    assert (await full_status(router))["config_problems"][0]["line"] == 0
    assert (await router.chat("a")).done
    content["models"]["b"] = fake()
    router.config.write_text(json.dumps(content))
    await until(lambda: _listed(router, "b"))


async def _has_problems(router: RouterProcess) -> bool:
    return bool((await full_status(router))["config_problems"])


async def test_a_link_that_leads_to_another_file_is_followed(start: Start) -> None:
    router = await start({"a": fake()})
    for name, models in (("one", {"a": fake()}), ("two", {"a": fake(), "b": fake()})):
        (router.folder / name).mkdir()
        (router.folder / name / "c.json").write_text(
            json.dumps({**json.loads(router.config.read_text()), "models": models})
        )
    (router.folder / "data").symlink_to("one")
    (router.folder / "link").symlink_to("data/c.json")
    (router.folder / "link").rename(router.config)
    await until(lambda: _listed(router, "a"))
    (router.folder / "next").symlink_to("two")
    (router.folder / "next").rename(router.folder / "data")
    await until(lambda: _listed(router, "b"))


async def test_a_missing_file_that_appears_makes_its_model_usable(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "server.sh"
    command = fake()["command"]
    router = await start({"a": {"backend": "openai", "script": str(script), "port": _free_port()}})
    refused = await router.chat("a")
    assert "run `llm-router reload`" in str(refused.error)
    words = " ".join(command).replace("${PORT}", str(json.loads(router.config.read_text())["models"]["a"]["port"]))
    script.write_text(f"#!/bin/sh\nexec {words.replace('${MODEL}', 'a')}\n")
    script.chmod(0o755)
    assert (await reloaded(router)).json()["reloaded"]
    assert (await router.chat("a")).done


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_settings_hold_at_once_or_say_that_they_need_a_restart(start: Start) -> None:
    models = {"a": fake()}
    router = await start(models, performance_line="never")
    assert "tok/s" not in (await router.chat("a")).written
    write(router, models, performance_line="always", max_body="1MiB", queue_limit=3)
    await reloaded(router)
    assert "tok/s" in (await router.chat("a")).written
    assert (await full_status(router))["needs_restart"] == ["max_body"]
    assert logged(router, "in force now: queue_limit, performance_line; in force after a restart: max_body") == 1
    write(router, models, performance_line="always", max_body="64MiB", queue_limit=3)
    await reloaded(router)
    assert (await full_status(router))["needs_restart"] == []
