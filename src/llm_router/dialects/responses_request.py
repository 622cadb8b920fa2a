"""OpenAI's Responses request in the words of its chat completions. Counterparts: `responses_words`, which it reads;
`responses_reply`.

For servers that only chat. What they can't keep is refused by name: stored conversations, files, prompts kept
elsewhere. Tools that would run at OpenAI are left out, as if the model had no use for them: agents declare them always.
Keys that neither API knows go on as they are, which is how servers' own parameters reach them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_router.dialects.completion import unreadable
from llm_router.dialects.responses_words import Format, Item, Part, Request, Tool
from llm_router.errors import InvalidRequest

Raws = dict[str, msgspec.Raw]

_decode_raws = msgspec.json.Decoder(Raws).decode
_encode = msgspec.json.Encoder().encode
_NOTHING = (b"null", b"false", b"[]", b"{}", b'""')

# What the reply repeats of the request, and what stands there if it said nothing.
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_NEEDS_A_STORE = {
    "previous_response_id": 'send the whole conversation in "input"',
    "conversation": 'send the whole conversation in "input"',
    "prompt": 'send its text in "instructions"',
    "background": "leave it out and wait for the answer",
}
# Not for chat completions, and without effect on the answer.
_DROPPED = frozenset({"include", "store", "metadata", "truncation", "user", "safety_identifier", "service_tier"}) | {
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "max_tool_calls",
    "client_metadata",
}
_TASK = "### Task:\n"
_SAME = ("model", "stream", "temperature", "top_p")


class Asked(msgspec.Struct, frozen=True):
    """A translated request. `body`: for chat completions. `echo`: what the reply repeats of it."""

    model: str
    stream: bool
    body: bytes
    echo: dict[str, Any]


_decode_known = msgspec.json.Decoder(Request).decode
_TRANSLATED = frozenset(Request.__struct_fields__) - set(_SAME)


def read(body: bytes) -> Asked:
    """Raises: InvalidRequest."""
    try:
        body.decode()  # the parser doesn't look at what it passes over
        known, raws = _decode_known(body), _decode_raws(body)
        echo = {key: msgspec.json.decode(raws[key]) if _is_said(raws, key) else value for key, value in _ECHOED.items()}
    except (ValueError, RecursionError) as error:
        raise unreadable(error, "OpenAI's Responses API") from None
    for key, remedy in _NEEDS_A_STORE.items():
        if _is_said(raws, key):
            raise InvalidRequest(f'cannot use "{key}": nothing is stored here; {remedy}', param=key)
    further = {key: raw for key, raw in raws.items() if key not in _TRANSLATED and key not in _DROPPED | set(_SAME)}
    translated = {
        **{key: raw for key, raw in further.items() if key not in _NEEDS_A_STORE and key != "stream_options"},
        **{key: raws[key] for key in _SAME if key in raws},
        "messages": _messages(known),
        **_manner(known),
        **_tools(known),
    }
    return Asked(model=known.model, stream=known.stream is True, body=_encode(translated), echo=echo)


def is_task(body: bytes) -> bool:
    """Whether it has the shape of Open-WebUI's own requests: not streamed, and all that is said begins with a task."""
    if b"### Task:" not in body:
        return False
    try:
        known = _decode_known(body)
    except (ValueError, RecursionError):
        return False
    if known.stream or not known.input:
        return False
    if isinstance(known.input, str):
        return known.input.startswith(_TASK)
    item = known.input[0]
    if len(known.input) != 1 or item.role != "user":
        return False
    return (item.content if isinstance(item.content, str) else _joined(item.content)).startswith(_TASK)


def _is_said(raws: Raws, key: str) -> bool:
    return key in raws and bytes(raws[key]) not in _NOTHING


def _manner(known: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if known.max_output_tokens is not None:
        found["max_tokens"] = known.max_output_tokens
    if known.reasoning is not None and known.reasoning.effort is not None:
        found["reasoning_effort"] = known.reasoning.effort
    if known.top_logprobs or "message.output_text.logprobs" in (known.include or ()):
        found |= {"logprobs": True, "top_logprobs": known.top_logprobs or 0}
    wanted = Format() if known.text is None else known.text.format
    match wanted.type:
        case "text":
            pass
        case "json_object":
            found["response_format"] = {"type": "json_object"}
        case "json_schema":
            schema = {
                "name": wanted.name,
                "schema": {} if bytes(wanted.schema) == b"null" else wanted.schema,
                "strict": wanted.strict,
            }
            found["response_format"] = {"type": "json_schema", "json_schema": _without_none(schema)}
        case other:
            raise InvalidRequest(
                f'cannot use the text format "{other[:100]}": it is text, json_object or json_schema',
                param="text.format",
            )
    return found


def _tools(known: Request) -> dict[str, Any]:
    tools = [_tool(tool) for tool in known.tools or () if tool.type == "function"]
    if not tools:
        return {}
    found: dict[str, Any] = {"tools": tools}
    if known.parallel_tool_calls is not None:
        found["parallel_tool_calls"] = known.parallel_tool_calls
    match known.tool_choice:
        case None:
            pass
        case str(choice):
            found["tool_choice"] = choice
        case {"type": "function", "name": str(name)}:
            found["tool_choice"] = {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": str(mode)}:
            found["tool_choice"] = mode
        case _:
            raise InvalidRequest(
                'cannot use this "tool_choice": it is none, auto, required or a function of "tools"',
                param="tool_choice",
            )
    return found


def _tool(tool: Tool) -> dict[str, Any]:
    about = {
        "name": tool.name,
        "description": tool.description,
        "parameters": {"type": "object", "properties": {}} if bytes(tool.parameters) == b"null" else tool.parameters,
        "strict": tool.strict,
    }
    return {"type": "function", "function": _without_none(about)}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


# -- what is said


def _messages(known: Request) -> list[dict[str, Any]]:
    """Few chat templates take more than one system message, so those at the start become one."""
    found: list[dict[str, Any]] = []
    if known.instructions:
        found.append({"role": "system", "content": known.instructions})
    if isinstance(known.input, str):
        found.append({"role": "user", "content": known.input})
    else:
        for item in known.input or ():
            _add(found, item)
    if not any(message["role"] != "system" for message in found):
        raise InvalidRequest('cannot answer this: "input" is empty; send a text or a list of messages', param="input")
    return found


def _add(found: list[dict[str, Any]], item: Item) -> None:
    match item.type:
        case "message":
            _add_message(found, item)
        case "reasoning":
            texts = item.content if isinstance(item.content, list) else item.summary
            found.append({"role": "assistant", "content": "", "reasoning_content": _joined(texts)})
        case "function_call":
            function = {"name": item.name or "", "arguments": item.arguments or "{}"}
            call = {"id": item.call_id or "", "type": "function", "function": function}
            _open_turn(found).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            output = item.output if isinstance(item.output, str) else _joined(item.output)
            found.append({"role": "tool", "tool_call_id": item.call_id or "", "content": output})
        case other:
            raise InvalidRequest(
                f'cannot use an input item of type "{other[:100]}": send messages, function calls and their outputs',
                param="input",
            )


def _add_message(found: list[dict[str, Any]], item: Item) -> None:
    content = item.content if isinstance(item.content, str) else [_part(part) for part in item.content or ()]
    match item.role:
        case "system" | "developer":
            text = content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)
            if found and all(message["role"] == "system" for message in found):
                found[-1]["content"] += "\n\n" + text
            else:
                found.append({"role": "system", "content": text})
        case "assistant":
            text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
            turn = _open_turn(found, only_thought=True)
            turn["content"] = text
        case "user":
            found.append({"role": "user", "content": content})
        case other:
            raise InvalidRequest(
                f'cannot use the role "{str(other)[:100]}": it is user, assistant, system or developer', param="input"
            )


def _open_turn(found: list[dict[str, Any]], *, only_thought: bool = False) -> dict[str, Any]:
    """The assistant's message that is being put together: thinking, text and calls are items of their own here.
    `only_thought`: nothing but thinking may be in it yet."""
    last = found[-1] if found else {"role": ""}
    is_open = last["role"] == "assistant" and not (only_thought and (last["content"] or "tool_calls" in last))
    if not is_open:
        last = {"role": "assistant", "content": ""}
        found.append(last)
    return last


def _joined(parts: list[Part] | None) -> str:
    return "".join(part.text or "" for part in parts or ())


def _part(part: Part) -> dict[str, Any]:
    match part.type:
        case "input_text" | "output_text" | "text" | "summary_text":
            return {"type": "text", "text": part.text or ""}
        case "refusal":
            return {"type": "text", "text": part.refusal or ""}
        case "input_image" if part.image_url is not None:
            return {"type": "image_url", "image_url": _without_none({"url": part.image_url, "detail": part.detail})}
        case "input_audio" if part.input_audio is not None:
            return {"type": "input_audio", "input_audio": part.input_audio}
        case other:
            raise InvalidRequest(
                f'cannot use content of type "{other[:100]}": send text, or images as data URLs', param="input"
            )
