"""What a client asks for: the route's target, and what its headers and body say.

Counterpart: `exchange`, which sees to it. Pure, but for who asks; reads no more than it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from llm_router.errors import InvalidRequest, ModelNotFound, UnsupportedMediaType
from llm_router.relay import body as bodies
from llm_router.relay import status_text
from llm_router.relay.gate import asking
from llm_router.relay.status_text import Mode

_STATUS = b"x-llm-router-status"
_PERFORMANCE = b"x-llm-router-performance"
_CLASS = b"x-llm-router-class"
_LATEST = ":latest"  # programs that list models by Ollama's API ask for them so by OpenAI's
_TASK = b"x-llm-router-task"
_CLASSES = {b"interactive": "interactive", b"normal": "normal", b"background": "background"}


class Kind(Enum):
    """What the relay knows about a route. RAW: nothing; bytes pass as they are."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to send upstream: `path` with its query. `model`: named by the path; None: named by the body."""

    kind: Kind
    method: bytes
    path: bytes
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a model's configuration does to top-level keys of a request: `removals` first, then `defaults` where the
    client said nothing (or null), then `overrides`. Values are anything that JSON has."""

    defaults: Mapping[str, object]
    overrides: Mapping[str, object]
    removals: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the relay must know of a configured model. `request_class`: of requests that don't say it themselves; None:
    by what they are. `chats`: False for one that only embeds or reranks."""

    name: str
    parameters: Parameters | None = None
    request_class: str | None = None
    chats: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What the configuration says where the client says nothing. `status` None, `performance` None: "auto"."""

    status: Mode | None = None
    performance: bool | None = None


@dataclass(slots=True)
class Request:
    """`facts` None: the body is none of our business. `performance`: the reply ends with the performance line.
    `request_class`: how urgent it is, as `Dispatcher.open` takes it."""

    model: Model
    facts: bodies.Facts | None
    performance: bool
    request_class: str = "normal"


def read(
    target: Target, headers: Mapping[bytes, bytes], body: bytes, models: Mapping[str, Model], preferences: Preferences
) -> Request:
    """`headers`: by name in lower case. `models`: by each of their names. Raises: InvalidRequest, in all its kinds."""
    if target.model is not None:
        model = _find(target.model, models)
        return Request(model, None, False, _class_of(target, headers, None, model))
    content_type = headers.get(b"content-type")
    if content_type is not None and b"json" not in content_type.lower():
        raise UnsupportedMediaType(
            f"cannot read a body of type {content_type.decode('latin-1')!r}: send JSON with "
            '"Content-Type: application/json"'
        )
    facts = bodies.read(body)
    model = _find(facts.model, models)
    if not model.chats and target.kind is Kind.CHAT:
        raise InvalidRequest(
            f"cannot chat with {model.name}: it only embeds or reranks; name another model, or correct its "
            '"capabilities" in the configuration',
            param="model",
        )
    if facts.stream and _STATUS in headers:
        status_mode(
            target, headers, facts, preferences
        )  # a wrong one is refused even where there is nothing to wait for
    performance = target.kind is Kind.CHAT and _wants_performance(headers, facts, preferences)
    return Request(model, facts, performance, _class_of(target, headers, facts, model))


def status_mode(target: Target, headers: Mapping[bytes, bytes], facts: bodies.Facts, preferences: Preferences) -> Mode:
    """Where this client is told what it waits for. Raises: InvalidRequest for a mode that there isn't."""
    asked = headers.get(_STATUS)
    mode = status_text.choose(
        None if asked is None else asked.decode("latin-1"),
        preferences.status,
        open_webui=status_text.is_open_webui(headers),
        plain=facts.plain,
    )
    if mode is not Mode.OFF and target.kind is not Kind.CHAT:
        return Mode.COMMENT  # the other replies have no place for a text that isn't the model's
    return mode


def _find(name: str, models: Mapping[str, Model]) -> Model:
    model = models.get(name)
    if model is None and name.endswith(_LATEST):
        model = models.get(name.removesuffix(_LATEST))
    if model is None:
        caller = asking.get()
        known = sorted({known.name for known in models.values() if caller is None or caller.may_use(known.name)})
        names = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        raise ModelNotFound(f"cannot find the model {name[:200]!r}: it is one of {names}", param="model")
    return model


def _class_of(target: Target, headers: Mapping[bytes, bytes], facts: bodies.Facts | None, model: Model) -> str:
    """1. A front end's own title or tag request is a task whatever it says of its urgency: a front end sends the same
    headers with all its requests. Which of them is one it may say by name, empty for none; else its shape tells.
    2. The client's word. 3. The model's. 4. Somebody watches a streaming chat; the rest are programs.

    Raises: InvalidRequest for a class that there isn't.
    """
    task = headers.get(_TASK)
    if (facts is not None and facts.background) if task is None else task.strip():  # 1
        return "task"
    asked = headers.get(_CLASS)
    if asked is not None:  # 2
        known = _CLASSES.get(asked.strip().lower())
        if known is None:
            raise InvalidRequest('cannot use this X-LLM-Router-Class: it is "interactive", "normal" or "background"')
        return known
    if model.request_class is not None:  # 3
        return model.request_class
    return "interactive" if facts is not None and facts.stream and target.kind is Kind.CHAT else "normal"  # 4


def _wants_performance(headers: Mapping[bytes, bytes], facts: bodies.Facts, preferences: Preferences) -> bool:
    asked = headers.get(_PERFORMANCE)
    if asked is not None:
        if asked not in (b"always", b"never"):
            raise InvalidRequest('cannot use this X-LLM-Router-Performance: it is "always" or "never"')
        return asked == b"always"
    if preferences.performance is not None:
        return preferences.performance
    return facts.stream and facts.plain and not status_text.is_open_webui(headers)
