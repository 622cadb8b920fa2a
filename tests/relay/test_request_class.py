"""How urgent a request is: by what it is, by its model's configuration, by its own word."""

from __future__ import annotations

import json

import pytest

from llm_router.errors import InvalidRequest
from llm_router.relay.request import Kind, Model, Preferences, Target, read

CHAT = Target(kind=Kind.CHAT, method=b"POST", path=b"/v1/chat/completions")
COMPLETION = Target(kind=Kind.COMPLETION, method=b"POST", path=b"/v1/completions")
STRAIGHT = Target(kind=Kind.RAW, method=b"GET", path=b"/slots", model="m")


def class_of(
    target: Target,
    *,
    said: bytes | None = None,
    task: bytes | None = None,
    configured: str | None = None,
    text: str = "hi",
    stream: bool = False,
) -> str:
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()
    headers = {} if said is None else {b"x-llm-router-class": said}
    if task is not None:
        headers[b"x-llm-router-task"] = task
    models = {"m": Model(name="m", request_class=configured)}
    return read(target, headers, body, models, Preferences()).request_class


def test_somebody_watches_a_streaming_chat_and_programs_send_the_rest() -> None:
    assert class_of(CHAT, stream=True) == "interactive"
    assert class_of(CHAT) == "normal"
    assert class_of(COMPLETION, stream=True) == "normal"
    assert class_of(STRAIGHT) == "normal"


def test_the_model_decides_where_the_client_says_nothing() -> None:
    assert class_of(CHAT, stream=True, configured="background") == "background"
    assert class_of(STRAIGHT, configured="interactive") == "interactive"


def test_the_client_has_the_last_word() -> None:
    assert class_of(CHAT, said=b"Background", configured="interactive", stream=True) == "background"
    assert class_of(STRAIGHT, said=b"interactive") == "interactive"


def test_a_front_ends_own_task_stays_one_whatever_its_headers_say() -> None:
    assert class_of(CHAT, text="### Task:\nSuggest a title", said=b"interactive") == "task"


def test_a_front_end_that_names_its_tasks_is_believed() -> None:
    assert class_of(CHAT, task=b"title_generation") == "task"
    assert class_of(CHAT, task=b"tags_generation", said=b"interactive", stream=True) == "task"
    assert class_of(CHAT, task=b"", stream=True) == "interactive"
    assert class_of(CHAT, task=b" ", text="### Task:\nof my own, says the user") == "normal"


@pytest.mark.parametrize("said", [b"urgent", b"task", b""])
def test_a_class_that_there_is_not_is_refused(said: bytes) -> None:
    with pytest.raises(InvalidRequest, match="X-LLM-Router-Class"):
        class_of(CHAT, said=said)
