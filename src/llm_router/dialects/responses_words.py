"""What is in OpenAI's Responses requests, as far as it is translated. Counterpart: `responses_request`."""

from __future__ import annotations

from typing import Any

import msgspec

NULL = msgspec.Raw(b"null")


class Part(msgspec.Struct):
    """A piece of a message. `text`, also of a `refusal`, an `image_url` or an `input_audio` object."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    input_audio: dict[str, Any] | None = None


class Item(msgspec.Struct):
    """One of the conversation: a message, a call of a tool, its result, or what the model thought."""

    type: str = "message"
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    summary: list[Part] | None = None


class Format(msgspec.Struct):
    type: str = "text"
    name: str = "output"
    description: str | None = None
    schema: msgspec.Raw = NULL
    strict: bool | None = None


class Text(msgspec.Struct):
    format: Format = msgspec.field(default_factory=Format)
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    effort: str | None = None


class Tool(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = NULL
    strict: bool | None = None


class Request(msgspec.Struct):
    """The keys that are translated."""

    model: str
    input: str | list[Item] | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
