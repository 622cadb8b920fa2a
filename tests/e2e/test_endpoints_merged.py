"""Two routers: the models of one are the other's too."""

from __future__ import annotations

from routing import RouterProcess, Start, fake, numbers, until


async def names(router: RouterProcess) -> set[str]:
    async with router.client() as client:
        return {model["id"] for model in (await client.get("/v1/models")).json()["data"]}


async def test_another_routers_models_are_used_like_our_own(start: Start) -> None:
    lab = await start({"a": fake(), "b": fake(), "secret": fake()})
    ours = await start(
        {"a": fake()},
        endpoints={
            "lab": {"url": f"{lab.url}/v1", "models": ["a", "b"]},
            "again": {"url": ["http://127.0.0.1:9", lab.url], "prefix": "lab/", "models": ["b"]},
        },
    )

    async def are_there() -> bool:
        return await names(ours) == {"a", "b", "lab/b"}

    await until(are_there)
    assert (await ours.chat("a")).text == numbers("a", 30)
    assert lab.loads() == [], "a local model of that name wins"
    assert (await ours.chat("lab/b")).text == numbers("b", 30)
    assert lab.loads() == ["b"]
    assert (await ours.status())["a"]["state"] == "ready", "what runs elsewhere takes no room here"
    unknown = await ours.chat("secret")
    assert unknown.status == 404


async def test_an_endpoint_that_is_not_there_costs_a_warning(start: Start) -> None:
    ours = await start({"a": fake()}, endpoints={"lab": {"url": "http://127.0.0.1:9"}})

    async def was_warned() -> bool:
        return "the models of lab are asked for again" in ours.log.read_text()

    await until(was_warned)
    assert await names(ours) == {"a"}
