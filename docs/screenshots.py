"""Takes the pictures of the manual from a real Open-WebUI in a real browser: `.venv/bin/python docs/screenshots.py`.

What it needs is said in `tests/e2e/open_webui_pages.py`; without it nothing is done. The models are small or slow ones
made for the tests, so that every state can be seen.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT)]

from engines import program  # noqa: E402
from open_webui_pages import Browser, browser, models, open_webui, screenshots_folder, why_not  # noqa: E402
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
    slow = program(folder, "llama-server", "fake_backend.py", "--push-lines", "--startup-s", "15", "--count", "30")
    file = folder / "slow.gguf"
    file.write_bytes(b"GGUF")
    command = [str(slow), "-m", str(file), "--host", "127.0.0.1", "--port", "${PORT}", "--alias", "slow"]
    known = chats(folder)
    router = RouterProcess(folder / "router", models(known, {"backend": "llamacpp", "command": command}))
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
    await person.shows("⏳ Loading model... 6s")
    await save(person, "loading", height=330)
    await person.new_chat("tiny-a")
    await person.say("Count to fifty.")
    await person.shows(" 50")
    await person.finished()
    await person.figures()
    await save(person, "figures", height=560)
    await page.mouse.move(1, 1)
    await person.open_selector()
    await person.choice("tiny-a").hover()
    await save(person, "selector", top=330)
    await person.open_manager()
    await save(person, "manager")
    await page.goto(f"{person.url}/admin/settings/connections", wait_until="domcontentloaded")
    await page.get_by_text("Manage OpenAI API Connections").locator("xpath=following::button[2]").click()
    await page.get_by_text("Edit Connection").first.wait_for()
    await save(person, "connection")


async def save(person: Browser, name: str, *, top: int = 0, height: int | None = None) -> None:
    """The window, or a band of it, in pixels."""
    size = person.page.viewport_size
    assert size is not None
    await person.page.wait_for_timeout(400)  # the page's own movements
    band = {"x": 0, "y": top, "width": size["width"], "height": (height or size["height"]) - top}
    path = screenshots_folder() / f"open-webui-{name}.png"
    await person.page.screenshot(path=path, clip=band)
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    missing = why_not()
    if missing is not None:
        sys.exit(f"cannot take screenshots: {missing}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(take(Path(folder)))
