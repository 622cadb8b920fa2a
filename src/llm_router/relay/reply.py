"""A reply in one piece, on its way from the inference server to the client: it gets exact figures.

Counterpart: `sse`, for streamed replies. Nearly every reply is of one of two kinds, which cost a partial decode and at
most a splice: complete as it came, or with `usage` and no `timings`. The rest is taken apart as a stream's chunk is.
"""

from __future__ import annotations

import msgspec

from llm_router.relay import usage as tokens
from llm_router.relay.chunk import Chunk, Naming, Raws, decode_object, decoded, is_said, opened, raw, read_chunk
from llm_router.relay.status_text import marked

_CHARACTERS_A_TOKEN = 4  # the estimate for a server that counts nothing


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Timings(msgspec.Struct, gc=False):
    predicted_n: int
    predicted_ms: float


class _Plain(msgspec.Struct, gc=False):
    """What a usual reply says of its figures, and the keys that make it an unusual one."""

    choices: list[msgspec.Raw]
    usage: _Usage
    timings: _Timings | msgspec.UnsetType = msgspec.UNSET
    event: msgspec.UnsetType = msgspec.UNSET
    selected_model_id: msgspec.UnsetType = msgspec.UNSET
    sources: msgspec.UnsetType = msgspec.UNSET
    done: msgspec.UnsetType = msgspec.UNSET
    output: msgspec.UnsetType = msgspec.UNSET
    content: msgspec.UnsetType = msgspec.UNSET
    type: msgspec.UnsetType = msgspec.UNSET
    model_name: msgspec.UnsetType = msgspec.UNSET
    error: msgspec.UnsetType = msgspec.UNSET


# `usage.timings_of` in one step, for what is nearly every reply.
_TIMINGS = (
    b',"timings":{"cache_n":%d,"prompt_n":%d,"predicted_n":%d,"predicted_ms":%.3f,'
    b'"predicted_per_token_ms":%.3f,"predicted_per_second":%.3f}}'
)
_decode_plain = msgspec.json.Decoder(_Plain).decode


def rewrite_reply(
    body: bytes, *, chat: bool, performance: bool, sent_at: float, now: float, names: Naming | None = None
) -> tuple[bytes, int, int]:
    """The reply with usage and timings, and the performance line at the end of its first message; and how many tokens
    the prompt and the answer had.

    The same object where nothing is to change, or where it is no completion (an error, or not JSON at all), and then no
    tokens. Seconds.
    Nothing says when the prompt was done, so `timings` made here count the whole time and leave the prompt's out.
    A server that counts nothing gets an estimate of four characters a token.
    """
    predicted_ms = (now - sent_at) * 1000
    if not performance and names is None:
        quick = _quickly(body, predicted_ms)
        if quick is not None:
            return quick
    try:
        top = decode_object(body)
    except RecursionError:
        return body, 0, 0
    if top is None or not is_said(top, "choices"):
        return body, 0, 0
    chunk = read_chunk(top, reasoning="message", names=names)
    if chunk.choices is None:
        return body, 0, 0
    figures = tokens.figures(
        chunk.usage,
        chunk.timings,
        counted=-(-len(_text_of(chunk)) // _CHARACTERS_A_TOKEN),
        measured_prompt_ms=None,
        measured_predicted_ms=predicted_ms,
    )
    counts = figures.usage["prompt_tokens"], figures.usage["completion_tokens"]
    if tokens.normalise(chunk.usage) and chunk.timings and not chunk.changed and not performance:
        return body, *counts
    if chat and performance and figures.predicted_n > 1:
        _append(chunk.choices[0], marked("\n\n" + figures.line()))
    return chunk.encoded(usage=figures.usage, timings=figures.timings), *counts


def _quickly(body: bytes, predicted_ms: float) -> tuple[bytes, int, int] | None:
    """A usual reply with its figures, and its tokens; None if it isn't one."""
    try:
        plain = _decode_plain(body)
    except (ValueError, RecursionError):
        return None
    if not plain.choices or b'"reasoning"' in body or not body.endswith(b"}"):
        return None
    usage, details = plain.usage, plain.usage.prompt_tokens_details
    count = usage.completion_tokens
    if count < 0 or usage.prompt_tokens < 0:
        return None
    if plain.timings is not msgspec.UNSET:
        return body, usage.prompt_tokens, count
    if count == 0 or predicted_ms <= 0:
        return None
    cached = (details.cached_tokens or 0) if details is not None else 0
    rates = (predicted_ms, predicted_ms / count, count * 1000 / predicted_ms)
    timings = _TIMINGS % (cached, max(0, usage.prompt_tokens - cached), count, *rates)
    return body[:-1] + timings, usage.prompt_tokens, count


def _text_of(chunk: Chunk) -> str:
    """All that the model wrote, as far as it is text."""
    texts = []
    for choice in chunk.choices or ():
        where = opened(choice.get("message")) or choice
        texts += [decoded(where[key]) for key in ("reasoning_content", "content", "text") if key in where]
    return "".join(text for text in texts if isinstance(text, str))


def _append(choice: Raws, text: str) -> None:
    message = opened(choice.get("message"))
    content = decoded(message["content"]) if message is not None and "content" in message else None
    if message is not None and isinstance(content, str):
        choice["message"] = raw(message | {"content": raw(content + text)})
