"""Takes the pictures of the manual from a real Open-WebUI in a real browser: `.venv/bin/python docs/screenshots.py`.

What it needs is said in `tests/e2e/open_webui_pages.py`; without it nothing is done. The models are small or slow ones
made for the tests, so that every state can be seen. Port 8002 must be free.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PORT = 8002  # as in the manual
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT)]

from engines import program  # noqa: E402
from open_webui_pages import Browser, browser, models, open_webui, screenshots_folder, why_not  # noqa: E402
from playwright.async_api import Locator  # noqa: E402
from routing import RouterProcess  # noqa: E402

from llm_router.models import tiny  # noqa: E402


def chats(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for seed, name in enumerate(("tiny-a", "tiny-b"), start=1):
        path = tiny.write(folder / f"{name}.gguf", name=name, seed=seed, count=50)
        found[name] = {"backend": "llamacpp", "path": str(path), "context_length": 1024, "args": ["-t", "1"]}
    path = tiny.write(folder / "tiny-embed.gguf", name="tiny-embed", kind="embedding")
    found["tiny-embed"] = {"backend": "llamacpp", "path": str(path), "capabilities": ["embedding"]}
    return found


async def take(folder: Path) -> None:
    # A server that says how far its load is, which the small models are too quick for.
    server = program(folder, "sglang", "fake_sglang.py", "--startup-s", "20", "--shards", "10", "--count", "30")
    slow = {"backend": "sglang", "path": str(folder)}
    settings = {"backends": {"sglang": {"binary": str(server)}}, "router_port": PORT}
    router = RouterProcess(folder / "router", models(chats(folder), slow), **settings)
    await router.start()
    try:
        async with open_webui(router.url) as url, browser(url) as page:
            await shoot(page)
    finally:
        await router.stop()


async def shoot(person: Browser) -> None:
    page = person.page
    await person.new_chat("slow")
    await person.say("What does a router do?")
    await person.shows(re.compile(r" [6-9]s / 180s \(\d+%"))
    await save(person, "loading", height=250)
    await person.finished()
    await person.new_chat("tiny-a")
    await person.say("Count to fifty.")
    await person.shows(" 50")
    await person.finished()
    await person.figures()
    await save(person, "figures")
    await page.mouse.move(1, 1)
    await person.open_selector()
    await person.choice("tiny-a").hover()
    await save(person, "selector", left=500, top=400)
    await person.open_manager()
    await save_dialog(person, "manager")
    await page.goto(f"{person.url}/admin/settings/connections", wait_until="domcontentloaded")
    await page.get_by_text("Manage OpenAI API Connections").locator("xpath=following::button[2]").click()
    await page.get_by_text("Edit Connection").first.wait_for()
    await page.get_by_text("Advanced", exact=True).last.click()
    provider = page.get_by_text("Provider", exact=True).last
    await provider.wait_for()
    await save_dialog(person, "connection", until=provider)


async def save_dialog(person: Browser, name: str, *, until: Locator | None = None) -> None:
    """The dialog alone, all that is seen of it or as far as this part of it."""
    await settle(person)
    box = await person.page.get_by_role("dialog").last.locator("xpath=./div").first.bounding_box()
    last = None if until is None else await until.bounding_box()
    assert box is not None
    end = box["y"] + box["height"] if last is None else last["y"] + 2 * last["height"]
    await write(person, name, box["x"], box["y"], box["width"], end - box["y"])


async def save(person: Browser, name: str, *, left: int = 0, top: int = 0, height: int | None = None) -> None:
    """The window, or a part of it, in pixels."""
    await settle(person)
    size = person.page.viewport_size
    assert size is not None
    await write(person, name, left, top, size["width"] - left, (height or size["height"]) - top)


async def settle(person: Browser) -> None:
    await person.page.wait_for_timeout(600)  # the page's own movements


async def write(person: Browser, name: str, x: float, y: float, width: float, height: float) -> None:
    path = screenshots_folder() / f"open-webui-{name}.png"
    await person.page.screenshot(path=path, clip={"x": x, "y": y, "width": width, "height": height})
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    missing = why_not()
    if missing is not None:
        sys.exit(f"cannot take screenshots: {missing}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(take(Path(folder)))
