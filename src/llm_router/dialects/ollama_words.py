"""What is in Ollama's requests, as far as it means something here. Counterpart: `ollama_request`.

Keys that aren't here are passed over.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST_TOKENS = 2**31 - 1

Whole = Annotated[int, msgspec.Meta(ge=-MOST_TOKENS, le=MOST_TOKENS)]
Number = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]


class Function(msgspec.Struct):
    name: str
    arguments: dict[str, msgspec.Raw] | str = {}


class Call(msgspec.Struct):
    function: Function
    id: str | None = None


class Message(msgspec.Struct):
    role: str
    content: str | None = None
    images: list[str] | None = None
    thinking: str | None = None
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Options(msgspec.Struct):
    """`typical_p` and the three of mirostat are llama.cpp's alone."""

    num_predict: Whole | None = None
    temperature: Number | None = None
    top_k: Whole | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    repeat_penalty: Number | None = None
    repeat_last_n: Whole | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    mirostat: Whole | None = None
    mirostat_tau: Number | None = None
    mirostat_eta: Number | None = None


AS_THEY_ARE = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)


class Asking(msgspec.Struct, kw_only=True):
    """What all of them have. `name`: what `model` was called once."""

    model: str = ""
    name: str = ""
    keep_alive: str | float | None = None
    options: Options | None = None
    verbose: bool | None = None


class Speaking(Asking, kw_only=True):
    stream: bool | None = None
    format: msgspec.Raw = msgspec.Raw(b"null")
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None


class Chat(Speaking, kw_only=True):
    messages: list[Message] | None = None
    tools: list[dict[str, msgspec.Raw]] | None = None


class Generate(Speaking, kw_only=True):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    images: list[str] | None = None
    raw: bool | None = None


class Embed(Asking, kw_only=True):
    input: str | list[str] | None = None
    prompt: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)] | None = None
