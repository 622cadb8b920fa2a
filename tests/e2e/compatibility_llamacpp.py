"""The table's rows about the routes by which llama.cpp's own router is managed."""

from __future__ import annotations

import asyncio

from compatibility import Asking, feature
from compatibility_words import events
from routing import until

LLAMACPP = "llama.cpp's management"


async def value(asking: Asking) -> str:
    listed = (await asking.client.get("/models")).json()["data"]
    found: str = next(model["status"]["value"] for model in listed if model["id"] == asking.model)
    return found


async def becomes(asking: Asking, wanted: str) -> None:
    async def is_so() -> bool:
        return await value(asking) == wanted

    await until(is_so)


@feature(LLAMACPP, "`GET /models` with `status`")
async def managements_listing(asking: Asking) -> None:
    await asking.loaded()
    assert await value(asking) == "loaded"


@feature(LLAMACPP, "`POST /models/unload`, `POST /models/load`, `GET /models/sse`")
async def managed(asking: Asking) -> None:
    await asking.loaded()
    async with asyncio.timeout(10), asking.client.stream("GET", "/models/sse") as stream:
        told = stream.aiter_lines()
        assert await anext(told) == ": from now on"
        for word, wanted in (("unload", "unloaded"), ("load", "loaded")):
            answer = await asking.client.post(f"/models/{word}", json={"model": asking.model})
            assert answer.json() == {"success": True}
            async for line in told:
                event = events(line)
                if event and (event[0]["model"], event[0]["data"]["status"]) == (asking.model, wanted):
                    break
            await becomes(asking, wanted)


@feature(LLAMACPP, "`POST /models`, `DELETE /models`", "models come with the configuration")
async def managed_files(asking: Asking) -> None:
    answer = await asking.client.delete(f"/models?model={asking.model}")
    assert answer.status_code == 501
    await asking.post("/models", {"model": asking.model})
