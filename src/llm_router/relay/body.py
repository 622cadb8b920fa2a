"""The request's body: what the router must know of it, and what it changes before the body goes upstream.

Counterpart: `sse`, for the way back. Works on bytes and touches only what it must: everything that isn't changed
reaches the inference server as the bytes that the client sent, numbers and white space included. Searching a body for
a word costs more than decoding it, so `read` looks once and leaves in its `Facts` what `rewrite` needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from llm_router.errors import InvalidRequest
from llm_router.relay.status_text import MARK, clean

Raws = dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a model's configuration does to top-level keys of a request: `removals` first, then `defaults` where the
    client said nothing (or null), then `overrides`. Values are anything that JSON has."""

    defaults: Mapping[str, object]
    overrides: Mapping[str, object]
    removals: tuple[str, ...]


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


_NONE = msgspec.Raw(b"null")


class _Head(msgspec.Struct, gc=False):
    model: str
    stream: bool | None = None
    stream_options: msgspec.Raw = _NONE
    messages: msgspec.Raw = _NONE
    n: msgspec.Raw = _NONE
    tools: msgspec.Raw = _NONE
    functions: msgspec.Raw = _NONE
    response_format: msgspec.Raw = _NONE
    # Forced formats in the engines' own words: llama.cpp, vLLM, SGLang.
    grammar: msgspec.Raw = _NONE
    json_schema: msgspec.Raw = _NONE
    structured_outputs: msgspec.Raw = _NONE
    guided_json: msgspec.Raw = _NONE
    regex: msgspec.Raw = _NONE
    ebnf: msgspec.Raw = _NONE


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_raws = msgspec.json.Decoder(Raws).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

# An ASCII letter written as an escape: nobody's encoder does that, but it could hide a key from a search of the bytes.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
_MODEL = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")')
_TASK = b"### Task:"
_TASK_WITHIN = 512  # bytes from the start of the messages: the heading is the first thing in the only one
_MARK = MARK.encode()
_ESCAPED_MARK = b"\\u2063"
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
        include_usage=head.stream_options is not _NONE and _asks_usage(head.stream_options),
        plain=_is_plain(head),
        background=not stream and _TASK in bytes(memoryview(head.messages)[:_TASK_WITHIN]) and _is_task(head.messages),
        has_options=head.stream_options is not _NONE,
        has_marks=_has_escaped_mark(body) or (not ascii_only and _MARK in body),
    )


def rewrite(
    body: bytes | bytearray,
    facts: Facts,
    *,
    served_name: str | None,
    ask_usage: bool,
    parameters: Parameters | None,
) -> bytes:
    """The body that is sent upstream; the same object where nothing is to change.

    `served_name`: the name the upstream insists on. `ask_usage`: have usage in the reply, asked for or not.
    `parameters`: the model's own. The router's own text is taken out of assistant messages. Values that aren't
    changed are copied as bytes and never decoded, so no number is rounded.

    Raises: InvalidRequest for what `read` lets pass unread and can't be decoded here.
    """
    rename = served_name if served_name != facts.model else None
    want_usage = ask_usage and not facts.include_usage
    if rename is None and not want_usage and not facts.has_marks and parameters is None:
        return bytes(body)
    if not facts.has_marks and parameters is None and not (want_usage and facts.has_options):
        spliced = _splice(bytes(body), rename, want_usage)
        if spliced is not None:
            return spliced
    try:
        raws = _decode_raws(body)
        if facts.has_marks and "messages" in raws:
            raws["messages"] = _clean_messages(raws["messages"])
        if parameters is not None:
            _apply(raws, parameters)
        if want_usage:
            raws["stream_options"] = _with_usage(raws.get("stream_options", _NONE))
        if rename is not None:
            raws["model"] = msgspec.Raw(_encode(rename))
        return _encode(raws)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"cannot read the request: {error}; send valid JSON") from None


def _splice(body: bytes, rename: str | None, want_usage: bool) -> bytes | None:
    """The cheap way: put the new bytes between the old ones. None where it isn't certain what they'd mean there."""
    if rename is not None:
        # Once in the whole body, and `read` found the key: then this is it, and not something within a message.
        found = _MODEL.search(body) if body.count(b'"model"') == 1 and not _ESCAPED_LETTER.search(body) else None
        if found is None:
            return None
        body = body[: found.start(1)] + _encode(rename) + body[found.end(1) :]
    if want_usage:
        start = body.index(b"{") + 1
        body = body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]
    return body


def _apply(raws: Raws, parameters: Parameters) -> None:
    for key in parameters.removals:
        raws.pop(key, None)
    for key, value in parameters.defaults.items():
        if bytes(raws.get(key, _NONE)) == b"null":
            raws[key] = msgspec.Raw(_encode(value))
    for key, value in parameters.overrides.items():
        raws[key] = msgspec.Raw(_encode(value))


def _with_usage(options: msgspec.Raw) -> msgspec.Raw:
    """The client's `stream_options`, with usage asked for."""
    wanted = {} if bytes(options) == b"null" else _decode_raws(options)
    wanted["include_usage"] = msgspec.Raw(b"true")
    return msgspec.Raw(_encode(wanted))


def _clean_messages(messages: msgspec.Raw) -> msgspec.Raw:
    try:
        items = _decode_list(messages)
    except msgspec.DecodeError:
        return messages  # not a list: the server's to refuse
    return msgspec.Raw(_encode([_clean_message(item) if _has_mark(item) else item for item in items]))


def _clean_message(message: msgspec.Raw) -> msgspec.Raw:
    """An assistant's message without the router's text; any other message, and one of an unknown shape, as it is."""
    try:
        raws = _decode_raws(message)
        if _decode_string(raws.get("role", _NONE)) != "assistant":
            return message
    except msgspec.DecodeError:
        return message
    for key in ("content", "reasoning_content", "reasoning"):
        if key in raws and _has_mark(raws[key]):
            raws[key] = _clean_content(raws[key])
    return msgspec.Raw(_encode(raws))


def _clean_content(content: msgspec.Raw) -> msgspec.Raw:
    """A string, or a list of parts of which those with a `text` are cleaned."""
    try:
        if not bytes(content).startswith(b"["):
            return msgspec.Raw(_encode(clean(_decode_string(content))))
        return msgspec.Raw(_encode([_clean_part(part) for part in _decode_list(content)]))
    except msgspec.DecodeError:
        return content


def _clean_part(part: msgspec.Raw) -> msgspec.Raw:
    if not _has_mark(part):
        return part
    raws = _decode_raws(part)
    if "text" not in raws:
        return part
    raws["text"] = msgspec.Raw(_encode(clean(_decode_string(raws["text"]))))
    return msgspec.Raw(_encode(raws))


def _has_mark(raw: msgspec.Raw) -> bool:
    value = bytes(raw)
    return _MARK in value or _ESCAPED_MARK in value


def _asks_usage(options: msgspec.Raw) -> bool:
    if bytes(options) == b"null":
        return False
    try:
        return bytes(_decode_raws(options).get("include_usage", _NONE)) == b"true"
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
        if body.startswith(_ESCAPED_MARK, at):
            return True
        at = body.find(_BACKSLASH, at + 1)
    return body.find(_ESCAPED_MARK, max(at, 0)) >= 0


_BACKSLASH = 0x5C
_BACKSLASHES = 32
_EMPTY = (b"null", b"[]", b"{}", b'""')


def _is_plain(head: _Head) -> bool:
    marks = (head.tools, head.functions, head.grammar, head.json_schema, head.structured_outputs, head.guided_json)
    if marks == _ALL_ABSENT and head.regex is head.ebnf is head.n is head.response_format is _NONE:
        return True  # nearly always; what follows is ten times as slow
    if any(value is not _NONE and bytes(value) not in _EMPTY for value in (*marks, head.regex, head.ebnf)):
        return False
    if bytes(head.n) not in (b"null", b"1"):
        return False
    return msgspec.json.decode(head.response_format) in (None, {"type": "text"})


_ALL_ABSENT = (_NONE,) * 6


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
        raws = _decode_raws(body)
    except msgspec.ValidationError:
        return InvalidRequest('cannot read the request: the body must be a JSON object, as {"model": …}')
    except (ValueError, RecursionError):
        return InvalidRequest(f"cannot read the request: {error}; send a JSON object")
    if bytes(raws.get("model", _NONE)) in (b"null", b'""'):
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
