"""A real Open-WebUI in a real browser, in front of a real router with real models: what a person sees and does.

Skipped where there is none: see `open_webui_pages`. Counterpart: `test_open_webui`, which sends what it sends.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from routing import RouterProcess, Start, fake, numbers

expect = pytest.importorskip("playwright.async_api", reason="playwright isn't installed").expect
pages = pytest.importorskip("open_webui_pages")
pytestmark = [
    pytest.mark.box,
    pytest.mark.skipif(pages.why_not() is not None, reason=str(pages.why_not())),
    pytest.mark.timeout(900),
]

SLOW = ("--startup-s", "2.5", "--token-ms", "150")


@pytest.fixture
async def router(start: Start, tiny_models: dict[str, Any]) -> RouterProcess:
    return await start(pages.models(tiny_models, fake(*SLOW)))


@pytest.fixture
async def browser(router: RouterProcess) -> AsyncIterator[Any]:
    async with pages.open_webui(router.url) as url, pages.browser(url) as browser:
        yield browser


async def test_a_person_chats_switches_stops_ejects_and_loads(router: RouterProcess, browser: Any) -> None:
    # A new chat: its title is asked for before it, follow-ups and tags after it.
    await browser.new_chat("tiny-a")
    await browser.say("hello")
    shown = await browser.finished()
    assert "✓ Model ready!" in shown
    assert numbers("tiny-a", 50).strip() in " ".join(shown.split())
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


async def test_a_load_is_shown_and_stop_works_in_it_and_in_the_answer(router: RouterProcess, browser: Any) -> None:
    await browser.new_chat("slow")
    await browser.say("hello")
    await browser.shows("⏳ Loading model...")
    await browser.stop.click()
    await router.when("slow", lambda status: status["waiting"] == 0)
    await router.until("slow", "ready")
    assert (await router.stats("slow"))["last"] is None, "stopped before it was asked"

    await browser.new_chat("slow")
    await browser.say("hello")
    await browser.shows("I am slow: 1 2")
    assert (await router.status())["slow"]["leases"] >= 1
    await browser.stop.click()
    await router.until_running("slow", 0)
    assert "I am slow: 1 2" in await browser.answer.inner_text(), "what was said stays"
    assert router.loads() == ["slow"]


async def test_a_task_model_is_not_loaded_for_a_new_chat(router: RouterProcess) -> None:
    async with (
        pages.open_webui(router.url, TASK_MODEL_EXTERNAL="tiny-b", TASK_MODEL="tiny-b") as url,
        pages.browser(url) as browser,
    ):
        await browser.new_chat("tiny-a")
        await browser.say("hello")
        await browser.finished()
        await browser.say("again")
        await browser.shows("I am tiny-a")
        await browser.finished()
    assert router.loads() == ["tiny-a"]
