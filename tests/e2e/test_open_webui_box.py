"""A real Open-WebUI in a real browser, in front of a real router with real models: what a person sees and does.

Skipped where there is none: see `open_webui_pages`. Counterpart: `test_open_webui`, which sends what it sends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from routing import RouterProcess, Start, fake, numbers, until

expect = pytest.importorskip("playwright.async_api", reason="playwright isn't installed").expect
expect.set_options(timeout=60_000)
pages = pytest.importorskip("open_webui_pages")
pytestmark = [
    pytest.mark.box,
    pytest.mark.skipif(pages.why_not() is not None, reason=str(pages.why_not())),
    pytest.mark.timeout(900),
]

WAIT_S = 60.0  # a browser and two servers share the machine with what else runs
SLOW = ("--startup-s", "2.5", "--token-ms", "150", "--count", "60")
BROKEN = ("--say", "CUDA out of memory", "--exit-at-start", "3", "--startup-s", "0.2")
_OVER = re.compile(r'llm_router_requests_total\{kind="chat",model="([^"]+)",outcome="([^"]+)"\} (\d+)')


@pytest.fixture
async def router(start: Start, tiny_models: dict[str, Any]) -> RouterProcess:
    models = pages.models(tiny_models, fake(*SLOW))
    return await start({**models, "broken": fake(*BROKEN, capabilities=["chat"])})


@pytest.fixture
async def browser(router: RouterProcess) -> AsyncIterator[Any]:
    async with pages.open_webui(router.url) as url, pages.browser(url) as browser:
        yield browser


async def outcomes(router: RouterProcess, model: str) -> Counter[str]:
    """How the requests for the model ended: a chat's and Open-WebUI's own."""
    async with router.client() as client:
        metrics = (await client.get("/metrics")).text
    return Counter({outcome: int(count) for name, outcome, count in _OVER.findall(metrics) if name == model})


async def over(router: RouterProcess, model: str, count: int) -> Counter[str]:
    """Wait until so many requests for the model are over, and return how they ended. A title that comes
    long before its chat finds nobody who loads its model."""
    found: Counter[str] = Counter()

    async def has_come() -> bool:
        now = await outcomes(router, model)
        found.clear()
        found.update(now)
        return found.total() >= count

    try:
        await until(has_come, WAIT_S)
    except TimeoutError:
        pytest.fail(f"{model}: {dict(found)}, not {count} of them")
    assert found.total() == count
    return found


async def stopped(router: RouterProcess, model: str, count: int) -> None:
    """Wait until so many of the model's requests have been cancelled. Stop leaves the request for a title alone."""

    async def has_come() -> bool:
        return (await outcomes(router, model))["cancelled"] == count

    await until(has_come, WAIT_S)


async def test_a_person_chats_switches_stops_ejects_and_loads(router: RouterProcess, browser: Any) -> None:
    # A new chat: its title is asked for before it, follow-ups and tags after it. They are answered by what it loads.
    await browser.new_chat("tiny-a")
    await browser.say("hello")
    await browser.finished()
    await expect(browser.status).to_contain_text("✓ Model ready!")
    await expect(browser.shimmer).to_have_count(0)
    await expect(browser.text).to_have_text(numbers("tiny-a", 50).strip())
    assert (await over(router, "tiny-a", 4))["completed"] >= 3, "the chat, follow-ups and tags, at least"
    assert router.loads() == ["tiny-a"], "one chat, one load"
    figures = await browser.figures()
    assert re.search(r"predicted_per_second: \d", figures)
    assert "completion_tokens: 5" in figures

    # The same chat goes on with another model, by the selector: the dot is the first one's until then.
    await browser.open_selector()
    await expect(browser.dot("tiny-a")).to_be_visible()
    await expect(browser.dot("tiny-b")).to_be_hidden()
    await expect(browser.choice("tiny-embed")).to_be_hidden()
    await browser.choice("tiny-b").click()
    await browser.say("and you?")
    await browser.shows("I am tiny-b:")
    await browser.finished()
    await expect(browser.status).to_contain_text("✓ Model ready!")
    assert await over(router, "tiny-b", 2) == {"completed": 2}
    assert router.loads() == ["tiny-a", "tiny-b"]

    # Ejected, it has no dot any more.
    await browser.open_selector()
    await expect(browser.dot("tiny-b")).to_be_visible()
    await browser.eject("tiny-b")
    await router.until("tiny-b", "unloaded")
    await expect(browser.dot("tiny-b")).to_be_hidden()

    # From the menu of the administrator it is loaded again.
    await browser.open_manager()
    await browser.managed("tiny-b").get_by_label("Load Model", exact=True).click()
    await router.until("tiny-b", "ready")
    await browser.managed("tiny-b").get_by_label("Unload Model", exact=True).click()
    await router.until("tiny-b", "unloaded")


async def test_a_load_is_shown_and_stop_works_in_it_in_the_answer_and_in_the_queue(
    router: RouterProcess, browser: Any
) -> None:
    waiting = await browser.another()
    await waiting.new_chat("tiny-a")

    await browser.new_chat("slow")
    await browser.say("hello")
    await expect(browser.status).to_contain_text("⏳ Loading model...")
    await expect(browser.shimmer).to_be_visible()
    await browser.stop.click()
    await stopped(router, "slow", 1)
    await router.until("slow", "ready")
    assert (await router.stats("slow"))["aborted"] == 0, "it was never asked"

    await browser.new_chat("slow")
    await browser.say("hello")
    await browser.shows("I am slow: 1 2")
    await waiting.say("hello")
    await expect(waiting.status).to_contain_text("⏳")
    await waiting.stop.click()
    await stopped(router, "tiny-a", 1)

    await browser.stop.click()
    await stopped(router, "slow", 2)
    await expect(browser.text).to_contain_text("I am slow: 1 2")
    assert (await router.stats("slow"))["aborted"] == 1, "its server has stopped too"
    assert router.loads() == ["slow"]

    # What went before comes back as the words alone.
    await browser.say("go on")
    asked: dict[str, Any] = {}

    async def has_come() -> bool:
        asked.clear()
        asked.update((await router.stats("slow"))["last"]["body"])
        return len(asked["messages"]) == 3

    await until(has_come, WAIT_S)
    said = asked["messages"]
    assert "tools" not in asked, "its capabilities have none"
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert re.fullmatch(r"\s*I am slow:( \d+)+\s*", said[1]["content"])
    await browser.stop.click()
    await stopped(router, "slow", 3)


async def test_a_load_that_fails_shows_the_servers_own_words(router: RouterProcess, browser: Any) -> None:
    await browser.new_chat("broken")
    await browser.say("hello")
    await expect(browser.problem).to_contain_text("CUDA out of memory")
    await expect(browser.status).to_contain_text("✗ broken failed to load")
    await expect(browser.shimmer).to_have_count(0)
    await browser.page.reload()
    await expect(browser.problem).to_contain_text("CUDA out of memory")
    assert router.loads() == ["broken"], "its own requests don't try it again"


async def test_a_task_model_is_not_loaded_for_a_new_chat(router: RouterProcess) -> None:
    async with (
        pages.open_webui(router.url, TASK_MODEL_EXTERNAL="tiny-b", TASK_MODEL="tiny-b") as url,
        pages.browser(url) as browser,
    ):
        await browser.new_chat("tiny-a")
        await browser.say("hello")
        await browser.finished()
        assert await over(router, "tiny-b", 3) == {"model_not_ready": 3}, "a title, follow-ups and tags"
        await browser.say("again")
        await browser.shows("I am tiny-a")
        await browser.finished()
        assert await over(router, "tiny-b", 4) == {"model_not_ready": 4}
        assert await over(router, "tiny-a", 2) == {"completed": 2}
    assert router.loads() == ["tiny-a"]


async def test_it_works_as_an_ollama_connection_too(router: RouterProcess) -> None:
    async with pages.open_webui(router.url, ollama=True) as url, pages.browser(url) as browser:
        await browser.new_chat("tiny-a:latest")
        await browser.say("hello")
        await browser.finished()
        await expect(browser.text).to_have_text(numbers("tiny-a", 50).strip())
        await expect(browser.status).to_have_count(0)
        assert "eval_count: 5" in await browser.figures()
        assert (await over(router, "tiny-a", 4))["completed"] >= 3

        await browser.open_selector()
        await expect(browser.dot("tiny-a:latest")).to_be_visible()
        await expect(browser.dot("slow:latest")).to_be_hidden()
        await browser.eject("tiny-a:latest")
        await router.until("tiny-a", "unloaded")
        await expect(browser.dot("tiny-a:latest")).to_be_hidden()
        assert router.loads() == ["tiny-a"]

        # Stopped while it loads, and in the answer.
        await browser.new_chat("slow:latest")
        await browser.say("hello")
        await router.when("slow", lambda status: status["waiting"] == 1)
        await browser.stop.click()
        await stopped(router, "slow", 1)
        await router.until("slow", "ready")
        await browser.new_chat("slow:latest")
        await browser.say("hello")
        await browser.shows("I am slow: 1 2")
        await browser.stop.click()
        await stopped(router, "slow", 2)

        await browser.new_chat("broken:latest")
        await browser.say("hello")
        await expect(browser.problem).to_contain_text("CUDA out of memory")
    assert router.loads() == ["tiny-a", "slow", "broken"]
