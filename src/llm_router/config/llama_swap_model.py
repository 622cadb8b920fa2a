"""Turns one model of a llama-swap configuration into one of ours. Counterpart: `llama_swap`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from llm_router.config.llama_swap_macros import PORT, later, now
from llm_router.config.llama_swap_notes import Notes
from llm_router.config.llama_swap_values import filters, flag, number, section, texts
from llm_router.errors import ConfigError

_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound to
_DROPPED = {
    "cmdStop": "the router ends the whole process group: TERM, then KILL. A container in the foreground ends with it; "
    "one started with -d needs a script that stays and ends it",
    "unloadTimeout": "each kind of server is given the time it needs",
    "metadata": "the listing has no room for it",
    "sendLoadingState": "clients can choose with the header X-LLM-Router-Status",
    "timeouts": 'a connection has 5 s; silence is bounded by "response_timeout"',
    "compat": "WebSockets aren't relayed",
}
_MODULES = {"vllm.entrypoints.openai.api_server": "vllm", "sglang.launch_server": "sglang"}
_SERVING = {"vllm": "vllm", "sglang": "sglang"}

Data = Mapping[str, Any]
Entry = dict[str, Any]


def convert(name: str, model: Data, data: Data, notes: Notes, *, one_line: bool) -> Entry | None:
    """None: it can't be used here. `data`: the whole file. Raises: ConfigError for a command that can't be read."""
    key = f"models.{name}"
    command = later(str(model.get("cmd") or "")).strip()
    if not command:
        notes.dropped(key, 'it has no "cmd"')
        return None
    words = _words(command, key)
    kind = _kind(words)
    found: Entry = {"backend": kind}
    found |= _start(model, _tidy(command, words, one_line=one_line), key, notes)
    found |= _names(name, model)
    _ready(model, found, key, notes)
    found |= _treatment(model, data, key, notes)
    parameters = filters(section(model.get("filters")), f"{key}.filters", notes, model=name)
    if parameters:
        found["parameters"] = parameters
    found |= _capabilities(section(model.get("capabilities")))
    for dropped, why in _DROPPED.items():
        if model.get(dropped) not in (None, "", {}):
            notes.dropped(f"{key}.{dropped}", why)
    return found


def _words(command: str, key: str) -> list[str]:
    try:
        words = shlex.split(_joined(command))
    except ValueError as error:
        raise ConfigError(f"cannot import {key}.cmd: {error}; close the quote there") from error
    if not words:
        raise ConfigError(f"cannot import {key}.cmd: it is empty; write a command there, or remove the model")
    return words


def _joined(command: str) -> str:
    """Lines that end in a backslash go on in the next, whatever a quote would say."""
    return re.sub(r"\\[ \t]*\n", " \n", command)


def _tidy(command: str, words: list[str], *, one_line: bool) -> str:
    """The command as it was written, a line for each of its lines."""
    lines = [line.strip() for line in _joined(command).split("\n")]
    text = (" " if one_line else "\n").join(line for line in lines if line)
    return text if shlex.split(text) == words else _joined(command)


def _kind(words: list[str]) -> str:
    """The backend that knows this server, so that its progress is understood; "openai" for any other."""
    program = PurePath(words[0]).name
    if program.startswith("llama-server"):
        return "llamacpp"
    if re.fullmatch(r"python[\d.]*", program) and words[1:2] == ["-m"]:
        return next((kind for module, kind in _MODULES.items() if words[2:3] == [module]), "openai")
    return _SERVING.get(program, "openai") if words[1:2] == ["serve"] else "openai"


def _start(model: Data, command: str, key: str, notes: Notes) -> Entry:
    proxy = now(str(model["proxy"]))
    parts = urlsplit(proxy.replace(PORT, "1"))
    if parts.scheme != "http" or (parts.hostname or "") not in _HERE:
        notes.attention(
            f"{key}.cmd", f"the server answers at {proxy}, not on this machine: it is used there, and nothing starts it"
        )
        return {"backend": "openai", "url": proxy}
    if parts.path not in ("", "/"):
        notes.attention(f"{key}.proxy", f'a server started by a command has no path before /v1: "{parts.path}" is lost')
    if PORT in proxy:
        if PORT not in command:  # llama-swap refuses the whole file
            notes.attention(f"{key}.cmd", "it doesn't say on which port its server listens: add ${PORT}, or a `port`")
        return {"command": command}
    return {"command": command, "port": parts.port or 80}


def _names(name: str, model: Data) -> Entry:
    by_name = [str(one) for one in section(section(model.get("filters")).get("setParamsByID"))]
    aliases = [alias for alias in dict.fromkeys([*map(now, texts(model.get("aliases"))), *by_name]) if alias != name]
    variables = dict(entry.partition("=")[::2] for entry in texts(model.get("env")))
    parts: Entry = {
        "model_name": later(str(model.get("useModelName") or "")),
        "aliases": aliases,
        "name": later(str(model.get("name") or "")),
        "description": " ".join(later(str(model.get("description") or "")).split()),
        "env": {variable: later(value) for variable, value in variables.items()},
    }
    return {key: part for key, part in parts.items() if part}


def _ready(model: Data, found: Entry, key: str, notes: Notes) -> None:
    path = now(str(model.get("checkEndpoint") or "/health")).strip()
    if path == "none":
        notes.changed(f"{key}.checkEndpoint", "the router always asks whether a server is ready, as its backend does")
    elif path != "/health" and "url" not in found:
        found["ready_path"] = path if path.startswith("/") else f"/{path}"


def _treatment(model: Data, data: Data, key: str, notes: Notes) -> Entry:
    found: Entry = {}
    under = f"{key}."
    idle = number(model, "ttl", notes, under=under)
    if idle is not None and idle > 0:
        found["idle_timeout"] = idle
    elif idle == 0 and data.get("globalTTL"):
        found["idle_timeout"] = "never"
    limit = number(model, "concurrencyLimit", notes, under=under)
    if limit:
        found["concurrency"] = limit
        notes.changed(f"{key}.concurrencyLimit", "more requests wait, rather than being refused with 429")
    if flag(model, "unlisted"):
        found["hidden"] = True
    return found


def _capabilities(found: Data) -> Entry:
    takes, gives = texts(found.get("in")), texts(found.get("out"))
    able = [
        *(["rerank"] if found.get("reranker") else []),
        *(["chat"] if "text" in gives and not found.get("reranker") else []),
        *(["vision"] if "image" in takes else []),
        *(["audio"] if "audio" in takes else []),
        *(["image"] if "image" in gives else []),
        *(["speech"] if "audio" in gives else []),
        *(["tools"] if found.get("tools") else []),
    ]
    context = found.get("context")
    length = {"context_length": context} if isinstance(context, int) and context > 0 else {}
    return {**length, **({"capabilities": able} if able else {})}
