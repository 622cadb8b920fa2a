"""Models beside each other as long as they fit, with real processes."""

from __future__ import annotations

import asyncio
from typing import Any

from routing import RouterProcess, Start, fake, numbers


async def loaded(router: RouterProcess) -> set[str]:
    return {name for name, status in (await router.status()).items() if status["state"] == "ready"}


async def devices(router: RouterProcess) -> list[dict[str, Any]]:
    async with router.client() as client:
        found: list[dict[str, Any]] = (await client.get("/admin/status")).json()["devices"]
    return found


async def test_two_of_three_fit_and_the_one_used_longest_ago_leaves(start: Start) -> None:
    router = await start({name: fake(memory="100MiB") for name in "abc"}, memory="250MiB")
    for name in "ab":
        assert (await router.chat(name)).text == numbers(name, 30)
    assert await loaded(router) == {"a", "b"}
    assert (await router.chat("a")).status == 200
    assert (await router.chat("c")).text == numbers("c", 30)
    assert await loaded(router) == {"a", "c"}
    assert router.loads() == ["a", "b", "c"]


async def test_the_status_says_who_has_what(start: Start) -> None:
    router = await start({"a": fake(memory="100MiB")}, memory="250MiB")
    await router.chat("a")
    device = (await devices(router))[0]
    assert (device["budget_mib"], device["reserved_mib"]) == (250, {"a": 100})
    status = await router.when("a", lambda status: bool(status["held_mib"]) or device["device"] != "cpu")
    assert status["devices"] == [device["device"]]


async def test_why_a_model_waits_is_told_while_it_waits(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "50", memory="200MiB"), "b": fake(memory="100MiB")}, memory="250MiB")
    async with asyncio.TaskGroup() as group:
        group.create_task(router.chat("a"))
        await router.until_running("a", 1)
        group.create_task(router.chat("b"))
        await router.when("b", lambda status: status["waiting"] > 0)
        async with router.client() as client:
            why = (await client.get("/admin/why/b")).json()
    assert why["would_leave"] == ["a"]
    assert "a" in why["reason"]
    assert why["devices"][0]["reserved_mib"] == {"a": 200}
    async with router.client() as client:
        told = (await client.get("/admin/decisions", params={"model": "a"})).json()["decisions"]
        missing = await client.get("/admin/why/nobody")
    assert told[0]["action"] == "started"
    assert missing.status_code == 404


async def test_models_that_are_never_together_take_turns_though_both_fit(start: Start) -> None:
    groups = {"big": {"models": ["a", "b"], "together": "never"}}
    router = await start({name: fake(memory="10MiB") for name in "abc"}, memory="250MiB", groups=groups)
    for name in "acb":
        await router.chat(name)
    assert await loaded(router) == {"b", "c"}


async def test_an_unknown_size_takes_all_there_is(start: Start) -> None:
    router = await start({"a": fake(memory="10MiB"), "b": fake()}, memory="250MiB")
    await router.chat("a")
    await router.chat("b")
    assert await loaded(router) == {"b"}


async def test_what_was_measured_outlives_the_router(start: Start) -> None:
    router = await start({"a": fake(), "b": fake()}, memory="4GiB")
    await router.chat("a")
    await router.when("a", lambda status: bool(status["held_mib"]))
    await router.chat("b")
    await router.when("b", lambda status: bool(status["held_mib"]))
    assert await loaded(router) == {"b"}, "nobody knew what they take"
    assert await router.stop() == 0
    await router.start()
    for name in "ab":
        await router.chat(name)
    assert await loaded(router) == {"a", "b"}
