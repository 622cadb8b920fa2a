"""Anthropic's Messages request in the words of OpenAI's chat completions. Counterpart: `anthropic_reply`.

What only makes sense at Anthropic (cache marks, metadata, service tiers, beta switches) is passed over. What can't be
kept without changing what the client meant (PDF files, tools that run at Anthropic) is refused by name.

What a model once wrote goes back as it was: neither the arguments of tool calls nor the schemas of tools are decoded,
so no number is rounded and no prefix cache is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llm_router.dialects.anthropic_words import (
    MOST_TOKENS,
    Base64,
    Block,
    Document,
    Image,
    KeptFile,
    Parts,
    Plain,
    Redacted,
    Request,
    SearchResult,
    Text,
    Thinking,
    ToolChoice,
    ToolReference,
    ToolResult,
    ToolSpec,
    ToolUse,
    Url,
)
from llm_router.dialects.completion import unreadable
from llm_router.dialects.prefill import begun_by
from llm_router.errors import InvalidRequest

# Claude Code puts this line before its system prompt, with another hash in each request: no prefix cache would match.
_BILLING = "x-anthropic-billing-header:"


class Asked(msgspec.Struct, frozen=True):
    """A translated request. `body`: for chat completions. `thinking`: the client wants to see the model think.

    `stops`: its stop sequences. `messages`, `tools`: what `body` has of them, for whoever counts their tokens.
    """

    model: str
    stream: bool
    thinking: bool
    stops: tuple[str, ...]
    body: bytes
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]

    @property
    def begun(self) -> str:
        """The answer's first words, where the client has put them into the model's mouth."""
        return begun_by(self.messages)


_decode = msgspec.json.Decoder(Request).decode
_encode = msgspec.json.Encoder().encode


def read(body: bytes, *, counting: bool = False) -> Asked:
    """`counting`: the question is how many tokens it has, so it may leave out how many there may be.

    Raises: InvalidRequest.
    """
    try:
        body.decode()  # the parser doesn't look at what it passes over
        asked = _decode(body)
    except (ValueError, RecursionError) as error:
        raise unreadable(error, "Anthropic's Messages API") from None
    if asked.max_tokens is None and not counting:
        raise InvalidRequest(
            'cannot use this request: "max_tokens" is missing; say how long the answer may be', param="max_tokens"
        )
    if asked.mcp_servers:
        raise InvalidRequest(
            'cannot use "mcp_servers": Anthropic connects to those; connect to them in the client', param="mcp_servers"
        )
    thinking = asked.thinking is not None and asked.thinking.type != "disabled" and asked.thinking.display != "omitted"
    messages, tools = _messages(asked), [_tool(tool) for tool in asked.tools or ()]
    translated = {"model": asked.model, "messages": messages, **_limits(asked), **_manner(asked)}
    if tools:
        translated |= {"tools": tools, **_choice(asked.tool_choice)}
    return Asked(
        model=asked.model,
        stream=asked.stream is True,
        thinking=thinking,
        stops=tuple(asked.stop_sequences or ()),
        body=_encode(translated),
        messages=messages,
        tools=tools,
    )


# -- what is said


def _messages(asked: Request) -> list[dict[str, Any]]:
    """Few chat templates take a system message after the first one, so a later one is said by the user, in the tag in
    which Claude Code itself puts such things."""
    system = [asked.system] if isinstance(asked.system, str) else [block.text for block in asked.system or ()]
    found: list[dict[str, Any]] = []
    for message in asked.messages:
        blocks: Sequence[Block] = [Text(message.content)] if isinstance(message.content, str) else message.content
        match message.role:
            case "assistant":
                found.append(_assistant(blocks))
            case "system" if not found:
                system += [block.text for block in blocks if isinstance(block, Text)]
            case "system":
                _add_user(found, [_reminder(block) for block in blocks if isinstance(block, Text)])
            case _:
                _add_user(found, blocks)
    texts = [text for text in map(_without_billing, system) if text]
    return [{"role": "system", "content": "\n".join(texts)}, *found] if texts else found


def _without_billing(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(_BILLING) else text


def _reminder(block: Text) -> Text:
    return Text(f"<system-reminder>\n{block.text}\n</system-reminder>")


def _add_user(found: list[dict[str, Any]], blocks: Sequence[Block]) -> None:
    """Results of tools come first, each as a message of its own, whatever stands around them. What the user says twice
    in a row is one message: many chat templates want the roles to alternate."""
    parts: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, ToolResult):
            text, pictures = _result(block)
            found.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
            shown += pictures
        else:
            parts += _part(block, "a user's message")
    parts = shown + parts
    if not parts and any(isinstance(block, ToolResult) for block in blocks):
        return
    if found and found[-1]["role"] == "user":
        parts = _as_parts(found.pop()["content"]) + parts
    found.append({"role": "user", "content": _joined(parts)})


def _as_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _joined(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Plain text where there is nothing else: every server and template takes that."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(block: Block, place: str) -> list[dict[str, Any]]:
    match block:
        case Text(text=text):
            return [{"type": "text", "text": text}]
        case Image(source=source):
            return [{"type": "image_url", "image_url": {"url": _address(source)}}]
        case Document():
            return _document(block)
        case SearchResult(source=source, title=title, content=content):
            text = "\n".join([f"{title} ({source})", *(part.text for part in content)])
            return [{"type": "text", "text": text}]
        case _:
            raise _misplaced(block, place)


def _misplaced(block: Block, place: str) -> InvalidRequest:
    kind = type(block).__struct_config__.tag
    return InvalidRequest(f'cannot use a block of type "{kind}" in {place}: leave it out', param="messages")


def _address(source: Base64 | Url | KeptFile) -> str:
    match source:
        case Base64(media_type=media_type, data=data):
            return f"data:{media_type};base64,{data}"
        case Url(url=url):
            return url
        case _:
            raise InvalidRequest("cannot use a file that is kept at Anthropic: send its content", param="messages")


def _document(block: Document) -> list[dict[str, Any]]:
    title = [{"type": "text", "text": block.title}] if block.title else []
    match block.source:
        case Plain(data=data):
            return [*title, {"type": "text", "text": data}]
        case Parts(content=str(text)):
            return [*title, {"type": "text", "text": text}]
        case Parts(content=list(blocks)):
            return title + [part for inner in blocks for part in _part(inner, "a document")]
        case _:
            raise InvalidRequest(
                "cannot read a document of this kind: send its text, or its pages as images", param="messages"
            )


def _result(block: ToolResult) -> tuple[str, list[dict[str, Any]]]:
    """The text of a tool's result, and its pictures: a tool's message has no place for them, so the user shows them."""
    parts: list[dict[str, Any]] = []
    if isinstance(block.content, str):
        parts.append({"type": "text", "text": block.content})
    for inner in block.content if isinstance(block.content, list) else ():
        if isinstance(inner, ToolReference):
            parts.append({"type": "text", "text": inner.tool_name})
        else:
            parts += _part(inner, "a tool's result")
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    if block.is_error and not text.lower().startswith(("error", "<tool_use_error")):
        text = f"Error: {text}"
    return text, [part for part in parts if part["type"] != "text"]


def _assistant(blocks: Sequence[Block]) -> dict[str, Any]:
    """Thinking goes back too: between the calls of tools many models need it, and the templates of the others leave it
    out."""
    texts = [block.text for block in blocks if isinstance(block, Text)]
    thoughts = [block.thinking for block in blocks if isinstance(block, Thinking) and block.thinking]
    calls = [_call(block) for block in blocks if isinstance(block, ToolUse)]
    for block in blocks:
        if not isinstance(block, Text | Thinking | Redacted | ToolUse):
            raise _misplaced(block, "an assistant's message")
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: ToolUse) -> dict[str, Any]:
    arguments = _encode(block.input).decode()
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


# -- what is wanted


def _limits(asked: Request) -> dict[str, Any]:
    found: dict[str, Any] = {
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "stop": asked.stop_sequences or None,
        "stream": asked.stream,
        "user": asked.metadata.user_id if asked.metadata is not None else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _manner(asked: Request) -> dict[str, Any]:
    """How to think, and in which form to answer. A model that isn't told whether to think does as it usually does."""
    found: dict[str, Any] = {}
    thinking, output = asked.thinking, asked.output_config
    if thinking is not None:
        found["chat_template_kwargs"] = {"enable_thinking": thinking.type != "disabled"}
        if thinking.type == "enabled" and thinking.budget_tokens is not None:
            found["thinking_budget_tokens"] = max(0, min(thinking.budget_tokens, MOST_TOKENS))
    if output is not None and output.effort is not None:
        found["reasoning_effort"] = output.effort if output.effort in ("low", "medium") else "high"
    form = asked.output_format or (output.format if output is not None else None)
    if form is not None:
        if form.type != "json_schema" or form.schema is None:
            raise InvalidRequest(
                'cannot use this output format: it is {"type": "json_schema", "schema": …}', param="output_config"
            )
        schema = {"name": "output", "schema": form.schema, "strict": True}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    return found


def _tool(tool: ToolSpec) -> dict[str, Any]:
    if tool.input_schema is None or tool.type not in (None, "custom"):
        raise InvalidRequest(
            f'cannot use the tool "{tool.name[:100]}" of type "{(tool.type or "")[:100]}": only Anthropic\'s '
            'own models know it; describe it with an "input_schema", or leave it out',
            param="tools",
        )
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    one_by_one = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    match choice.type:
        case "any":
            return {"tool_choice": "required", **one_by_one}
        case "tool":
            if not choice.name:
                raise InvalidRequest('cannot use this "tool_choice": name the tool', param="tool_choice")
            return {"tool_choice": {"type": "function", "function": {"name": choice.name}}, **one_by_one}
        case kind:
            return {"tool_choice": kind, **one_by_one}
