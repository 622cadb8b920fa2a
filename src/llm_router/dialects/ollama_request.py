"""Ollama's chat, generate and embed requests in OpenAI's words. Counterpart: `ollama_reply`.

Options that shape how Ollama itself runs a model (`num_ctx`, `num_gpu`, …) are passed over: the configuration says how
the model runs. The others go on under the names that the inference servers have for them.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from llm_router.dialects.completion import unreadable
from llm_router.dialects.ollama_words import AS_THEY_ARE, Asking, Chat, Embed, Generate, Message, Options, Speaking
from llm_router.dialects.prefill import begun_by
from llm_router.errors import InvalidRequest

_LATEST = ":latest"
# How an image file begins, in base64.
_IMAGES = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lG": "image/gif", "UklG": "image/webp", "Qk": "image/bmp"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A translated request. `model`: as the client calls it. `keep_alive_s`: how long the model is to stay after it:
    0: not at all; negative: for ever; None: as configured.

    `body`: for OpenAI's endpoint, with `model` as the name it is to be known by there; None: the client only wants the
    model loaded, or gone. `plain`: it is a text completion, else a chat. `thinking`: the client wants to see it.
    `begun`: the answer's first words, where the client has put them into the model's mouth.
    """

    model: str
    keep_alive_s: float | None
    body: bytes | None
    stream: bool = False
    plain: bool = False
    thinking: bool = True
    begun: str = ""


_decode_asking = msgspec.json.Decoder(Asking).decode
_decode_chat = msgspec.json.Decoder(Chat).decode
_decode_generate = msgspec.json.Decoder(Generate).decode
_decode_embed = msgspec.json.Decoder(Embed).decode
_decode_format = msgspec.json.Decoder(str | dict[str, msgspec.Raw] | None).decode
_encode = msgspec.json.Encoder().encode
_WRONG = (ValueError, RecursionError)


def untagged(name: str) -> str:
    """`qwen:latest` is `qwen`: what Ollama's clients add to a name without a tag."""
    return name.removesuffix(_LATEST)


def tagged(name: str) -> str:
    """As Ollama lists it. Clients that add the tag themselves look for it in the list."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def model(body: bytes) -> tuple[str, bool]:
    """The model that a request is about, whichever it is, and whether it asks for all there is to know.

    Raises: InvalidRequest.
    """
    try:
        body.decode()  # the parser doesn't look at what it passes over
        asked = _decode_asking(body)
        return _named(asked), asked.verbose is True
    except _WRONG as error:
        raise unreadable(error, "Ollama's API") from None


def chat(body: bytes, *, name: str) -> Asked:
    """`name`: what the model is called in the translation. Raises: InvalidRequest."""
    try:
        asked = _decode_chat(body)
        translated = _manner(asked, name)
    except _WRONG as error:
        raise unreadable(error, "Ollama's API") from None
    if not asked.messages:
        return _only_loading(asked)
    translated["messages"] = _messages(asked.messages)
    if asked.tools:
        translated["tools"] = asked.tools
    return _speaking(asked, translated)


def generate(body: bytes, *, name: str, chats: bool) -> Asked:
    """`chats`: the model has a chat template; else the prompt is continued as it is. Raises: InvalidRequest."""
    try:
        asked = _decode_generate(body)
        translated = _manner(asked, name)
    except _WRONG as error:
        raise unreadable(error, "Ollama's API") from None
    if asked.suffix:
        raise InvalidRequest('cannot fill in before a "suffix": send the model\'s own marks with "raw": true')
    if asked.template:
        raise InvalidRequest('cannot use a "template": the model has its own; send the whole prompt with "raw": true')
    if not asked.prompt and not asked.images:
        return _only_loading(asked)
    plain = asked.raw is True or not chats
    if plain:
        translated["prompt"] = asked.prompt or ""
        _drop_for_completions(translated)
    else:
        system = [Message(role="system", content=asked.system)] if asked.system else []
        said = Message(role="user", content=asked.prompt, images=asked.images)
        translated["messages"] = _messages([*system, said])
    return _speaking(asked, translated, plain=plain)


def embed(body: bytes, *, name: str) -> Asked:
    """Both the new form, with `input`, and the old one, with `prompt`. Raises: InvalidRequest."""
    try:
        asked = _decode_embed(body)
    except _WRONG as error:
        raise unreadable(error, "Ollama's API") from None
    text = asked.input if asked.input is not None else asked.prompt
    if not text:
        return _only_loading(asked)
    translated: dict[str, Any] = {"model": name, "input": text, "encoding_format": "float"}
    if asked.dimensions is not None:
        translated["dimensions"] = asked.dimensions
    return Asked(model=_named(asked), keep_alive_s=seconds(asked.keep_alive), body=_encode(translated))


def seconds(keep_alive: str | float | None) -> float | None:
    """A duration as Ollama takes them: seconds, or `1h30m`; negative: for ever. Raises: InvalidRequest."""
    if keep_alive is None or isinstance(keep_alive, int | float):
        return keep_alive
    text = keep_alive.strip()
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if not text:
        return None
    if _is_number(digits):
        return sign * float(digits)
    parts = _DURATION.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        raise InvalidRequest(f'cannot use "keep_alive" {keep_alive[:100]!r}: write it as 300, "5m", "-1" or "0"')
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d{1,15}(\.\d+)?", text, re.ASCII) is not None


def _named(asked: Asking) -> str:
    name = asked.model or asked.name
    if not name:
        raise InvalidRequest('cannot tell which model to use: name it in "model"; GET /api/tags lists them')
    return name


def _only_loading(asked: Asking) -> Asked:
    stream = isinstance(asked, Speaking) and asked.stream is not False
    return Asked(model=_named(asked), keep_alive_s=seconds(asked.keep_alive), body=None, stream=stream)


def _speaking(asked: Speaking, translated: dict[str, Any], *, plain: bool = False) -> Asked:
    return Asked(
        model=_named(asked),
        keep_alive_s=seconds(asked.keep_alive),
        body=_encode(translated),
        stream=translated["stream"],
        plain=plain,
        thinking=asked.think is not False,
        begun=begun_by(translated.get("messages", ())),
    )


# -- what is said


def _messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Ollama's results name their tool, OpenAI's the call: so each call gets an id, and a result belongs to the first
    call of its tool that has none yet."""
    found: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # the id of each call without a result, and its tool
    for message in messages:
        match message.role:
            case "system" | "user":
                found.append({"role": message.role, "content": _content(message)})
            case "assistant":
                found.append(_assistant(message, open_calls, len(found)))
            case "tool":
                id_ = message.tool_call_id or _answered(open_calls, message.tool_name)
                open_calls = [call for call in open_calls if call[0] != id_]
                found.append({"role": "tool", "tool_call_id": id_, "content": message.content or ""})
            case role:
                raise InvalidRequest(
                    f'cannot use the role "{role[:100]}": it is one of system, user, assistant and tool'
                )
    return found


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content or ""
    text = [{"type": "text", "text": message.content}] if message.content else []
    return text + [{"type": "image_url", "image_url": {"url": _image(image)}} for image in message.images]


def _image(data: str) -> str:
    if data.startswith(("data:", "http://", "https://")):
        return data
    kind = next((kind for start, kind in _IMAGES.items() if data.startswith(start)), "image/png")
    return f"data:{kind};base64,{data}"


def _assistant(message: Message, open_calls: list[tuple[str, str]], place: int) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": message.content or ""}
    if message.thinking:
        said["reasoning_content"] = message.thinking
    calls = []
    for number, call in enumerate(message.tool_calls or ()):
        id_ = call.id or f"call_{place}_{number}"
        open_calls.append((id_, call.function.name))
        said_with = call.function.arguments
        arguments = said_with if isinstance(said_with, str) else _encode(said_with).decode()
        function = {"name": call.function.name, "arguments": arguments}
        calls.append({"id": id_, "type": "function", "function": function})
    if calls:
        said["tool_calls"] = calls
    return said


def _answered(open_calls: list[tuple[str, str]], tool: str | None) -> str:
    ids = [id_ for id_, name in open_calls if name == tool] or [id_ for id_, _ in open_calls]
    return ids[0] if ids else "call_0_0"


# -- what is wanted


def _manner(asked: Speaking, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"model": name, "stream": asked.stream is not False, **_options(asked.options)}
    match _decode_format(asked.format):
        case None | "":
            pass
        case "json":
            found["response_format"] = {"type": "json_object"}
        case dict():
            schema = {"name": "output", "schema": asked.format}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        case other:
            raise InvalidRequest(f'cannot use "format" {other[:100]!r}: it is "json" or a JSON Schema')
    if asked.think is not None:
        found["chat_template_kwargs"] = {"enable_thinking": asked.think is not False}
    if isinstance(asked.think, str):
        if asked.think not in ("low", "medium", "high", "max"):
            raise InvalidRequest(
                f'cannot use "think" {asked.think[:100]!r}: it is true, false, "low", "medium" or "high"'
            )
        found["reasoning_effort"] = "high" if asked.think == "max" else asked.think
    if asked.logprobs:
        found["logprobs"] = True
        if asked.top_logprobs:
            found["top_logprobs"] = asked.top_logprobs
    return found


def _drop_for_completions(translated: dict[str, Any]) -> None:
    """What only a chat has. A text completion's `logprobs` is a number."""
    translated.pop("chat_template_kwargs", None)
    translated.pop("reasoning_effort", None)
    if translated.pop("logprobs", False):
        translated["logprobs"] = translated.pop("top_logprobs", 0)


def _options(options: Options | None) -> dict[str, Any]:
    if options is None:
        return {}
    found = {key: value for key in AS_THEY_ARE if (value := getattr(options, key)) is not None}
    if options.num_predict is not None and options.num_predict > 0:  # the others mean: as many as there is room for
        found["max_tokens"] = options.num_predict
    if options.seed is not None and -(2**63) <= options.seed < 2**63:
        found["seed"] = options.seed
    if options.stop:
        found["stop"] = options.stop
    if options.repeat_penalty is not None:
        found["repeat_penalty"] = options.repeat_penalty  # llama.cpp
        found["repetition_penalty"] = options.repeat_penalty  # SGLang, TabbyAPI, vLLM
    return found
