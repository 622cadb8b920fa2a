"""OpenAI's replies as the other dialects read them: what they have a word for, and no more.

Replies come from the relay, so they are in order already: figures in the chunk with the finish, one name for reasoning,
one shape for errors.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_router.errors import InvalidRequest, UpstreamGarbage


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """Whole, or a piece of one: then `index` says of which."""

    index: int | None = None
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Said(msgspec.Struct):
    """A message, or a piece of one."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct):
    """`delta`: in a stream, `message`: in one piece, `text`: of a text completion. The last three are what servers call
    the stop text that ended the answer (SGLang, vLLM, TabbyAPI); the first two also put a token's number there."""

    delta: Said | None = None
    message: Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    matched_stop: Any = None
    stop_reason: Any = None
    stop_str: Any = None

    @property
    def said(self) -> Said:
        return self.delta or self.message or Said(content=self.text)

    @property
    def stopped_by(self) -> str | None:
        found = (self.matched_stop, self.stop_reason, self.stop_str)
        return next((stop for stop in found if isinstance(stop, str) and stop), None)


class Cached(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Cached | None = None


class Timings(msgspec.Struct):
    """llama.cpp's; milliseconds."""

    cache_n: int | None = None
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class Problem(msgspec.Struct):
    """What went wrong. `n_prompt_tokens`, `n_ctx`: where the prompt is longer than the context."""

    message: str
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class Completion(msgspec.Struct):
    """A reply in one piece, or a chunk of one. `error`: instead of all the rest."""

    choices: list[Choice] = []
    usage: Usage | None = None
    timings: Timings | None = None
    error: Problem | None = None

    @property
    def choice(self) -> Choice | None:
        """The dialects have one answer to a question."""
        return self.choices[0] if self.choices else None

    @property
    def cached_tokens(self) -> int:
        details = None if self.usage is None else self.usage.prompt_tokens_details
        if details is not None and details.cached_tokens is not None:
            return details.cached_tokens
        return (self.timings.cache_n or 0) if self.timings is not None else 0


_decode = msgspec.json.Decoder(Completion).decode
_UNREADABLE = "cannot read the answer of the inference server: {}; look at its log"


def read(payload: bytes) -> Completion:
    """A chunk or a reply. One that can't be read is a problem like any other, and says so."""
    try:
        return _decode(payload)
    except (ValueError, RecursionError) as error:
        return Completion(error=Problem(message=_UNREADABLE.format(error), code="upstream_garbage"))


def read_whole(body: bytes) -> Completion:
    """Raises: UpstreamGarbage where there is no answer in it."""
    completion = read(body)
    if completion.error is not None:
        raise UpstreamGarbage(completion.error.message)
    if completion.choice is None:
        raise UpstreamGarbage(_UNREADABLE.format("it has no choices"))
    return completion


def problem(body: bytes) -> Problem:
    """What an error reply says, in OpenAI's shape."""
    found = read(body).error
    return found if found is not None else Problem(message="cannot tell what went wrong: the reply doesn't say")


def unreadable(error: Exception, dialect: str) -> InvalidRequest:
    """What is wrong with a request, as the parser says it: what it expected, and where."""
    if isinstance(error, RecursionError):
        return InvalidRequest("cannot read the request: it is nested too deeply; send a flatter body")
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest("cannot read the request: it is not valid UTF-8; encode the body as UTF-8")
    return InvalidRequest(f"cannot read the request: {str(error)[:300]}; send JSON as {dialect} describes it")
