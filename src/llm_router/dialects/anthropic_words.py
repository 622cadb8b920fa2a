"""What is in a Messages request of Anthropic's, as far as it means something here. Counterpart: `anthropic_request`.

Keys that aren't here are passed over; a block of another type is refused by the parser, which names it and its place.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MOST_TOKENS = 2**31 - 1


class Text(msgspec.Struct, tag="text"):
    text: str


class Base64(msgspec.Struct, tag="base64"):
    media_type: str
    data: str


class Url(msgspec.Struct, tag="url"):
    url: str


class KeptFile(msgspec.Struct, tag="file"):
    """Kept at Anthropic."""


class Plain(msgspec.Struct, tag="text"):
    data: str


class Image(msgspec.Struct, tag="image"):
    source: Base64 | Url | KeptFile


class Parts(msgspec.Struct, tag="content"):
    content: str | list[Text | Image]


class Document(msgspec.Struct, tag="document"):
    source: Plain | Parts | Base64 | Url | KeptFile
    title: str | None = None


class SearchResult(msgspec.Struct, tag="search_result"):
    source: str = ""
    title: str = ""
    content: list[Text] = []


class ToolReference(msgspec.Struct, tag="tool_reference"):
    tool_name: str


class ToolUse(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, msgspec.Raw] = {}


class ToolResult(msgspec.Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[Text | Image | Document | SearchResult | ToolReference] | None = None
    is_error: bool | None = None


class Thinking(msgspec.Struct, tag="thinking"):
    thinking: str = ""


class Redacted(msgspec.Struct, tag="redacted_thinking"):
    """Readable at Anthropic alone."""


Block = Text | Image | Document | SearchResult | ToolUse | ToolResult | Thinking | Redacted


class Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolSpec(msgspec.Struct):
    """`type`: "custom", or one of Anthropic's own tools, which nobody else can run."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, msgspec.Raw] | None = None
    strict: bool | None = None


class ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingMode(msgspec.Struct):
    """`display`: "omitted" where the client doesn't want to see it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct):
    type: str
    schema: dict[str, msgspec.Raw] | None = None


class Output(msgspec.Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct):
    user_id: str | None = None


class Request(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)] | None = None
    system: str | list[Text] | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingMode | None = None
    output_config: Output | None = None
    output_format: OutputFormat | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=MOST_TOKENS)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    mcp_servers: list[msgspec.Raw] | None = None
