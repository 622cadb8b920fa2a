"""What a conversation asks of the dispatcher beside relaying: whether a model may be used, and that it is ready."""

from __future__ import annotations

from typing import Any, cast

import pytest

from llm_router.api.converse import Conversation
from llm_router.dialects import ollama_reply
from llm_router.errors import LlmRouterError, ModelNotFound, ModelNotReady
from llm_router.relay.lease import Upstream, Waiter
from llm_router.relay.request import Preferences
from llm_router.relay.services import Services
from llm_router.relay.status_text import Progress

NOBODY = cast("Any", None)


class Scripted:
    """A dispatcher that answers each request at once: with a lease, or with `error`."""

    def __init__(self, error: LlmRouterError | None = None) -> None:
        self.error = error
        self.opened: list[tuple[str, str]] = []
        self.closed: list[int] = []

    def open(self, model: str, *, request_class: str, waiter: Waiter) -> int:
        self.opened.append((model, request_class))
        if self.error is not None:
            waiter.refused(self.error)
        else:
            waiter.granted(1, Upstream(instance=1, model=model, host="h", port=1, host_header=b"h"))
        return 1

    def close(self, request: int, *, lost: bool = False) -> None:
        self.closed.append(request)

    def suspect(self, instance: int) -> None: ...

    def progress(self, request: int) -> Progress | None:
        return None


async def left() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def conversation(dispatcher: Scripted) -> Conversation:
    services = Services(dispatcher=dispatcher, pool=NOBODY, models={}, render=NOBODY, preferences=Preferences())
    return Conversation(services, ollama_reply.error, {"headers": []}, left, NOBODY, limit=1)


async def test_whether_a_model_may_be_used_loads_nothing_and_leaves_no_lease() -> None:
    dispatcher = Scripted()
    conversation(dispatcher).check("m")
    assert dispatcher.opened == [("m", "aside")]
    assert 1 in dispatcher.closed


async def test_a_model_that_is_not_ready_may_be_used_but_one_that_is_refused_may_not() -> None:
    conversation(Scripted(ModelNotReady("cannot yet"))).check("m")
    with pytest.raises(ModelNotFound):
        conversation(Scripted(ModelNotFound("cannot at all"))).check("m")


async def test_a_model_that_is_ready_is_loaded_and_one_that_fails_says_why() -> None:
    dispatcher = Scripted()
    assert await conversation(dispatcher).loaded("m") is True
    assert dispatcher.opened == [("m", "interactive")]
    assert 1 in dispatcher.closed
    with pytest.raises(ModelNotReady):
        await conversation(Scripted(ModelNotReady("cannot yet"))).loaded("m")
