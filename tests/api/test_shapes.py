"""An error has the shape of the dialect whose path it is, with the status and headers that it always has."""

from __future__ import annotations

import json

import pytest

from llm_router.api.errors import body_of, render
from llm_router.api.shapes import render_at
from llm_router.errors import QueueFull

ERROR = QueueFull("cannot take one more", retry_after_s=3)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/messages", {"type": "error", "error": {"type": "overloaded_error", "message": "cannot take one more"}}),
        (
            "/v1/messages/count_tokens",
            {"type": "error", "error": {"type": "overloaded_error", "message": "cannot take one more"}},
        ),
        ("/api/chat", {"error": "cannot take one more"}),
        ("/v1/chat/completions", body_of(ERROR)),
        ("/apiary", body_of(ERROR)),
    ],
)
def test_an_error_has_the_shape_of_its_paths_dialect(path: str, said: object) -> None:
    status, headers, body = render_at(path, ERROR)
    assert (status, headers) == render(ERROR)[:2]
    assert json.loads(body) == said
