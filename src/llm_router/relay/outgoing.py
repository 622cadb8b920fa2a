"""The request as the inference server gets it: what the router changes in its body, and the head before it.

Counterparts: `request` and `body`, which read it; `exchange`, which sends it; `sse`, for the way back. Works on bytes
and touches only what it must: everything that isn't changed reaches the server as the bytes that the client sent,
numbers and white space included.
"""

from __future__ import annotations

import re

import msgspec

from llm_router.errors import InvalidRequest
from llm_router.relay.body import ESCAPED_MARK, NONE, PLAIN_MARK, Facts, Raws, decode_raws
from llm_router.relay.headers import RequestHead
from llm_router.relay.lease import Upstream
from llm_router.relay.request import Kind, Parameters, Request, Target
from llm_router.relay.status_text import clean

COUNTED = (Kind.CHAT, Kind.COMPLETION)
"""The kinds whose replies get figures."""

_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

# An ASCII letter written as an escape: nobody's encoder does that, but it could hide a key from a search of the bytes.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
_MODEL = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")')


def outgoing(target: Target, asked: Request, client: RequestHead, body: bytes, upstream: Upstream) -> bytes:
    """Head and body, ready to be sent. Raises: InvalidRequest, ConfigError."""
    facts = asked.facts
    if facts is not None:
        body = rewrite(
            body,
            facts,
            served_name=upstream.served_name,
            ask_usage=target.kind in COUNTED and (facts.stream or upstream.usage_on_request),
            parameters=asked.model.parameters,
        )
    block = client.block(host=upstream.host_header, content_length=len(body), credential=upstream.credential)
    return b"".join((target.method, b" ", upstream.base_path, target.path, b" HTTP/1.1\r\n", block, body))


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
        raws = decode_raws(body)
        if facts.has_marks and "messages" in raws:
            raws["messages"] = _clean_messages(raws["messages"])
        if parameters is not None:
            _apply(raws, parameters)
        if want_usage:
            raws["stream_options"] = _with_usage(raws.get("stream_options", NONE))
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
        if bytes(raws.get(key, NONE)) == b"null":
            raws[key] = msgspec.Raw(_encode(value))
    for key, value in parameters.overrides.items():
        raws[key] = msgspec.Raw(_encode(value))


def _with_usage(options: msgspec.Raw) -> msgspec.Raw:
    """The client's `stream_options`, with usage asked for."""
    wanted = {} if bytes(options) == b"null" else decode_raws(options)
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
        raws = decode_raws(message)
        if _decode_string(raws.get("role", NONE)) != "assistant":
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
    raws = decode_raws(part)
    if "text" not in raws:
        return part
    raws["text"] = msgspec.Raw(_encode(clean(_decode_string(raws["text"]))))
    return msgspec.Raw(_encode(raws))


def _has_mark(raw: msgspec.Raw) -> bool:
    value = bytes(raw)
    return PLAIN_MARK in value or ESCAPED_MARK in value
