"""Whatever shape a server's error has, a client sees one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.relay.failure import Failure, is_json, of_object, of_reply


def made(body: Any, status: int = 400) -> Failure:
    return of_reply(body if isinstance(body, bytes) else json.dumps(body).encode(), status=status, model="m")


@pytest.mark.parametrize(
    ("body", "status", "message", "type_", "code", "param"),
    [
        # llama.cpp b11549
        (
            {"error": {"code": 400, "message": "bad grammar", "type": "invalid_request_error"}},
            400, "bad grammar", "invalid_request_error", "upstream_error", None,
        ),
        (
            {
                "error": {
                    "code": 400,
                    "message": "request (9 tokens) exceeds the available size",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 9,
                    "n_ctx": 8,
                }
            },
            400, "request (9 tokens) exceeds the available size", "exceed_context_size_error",
            "context_length_exceeded", None,
        ),
        # SGLang 0.5.23
        (
            {"object": "error", "message": "no", "type": "BadRequestError", "param": "stop", "code": 400},
            400, "no", "BadRequestError", "upstream_error", "stop",
        ),
        (
            {
                "object": "error",
                "message": "The input (9 tokens) is longer than the model's context length (8 tokens).",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
            400, "The input (9 tokens) is longer than the model's context length (8 tokens).", "BadRequestError",
            "context_length_exceeded", None,
        ),
        # TabbyAPI
        ({"detail": "No models are loaded."}, 400, "No models are loaded.", "invalid_request_error", "upstream_error",
         None),
        ({"detail": "Chat completion aborted."}, 503, "Chat completion aborted.", "unavailable_error",
         "upstream_error", None),
        (
            {
                "detail": [
                    {"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": {}},
                    {"type": "int_type", "loc": ["body", "messages", 0, "n"], "msg": "Input should be an integer"},
                ]
            },
            422, "messages: Field required; messages.0.n: Input should be an integer", "invalid_request_error",
            "upstream_error", "messages",
        ),
        (
            {"error": {"message": "too long", "type": "invalid_request_error", "param": None,
                       "code": "context_length_exceeded"}},
            400, "too long", "invalid_request_error", "context_length_exceeded", None,
        ),
        # vLLM 0.33.0
        (
            {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model",
                       "code": 404}},
            404, "The model `x` does not exist.", "NotFoundError", "upstream_error", "model",
        ),
        (
            {"error": {"message": "This model's maximum context length is 8 tokens.", "type": "BadRequestError",
                       "param": "input_tokens", "code": 400}},
            400, "This model's maximum context length is 8 tokens.", "BadRequestError", "context_length_exceeded",
            "input_tokens",
        ),
        # others
        ({"error": "slow down"}, 429, "slow down", "rate_limit_error", "upstream_error", None),
        ({"message": "failed", "type": 7, "code": ""}, 500, "failed", "server_error", "upstream_error", None),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, 529, "busy", "overloaded_error",
         "upstream_error", None),
    ],
)  # fmt: skip
def test_a_servers_words_are_kept_in_one_shape(
    body: Any, status: int, message: str, type_: str, code: str, param: str | None
) -> None:
    found = json.loads(made(body, status).as_reply())["error"]
    assert {key: found[key] for key in ("message", "type", "code", "param")} == {
        "message": message,
        "type": type_,
        "code": code,
        "param": param,
    }


def test_the_numbers_of_an_overflow_are_kept_and_a_trace_isnt() -> None:
    said = {"message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8, "trace": "File …"}
    error = json.loads(made({"error": said}).as_reply())["error"]
    assert error.keys() == {"message", "type", "code", "param", "n_prompt_tokens", "n_ctx"}
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9, 8)


def test_words_about_the_context_are_an_overflow_only_where_a_request_was_refused() -> None:
    said = {"error": {"message": "cannot allocate the context size"}}
    assert made(said, 500).code == "upstream_error"
    assert made(said, 400).code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"Internal Server Error", "500: Internal Server Error"),
        (b"  two\r\n\r\n lines\x00 \xff", "500: two lines �"),
        (b"<html>\n<head><title>502 Bad\n Gateway</title></head><body><p>x</p></body></html>", "500: 502 Bad Gateway"),
        (b"<html><body>secret page</body></html>", "500"),
        (b"", "500"),
        (b'{"ok":true}', '500: {"ok":true}'),
        (b"[" * 100_000, "500: " + "[" * 500 + "…"),
        (b'{"error":{}}', '500: {"error":{}}'),
        (b"x" * 100_000, "500: " + "x" * 500 + "…"),
    ],
)
def test_what_isnt_json_is_quoted_in_one_short_line(body: bytes, shown: str) -> None:
    assert made(body, 500).message == (
        f"cannot tell what went wrong in the server of m: it answered {shown}; look at its log"
    )


@pytest.mark.parametrize("found", [None, [], "x", {}, {"error": None}, {"error": {}}, {"detail": []}, {"detail": [1]}])
def test_what_says_nothing_is_no_failure(found: object) -> None:
    assert of_object(found) is None


def test_json_is_told_from_a_crash() -> None:
    assert is_json(b'{"detail":"x"}')
    assert not is_json(b"Internal Server Error")
    assert not is_json(b"")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["error", "message", "detail", "type", "code", "param", "msg", "loc", "n_ctx", "x"])


@given(
    st.dictionaries(KEYS, ANY | st.dictionaries(KEYS, ANY) | st.lists(st.dictionaries(KEYS, ANY))),
    st.integers(400, 599),
)
def test_no_error_breaks_the_shape(body: dict[str, Any], status: int) -> None:
    error = json.loads(made(body, status).as_reply())["error"]
    assert error["message"]
    assert all(isinstance(error[key], str) for key in ("message", "type", "code"))
    assert error["param"] is None or isinstance(error["param"], str)
