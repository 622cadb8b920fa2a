"""What happens to the models, as llama-server tells it."""

from __future__ import annotations

import json
from typing import Any

from llm_router.api.llamacpp_admin import Phase, changes


def told(before: dict[str, Phase], now: dict[str, Phase]) -> list[dict[str, Any]]:
    return [json.loads(event.removeprefix(b"data: ")) for event in changes(before, now)]


def loading(fraction: float | None = None, *, instance: int = 1) -> Phase:
    return Phase(instance=instance, value="loading", fraction=fraction, stage="" if fraction is None else "text_model")


def loaded(*, instance: int = 1) -> Phase:
    return Phase(instance=instance, value="loaded")


def test_a_load_begins_grows_and_is_done() -> None:
    assert told({}, {"a": loading()}) == [{"model": "a", "event": "model_status", "data": {"status": "loading"}}]
    progress = {"stages": ["text_model"], "current": "text_model", "value": 0.5}
    assert told({"a": loading()}, {"a": loading(0.5)}) == [
        {"model": "a", "event": "status_change", "data": {"status": "loading", "progress": progress}}
    ]
    assert told({"a": loading(0.5)}, {"a": loaded()}) == [
        {"model": "a", "event": "status_change", "data": {"status": "loaded"}}
    ]
    assert told({"a": loaded()}, {}) == [{"model": "a", "event": "status_change", "data": {"status": "unloaded"}}]


def test_nothing_new_is_not_told() -> None:
    assert told({"a": loading(0.5)}, {"a": loading(0.5)}) == []
    assert told({"a": loaded()}, {"a": loaded()}) == []


def test_what_was_too_short_to_see_is_told_all_the_same() -> None:
    told_ = [(event["event"], event["data"]["status"]) for event in told({}, {"a": loaded()})]
    assert told_ == [("model_status", "loading"), ("status_change", "loaded")]
    again = [event["data"]["status"] for event in told({"a": loaded()}, {"a": loaded(instance=2)})]
    assert again == ["unloaded", "loading", "loaded"]
