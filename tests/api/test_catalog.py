"""What clients see of the models: the configured ones, those merged from elsewhere, and what loaded ones say."""

from __future__ import annotations

from llm_router.api.catalog import Catalog, Entry
from llm_router.backends.base import Facts
from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import ModelSpec, PolicySpec


def entry(name: str, *, aliases: tuple[str, ...] = (), context_length: int | None = None) -> Entry:
    return Entry(
        name=name,
        backend="openai",
        title=name,
        description=None,
        aliases=aliases,
        capabilities=(),
        context_length=context_length,
        hidden=False,
    )


def catalog(*entries: Entry, facts: dict[str, Facts] | None = None) -> Catalog:
    scheduler = Scheduler({one.name: ModelSpec(name=one.name) for one in entries}, PolicySpec())
    return Catalog(entries, scheduler, lambda name: (facts or {}).get(name, Facts()), 0)


def names(found: Catalog) -> list[str]:
    return [model["id"] for model in found.listing()["data"]]


def test_models_from_elsewhere_stand_behind_our_own_and_go_again() -> None:
    found = catalog(entry("ours", aliases=("mine",)))
    found.merge([entry("theirs")])
    assert names(found) == ["ours", "theirs"]
    assert found.find("theirs") is not None
    found.merge([entry("others")])
    assert names(found) == ["ours", "others"]
    assert found.find("theirs") is None
    assert found.find("mine") is not None


def test_the_context_is_what_the_server_really_gives_a_request() -> None:
    found = catalog(
        entry("a", context_length=8192),
        entry("b", context_length=8192),
        entry("c"),
        facts={"a": Facts(context_length=4096)},
    )
    described = {model["id"]: model.get("context_length") for model in found.listing()["data"]}
    assert described == {"a": 4096, "b": 8192, "c": None}
