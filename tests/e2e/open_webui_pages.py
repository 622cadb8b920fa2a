"""A real Open-WebUI and its pages, used as a person uses them: for the tests and for the screenshots of the manual.

The environment's LLM_ROUTER_OPEN_WEBUI_BOX names a program that starts one, which is installed elsewhere: `start URL
PORT` returns as soon as it answers on that port of the loopback address, with fresh data and without a login; `stop`
ends it. Chromium must be installed too.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, Locator, Page, async_playwright

VARIABLE = "LLM_ROUTER_OPEN_WEBUI_BOX"
# As an administrator sets a connection up, in the words of the first start.
_CONNECTION = '{"0":{"provider":"llama.cpp","headers":{"X-LLM-Router-Task":"{{TASK}}"}}}'
_START_S = 600  # the first start may install it
_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]
_WAIT_MS = 60_000  # a browser and two servers share the machine with what else runs


def why_not() -> str | None:
    """What is missing; None: nothing."""
    if VARIABLE not in os.environ:
        return f"{VARIABLE} names no program that starts an Open-WebUI"
    return None if _chromium() is not None else "there is no Chromium"


def _chromium() -> str | None:
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@asynccontextmanager
async def open_webui(router_url: str, *, ollama: bool = False, **environment: str) -> AsyncIterator[str]:
    """A fresh one, connected to the router; gives its base URL. `ollama`: by Ollama's API and no other."""
    connection = {"OPENAI_API_CONFIGS": _CONNECTION}
    if ollama:
        connection = {"ENABLE_OPENAI_API": "False", "ENABLE_OLLAMA_API": "True", "OLLAMA_BASE_URL": router_url}
    box = os.environ[VARIABLE]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    await _run(box, "start", f"{router_url}/v1", str(port), **connection, **environment)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await _run(box, "stop")


async def _run(*argv: str, **environment: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, env={**os.environ, **environment}, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(_START_S):
        code = await process.wait()
    assert code == 0, f"{' '.join(argv)} ended with {code}"


class Browser:
    """One window. `url`: of the Open-WebUI."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    async def another(self) -> Browser:
        """A second window of the same person."""
        return await _window(self.page.context, self.url)

    # -- chats

    async def new_chat(self, model: str) -> None:
        await self.page.goto(f"{self.url}/?models={model}", wait_until="domcontentloaded")
        await self.page.wait_for_selector("#chat-input")
        await self.page.wait_for_selector('#model-selector-model-button:not([aria-label="Select a model"])')

    async def say(self, text: str) -> None:
        await self.page.locator("#chat-input").click()
        await self.page.keyboard.insert_text(text)
        await self.page.wait_for_selector("#send-message-button:not([disabled])")
        await self.page.keyboard.press("Enter")

    @property
    def answer(self) -> Locator:
        return self.page.locator(".chat-assistant").last

    @property
    def status(self) -> Locator:
        """The status line above the last answer, which isn't part of its text."""
        return self.answer.locator(".status-description")

    @property
    def shimmer(self) -> Locator:
        """The status line while it isn't over."""
        return self.status.locator(".shimmer")

    @property
    def stop(self) -> Locator:
        return self.page.locator('button[aria-label^="Stop" i]').last

    @property
    def text(self) -> Locator:
        """The words of the last answer, without what the page puts around them."""
        return self.answer.locator("#response-content-container .markdown-prose")

    @property
    def problem(self) -> Locator:
        """The box with an error below the last answer."""
        return self.answer.locator(".break-words").last

    async def shows(self, text: str | re.Pattern[str], *, timeout_ms: int = _WAIT_MS) -> str:
        """Wait until the last answer shows this, and return all that it shows."""
        await self.answer.filter(has_text=text).wait_for(timeout=timeout_ms)
        return await self.answer.inner_text()

    async def finished(self) -> str:
        """Wait until the last answer is complete, and return what it shows."""
        await self.info.wait_for()
        await self.stop.wait_for(state="hidden")
        return await self.answer.inner_text()

    @property
    def info(self) -> Locator:
        return self.page.locator('button[id^="info-"]').last

    async def figures(self) -> str:
        await self.info.hover()
        popup = self.page.locator(".tippy-content").last
        await popup.wait_for()
        return await popup.inner_text()

    # -- models

    async def open_selector(self) -> None:
        await self.page.locator("#model-selector-model-button").hover()
        await self.page.locator("#model-selector-model-button").click()
        await self.page.wait_for_selector("#model-selector-list [role=option]")

    def choice(self, model: str) -> Locator:
        return self.page.locator(f'#model-selector-list [role=option][data-value="{model}"]')

    def dot(self, model: str) -> Locator:
        return self.choice(model).locator(".bg-green-500")

    async def choose(self, model: str) -> None:
        await self.open_selector()
        await self.choice(model).click()

    async def eject(self, model: str) -> None:
        await self.choice(model).hover()
        await self.choice(model).get_by_label("Eject model").click()

    async def open_manager(self) -> None:
        await self.page.goto(f"{self.url}/admin/settings/models", wait_until="domcontentloaded")
        await self.page.get_by_role("button", name="Actions").wait_for()
        await self.page.get_by_role("button", name="Actions").click()
        await (
            self.page.get_by_role("button", name="Manage", exact=True)
            .or_(self.page.get_by_role("menuitem", name="Manage", exact=True))
            .click()
        )
        await self.page.get_by_label("Load Model", exact=True).first.wait_for()

    def managed(self, model: str) -> Locator:
        """The line of a model in the manager."""
        named = self.page.get_by_text(model, exact=True)
        return self.page.locator("div", has=named).filter(has=self.page.get_by_label("Load Model", exact=True)).last


@asynccontextmanager
async def browser(url: str, *, width: int = 1000, height: int = 640) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=_chromium(), args=_ARGS)
        try:
            yield await _window(await chromium.new_context(viewport={"width": width, "height": height}), url)
        finally:
            await chromium.close()


async def _window(person: BrowserContext, url: str) -> Browser:
    page = await person.new_page()
    page.set_default_timeout(_WAIT_MS)
    greeting = page.get_by_role("button", name="Okay, Let's Go!")  # of the first visit, whenever it comes
    await page.add_locator_handler(greeting, greeting.click)
    return Browser(page, url)


def models(tiny: dict[str, dict[str, Any]], slow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Two real chat models and an embedding model, and a slow one. A model that says that it can only chat isn't sent
    the schemas of three dozen tools, for which these have no room."""
    chat = {"capabilities": ["chat"]}
    real = {**chat, "context_length": 4096}  # the prompts of its own requests are that long
    return {
        "tiny-a": {**tiny["tiny-a"], **real, "name": "Tiny A", "description": "Counts to fifty"},
        "tiny-b": {**tiny["tiny-b"], **real, "name": "Tiny B"},
        "tiny-embed": tiny["tiny-embed"],
        "slow": {**slow, **chat, "name": "Slow"},
    }


def screenshots_folder() -> Path:
    return Path(__file__).parents[2] / "docs" / "images"
