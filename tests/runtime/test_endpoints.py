"""The models of endpoints elsewhere: found, merged, kept while one is silent, and told only when they change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from llm_router.backends.base import Address, HttpCall
from llm_router.errors import LaunchError
from llm_router.launchers.calls import Answer
from llm_router.runtime import endpoints as module
from llm_router.runtime.endpoints import Endpoint, Endpoints, RemoteModel, models_of

CALL = HttpCall(method="GET", path="/v1/models")


def endpoint(name: str, *hosts: str, prefix: str = "", patterns: tuple[str, ...] = ("*",)) -> Endpoint:
    addresses = tuple(Address(host=host, port=80) for host in hosts or (name,))
    return Endpoint(name=name, addresses=addresses, call=CALL, prefix=prefix, patterns=patterns)


def listing(*names: str) -> bytes:
    return json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()


class World:
    """`answers`: what each host says; a host that isn't there can't be reached."""

    def __init__(self, *endpoints: Endpoint, taken: Sequence[str] = ()) -> None:
        self.answers: dict[str, bytes | int] = {}
        self.told: list[list[str]] = []
        self.models: Sequence[RemoteModel] = ()
        self.on_told: Callable[[], None] = lambda: None
        self.endpoints = Endpoints(endpoints, ask=self._ask, is_taken=lambda name: name in taken, tell=self._tell)

    async def _ask(self, address: Address, call: HttpCall) -> Answer:
        assert call is CALL
        answer = self.answers.get(address.host)
        match answer:
            case None:
                raise LaunchError(f"cannot ask {address.host}:80 for /v1/models: refused")
            case int():
                return Answer(status=answer, body=b"{}")
            case _:
                return Answer(status=200, body=answer)

    def _tell(self, models: Sequence[RemoteModel]) -> None:
        self.models = models
        self.told.append(sorted(model.name for model in models))
        self.on_told()

    async def refresh(self) -> list[str]:
        await self.endpoints.refresh()
        return self.told[-1] if self.told else []


async def test_the_models_of_all_endpoints_are_ours_under_their_prefix() -> None:
    world = World(endpoint("lab", prefix="lab/"), endpoint("cloud"))
    world.answers = {"lab": listing("qwen"), "cloud": listing("gpt")}
    assert await world.refresh() == ["gpt", "lab/qwen"]
    assert {(model.name, model.id, model.endpoint) for model in world.models} == {
        ("lab/qwen", "qwen", "lab"),
        ("gpt", "gpt", "cloud"),
    }


async def test_only_a_change_is_told() -> None:
    world = World(endpoint("lab"))
    world.answers = {"lab": listing("a")}
    await world.refresh()
    await world.refresh()
    world.answers = {"lab": listing("a", "b")}
    await world.refresh()
    world.answers = {"lab": listing("b")}
    await world.refresh()
    assert world.told == [["a"], ["a", "b"], ["b"]]


async def test_our_own_models_and_the_first_endpoint_win() -> None:
    world = World(endpoint("first"), endpoint("second"), taken=["ours"])
    world.answers = {"first": listing("same", "ours"), "second": listing("same", "other")}
    assert await world.refresh() == ["other", "same"]
    assert next(model.endpoint for model in world.models if model.name == "same") == "first"


async def test_only_the_models_that_are_wanted_are_taken() -> None:
    world = World(endpoint("lab", patterns=("qwen*", "bge-m?")))
    world.answers = {"lab": listing("qwen3", "llama", "bge-m3", "bge-large")}
    assert await world.refresh() == ["bge-m3", "qwen3"]


async def test_the_next_equal_address_answers_for_one_that_does_not() -> None:
    world = World(endpoint("lab", "dead", "busy", "alive"))
    world.answers = {"busy": 503, "alive": listing("a")}
    assert await world.refresh() == ["a"]


async def test_who_falls_silent_keeps_its_models_and_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(endpoint("lab"), endpoint("cloud"))
    world.answers = {"lab": listing("a"), "cloud": listing("b")}
    await world.refresh()
    world.answers = {"cloud": listing("b", "c")}
    assert await world.refresh() == ["a", "b", "c"]
    await world.refresh()
    assert caplog.text.count("cannot ask lab:80 for /v1/models: refused") == 1
    world.answers["lab"] = listing()
    assert await world.refresh() == ["b", "c"], "it is back, and has none"
    del world.answers["lab"]
    await world.refresh()
    assert caplog.text.count("cannot ask lab:80") == 2


async def test_a_refusal_is_a_silence_too(caplog: pytest.LogCaptureFixture) -> None:
    world = World(endpoint("lab"))
    world.answers = {"lab": 401}
    assert await world.refresh() == []
    assert "it answered 401" in caplog.text


async def test_a_silent_endpoint_is_asked_again_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    pauses: list[float] = []

    timeout = asyncio.timeout

    def at_once(seconds: float) -> asyncio.Timeout:
        pauses.append(seconds)
        world.answers["lab"] = listing("a")
        if len(pauses) == 2:
            raise Enough
        return timeout(0)

    monkeypatch.setattr(module.asyncio, "timeout", at_once)
    world = World(endpoint("lab"))
    with pytest.raises(Enough):
        await world.endpoints.keep_up()
    assert pauses == [30.0, 300.0]
    assert world.told == [["a"]]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"data": {}}', b"\xff", b"null"])
def test_what_is_no_listing_has_no_models(body: bytes) -> None:
    assert models_of(body, endpoint("lab")) is None


def test_what_is_no_model_is_passed_over() -> None:
    entries = [1, {}, {"id": 3}, {"id": ""}, {"id": "a", "max_model_len": 4096}, {"id": "b", "context_length": "many"}]
    found = models_of(json.dumps({"data": entries}).encode(), endpoint("lab"))
    assert found is not None
    assert [(model.id, model.context_length) for model in found] == [("a", 4096), ("b", None)]


# -- another configuration


async def test_endpoints_that_stay_keep_their_models_and_others_take_theirs_along() -> None:
    world = World(endpoint("lab"), endpoint("cloud"))
    world.answers = {"lab": listing("qwen"), "cloud": listing("gpt"), "new": listing("phi")}
    await world.refresh()
    kept = world.endpoints.configure([endpoint("cloud"), endpoint("new")])
    assert [model.name for model in kept] == ["gpt"]
    assert await world.refresh() == ["gpt", "phi"]


async def test_one_that_is_asked_otherwise_now_is_asked_anew() -> None:
    world = World(endpoint("lab"))
    world.answers = {"lab": listing("qwen")}
    await world.refresh()
    assert world.endpoints.configure([endpoint("lab", prefix="lab/")]) == ()
    assert await world.refresh() == ["lab/qwen"]


async def test_a_new_endpoint_is_asked_at_once() -> None:
    world = World()
    world.answers = {"lab": listing("qwen")}
    heard = asyncio.Event()
    world.on_told = heard.set
    keeping = asyncio.ensure_future(world.endpoints.keep_up())  # noqa: TID251
    await asyncio.sleep(0)
    world.endpoints.configure([endpoint("lab")])
    async with asyncio.timeout(5):
        await heard.wait()
    keeping.cancel()
    assert world.told == [["qwen"]]
