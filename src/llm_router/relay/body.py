"""The request's body: what the router must know of it, and what is wrong with it.

Counterpart: `outgoing`, which changes it. Searching a body for a word costs more than decoding it, so `read` looks once
and leaves in its `Facts` what the other needs.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from llm_router.errors import InvalidRequest
from llm_router.relay.status_text import MARK

Raws = dict[str, msgspec.Raw]
NONE = msgspec.Raw(b"null")
# The mark of the router's own text, in the two ways in which JSON may have it.
PLAIN_MARK, ESCAPED_MARK = MARK.encode(), b"\\u2063"


class Facts(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # a dataclass would cost a third of `read`
    """What the router acts on. `include_usage`: the client asked for a usage chunk itself.

    `plain`: no tools, no forced format and one choice, so that no program parses the text, and the router may add
    lines to it. `background`: one of Open-WebUI's own title, tag and follow-up requests. `has_options`: there is a
    `stream_options`. `has_marks`: there may be text that the router wrote.
    """

    model: str
    stream: bool
    include_usage: bool
    plain: bool
    background: bool
    has_options: bool = True
    has_marks: bool = True


class _Head(msgspec.Struct, gc=False):
    model: str
    stream: bool | None = None
    stream_options: msgspec.Raw = NONE
    messages: msgspec.Raw = NONE
    n: msgspec.Raw = NONE
    tools: msgspec.Raw = NONE
    functions: msgspec.Raw = NONE
    response_format: msgspec.Raw = NONE
    # Forced formats in the engines' own words: llama.cpp, vLLM, SGLang.
    grammar: msgspec.Raw = NONE
    json_schema: msgspec.Raw = NONE
    structured_outputs: msgspec.Raw = NONE
    guided_json: msgspec.Raw = NONE
    regex: msgspec.Raw = NONE
    ebnf: msgspec.Raw = NONE


_decode_head = msgspec.json.Decoder(_Head).decode
decode_raws = msgspec.json.Decoder(Raws).decode

_TASK = b"### Task:"
_TASK_WITHIN = 512  # bytes from the start of the messages: the heading is the first thing in the only one
# The messages are most of a body, and what is in them can't be a key of the outermost object.
_WORTH_LEAVING_OUT = 256
_QUICKLY_SEARCHED = 4096
_ENOUGH_TO_FIND = 64


def read(body: bytes | bytearray) -> Facts:
    """The facts of a JSON request body.

    Raises: InvalidRequest, with `param` where one key is at fault.
    """
    try:
        # The decoder skips what it doesn't need without looking whether it is UTF-8, and upstreams fail on that later.
        ascii_only = body.isascii()
        if not ascii_only:
            body.decode()
        head = _decode_head(body)
    except RecursionError:
        raise InvalidRequest("cannot read the request: it is nested too deeply; send a flatter body") from None
    except UnicodeDecodeError:
        raise InvalidRequest("cannot read the request: it is not valid UTF-8; encode the body as UTF-8") from None
    except msgspec.DecodeError as error:
        raise _explain(body, error) from None
    if not head.model:
        raise _no_model()
    _refuse_duplicates(body, head.messages)
    stream = head.stream is True
    return Facts(
        model=head.model,
        stream=stream,
        include_usage=head.stream_options is not NONE and _asks_usage(head.stream_options),
        plain=_is_plain(head),
        background=not stream and _TASK in bytes(memoryview(head.messages)[:_TASK_WITHIN]) and _is_task(head.messages),
        has_options=head.stream_options is not NONE,
        has_marks=_has_escaped_mark(body) or (not ascii_only and PLAIN_MARK in body),
    )


def _asks_usage(options: msgspec.Raw) -> bool:
    if bytes(options) == b"null":
        return False
    try:
        return bytes(decode_raws(options).get("include_usage", NONE)) == b"true"
    except msgspec.DecodeError:
        raise InvalidRequest(
            'cannot use "stream_options": it must be an object, as {"include_usage": true}', param="stream_options"
        ) from None


def _has_escaped_mark(body: bytes | bytearray) -> bool:
    """Looks at each backslash, which is one memchr to find: looking for the mark itself takes 25 µs for 32 KB. Where
    there are many (code, say), that is the faster way after all."""
    at = body.find(_BACKSLASH)
    for _ in range(_BACKSLASHES):
        if at < 0:
            return False
        if body.startswith(ESCAPED_MARK, at):
            return True
        at = body.find(_BACKSLASH, at + 1)
    return body.find(ESCAPED_MARK, max(at, 0)) >= 0


_BACKSLASH = 0x5C
_BACKSLASHES = 32
_EMPTY = (b"null", b"[]", b"{}", b'""')


def _is_plain(head: _Head) -> bool:
    marks = (head.tools, head.functions, head.grammar, head.json_schema, head.structured_outputs, head.guided_json)
    if marks == _ALL_ABSENT and head.regex is head.ebnf is head.n is head.response_format is NONE:
        return True  # nearly always; what follows is ten times as slow
    if any(value is not NONE and bytes(value) not in _EMPTY for value in (*marks, head.regex, head.ebnf)):
        return False
    if bytes(head.n) not in (b"null", b"1"):
        return False
    return msgspec.json.decode(head.response_format) in (None, {"type": "text"})


_ALL_ABSENT = (NONE,) * 6


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[dict[str, Any]] = ""


def _is_task(messages: msgspec.Raw) -> bool:
    """The shape of Open-WebUI's own requests. A chat with documents begins with the same heading, but streams."""
    try:
        found = msgspec.json.decode(messages, type=list[_Message])
    except msgspec.DecodeError:
        return False
    if len(found) != 1 or found[0].role != "user":
        return False
    content = found[0].content
    text = content if isinstance(content, str) else (content[0].get("text") if content else None)
    return isinstance(text, str) and text.startswith("### Task:\n")


def _refuse_duplicates(body: bytes | bytearray, messages: msgspec.Raw) -> None:
    """Two parsers may pick different ones of two equal keys, and the router must see what the upstream sees."""
    if len(body) < _QUICKLY_SEARCHED and not _is_suspicious(body):
        return
    outside = _without(body, messages)
    if not _is_suspicious(outside):
        return
    # Occurrences within values are common (a tool with a parameter "model"), so look at the keys themselves.
    keys = _top_level_keys(outside)
    for key in ("model", "stream", "stream_options"):
        if keys.count(key) > 1:
            raise InvalidRequest(f'cannot read the request: "{key}" is there twice; send it once', param=key)


def _is_suspicious(body: bytes | bytearray) -> bool:
    """Whether a key that matters may be there twice, or be hidden behind an escape."""
    return body.count(b'"model"') > 1 or body.count(b'"stream') > 1 or b"\\u00" in body


def _without(body: bytes | bytearray, messages: msgspec.Raw) -> bytes | bytearray:
    """The body with an empty list for its messages."""
    view = memoryview(messages)
    if view.nbytes < _WORTH_LEAVING_OUT:
        return body
    start = body.find(bytes(view[:_ENOUGH_TO_FIND]))
    return body[:start] + b"[]" + body[start + view.nbytes :]


def _top_level_keys(body: bytes | bytearray) -> list[str]:
    """Every key of the outermost object, as often as it is there: the hook is called for it last."""
    keys: list[str] = []

    def remember(pairs: list[tuple[str, object]]) -> None:
        keys[:] = [key for key, _ in pairs]

    try:
        json.loads(body, object_pairs_hook=remember)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"cannot read the request: {error}; send valid JSON") from None
    return keys


def _explain(body: bytes | bytearray, error: msgspec.DecodeError) -> InvalidRequest:
    """Which of the things that a body must be this one isn't."""
    if not body.strip():
        return InvalidRequest("cannot read the request: the body is empty; send a JSON object")
    try:
        raws = decode_raws(body)
    except msgspec.ValidationError:
        return InvalidRequest('cannot read the request: the body must be a JSON object, as {"model": …}')
    except (ValueError, RecursionError):
        return InvalidRequest(f"cannot read the request: {error}; send a JSON object")
    if bytes(raws.get("model", NONE)) in (b"null", b'""'):
        return _no_model()
    if not bytes(raws["model"]).startswith(b'"'):
        return InvalidRequest('cannot use "model": it must be a string, the name of a model', param="model")
    if "stream" in raws and bytes(raws["stream"]) not in (b"true", b"false", b"null"):
        return InvalidRequest('cannot use "stream": it must be true or false', param="stream")
    return InvalidRequest(f"cannot read the request: {error}; send a JSON object")


def _no_model() -> InvalidRequest:
    return InvalidRequest(
        'cannot tell which model to use: you must name a model in "model"; GET /v1/models lists them', param="model"
    )
