"""What the router itself writes into a chat's stream while a model is made ready, and how it leaves the history again.

Counterpart: `body`, which takes marked text out of assistant messages on their way in. Decides neither when a line is
due nor whether there is anything to wait for: the caller does, and passes the times in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, assert_never

import msgspec

from llm_router.errors import InvalidRequest, LoadFailed

# The invisible separator survives storage, trimming and the way back in every front end tried, and shows nowhere.
MARK = "\u2063"

# A model may write U+2063 too (it separates indices in formulas), so a region is ours only with one of our signs.
_OURS = r"\s*(?:⏳|✓|✗|\[Performance: )"
_SIGNED = re.compile(_OURS)
_REGION = re.compile(rf"{MARK}{_OURS}[^{MARK}]*{MARK}")


def marked(text: str) -> str:
    """`text` as the router writes it into a reply, so that `clean` finds it.

    Raises: ValueError when `text` doesn't begin with ⏳, ✓, ✗ or `[Performance: ` (white space may come before it),
    or holds a mark.
    """
    if _SIGNED.match(text) is None or MARK in text:
        raise ValueError(f"cannot mark {text!r}: begin it with one of the router's signs, and no mark inside")
    return f"{MARK}{text}{MARK}"


def clean(text: str) -> str:
    """`text` without every region that `marked` made; the rest stays as it is, to the character."""
    return _REGION.sub("", text) if MARK in text else text


class Mode(Enum):
    """Where a client sees what is going on. The values are what `X-LLM-Router-Status` and the configuration say."""

    CONTENT = "content"
    EVENT = "event"
    REASONING = "reasoning"
    COMMENT = "comment"
    OFF = "off"


class HeaderLookup(Protocol):
    """A mapping of lower-case names to values; a `dict[bytes, bytes]` is one."""

    def __iter__(self) -> Iterator[bytes]: ...
    def get(self, name: bytes, default: bytes, /) -> bytes: ...


_AIOHTTP = re.compile(rb"Python/\d+\.\d+ aiohttp/")


def is_open_webui(headers: HeaderLookup) -> bool:
    """Whether Open-WebUI asks: by its forwarded headers, else by the User-Agent that it always has."""
    if any(name.startswith(b"x-openwebui-") for name in headers):
        return True
    return _AIOHTTP.match(headers.get(b"user-agent", b"")) is not None


def choose(header: str | None, default: Mode | None, *, open_webui: bool, plain: bool) -> Mode:
    """1. The client's `X-LLM-Router-Status`, unless it says `auto`. 2. The configured mode (None: auto), but nothing
    goes into the text of a request that isn't `plain`. 3. By what the client is.

    Raises: InvalidRequest for a header value that is no mode.
    """
    wanted = (header or "auto").strip().lower()
    if wanted != "auto":  # 1
        try:
            return Mode(wanted)
        except ValueError:
            known = ", ".join(mode.value for mode in Mode)
            raise InvalidRequest(
                f'cannot use X-LLM-Router-Status "{wanted}": write auto, {known}', param="X-LLM-Router-Status"
            ) from None
    if default is not None:  # 2
        return Mode.COMMENT if default is Mode.CONTENT and not plain else default
    if open_webui:  # 3
        return Mode.EVENT
    return Mode.CONTENT if plain else Mode.COMMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a waiting request is. `phase`: queued, draining, stopping, starting, waking or busy. Seconds.

    `elapsed_s`: since the request came. `limit_s`: the load time-out. `fraction`: 0.0–1.0 of the load, where the engine
    says so. `estimate_s`: how long past loads took in all. `position`: how many requests are ahead.
    """

    phase: str
    elapsed_s: float
    limit_s: float
    fraction: float | None = None
    estimate_s: float | None = None
    position: int | None = None


def line(progress: Progress) -> str:
    """One line for people, as `⏳ Loading model... 15s / 180s`, with what better is known in brackets."""
    elapsed = f"{int(progress.elapsed_s)}s"
    match progress.phase:
        case "queued":
            return f"⏳ Waiting for the device... {elapsed}{_ahead(progress.position)}"
        case "busy":
            return f"⏳ Waiting for a free slot... {elapsed}{_ahead(progress.position)}"
        case "draining" | "stopping":
            return f"⏳ Switching models... {elapsed}"
        case "waking":
            return f"⏳ Waking model... {elapsed} / {int(progress.limit_s)}s{_known(progress)}"
        case _:
            return f"⏳ Loading model... {elapsed} / {int(progress.limit_s)}s{_known(progress)}"


def ready_line(elapsed_s: float) -> str:
    """`✓ Model ready! (23s)`; under ten seconds with a decimal."""
    return f"✓ Model ready! ({elapsed_s:.1f}s)" if elapsed_s < 9.95 else f"✓ Model ready! ({elapsed_s:.0f}s)"


def failed_line(model: str, code: str) -> str:
    """`✗ NAME failed to load`, short: the error that follows says why, and Open-WebUI shows both. `code`: its."""
    return f"✗ {model} failed to load" if code == LoadFailed.code else f"✗ {model} can't answer"


def _ahead(position: int | None) -> str:
    return f" ({position} ahead)" if position else ""


def _known(progress: Progress) -> str:
    parts = []
    if progress.fraction is not None:
        parts.append(f"{int(min(max(progress.fraction, 0.0), 1.0) * 100)}%")
    # An estimate that has already passed helps nobody.
    if progress.estimate_s is not None and progress.estimate_s > progress.elapsed_s:
        parts.append(f"about {max(1, round(progress.estimate_s))}s")
    return f" ({', '.join(parts)})" if parts else ""


_INTERVAL_S = {Mode.CONTENT: 5.0, Mode.EVENT: 2.0, Mode.REASONING: 5.0, Mode.COMMENT: 5.0, Mode.OFF: 5.0}


class StatusStream:
    """Renders one waiting request's status as server-sent events, in the form that the client can use.

    `model`, `id`, `created` (Unix seconds): what the chunks say of themselves. Every method returns the bytes to send,
    possibly none. The caller says when: `first` once, then `update` every `interval_s` or on a change, then one of
    `ready` and `failed`.
    """

    __slots__ = ("_about", "_head", "_model", "mode")

    def __init__(self, mode: Mode, *, model: str, id: str, created: int) -> None:  # noqa: A002 -- the chunk's own word
        self.mode = mode
        self._model = model
        self._about = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b""  # encoded with the first chunk: most requests find their model ready and never send one

    @property
    def interval_s(self) -> float:
        """How often `update` is worth sending. Open-WebUI stores each event, but shows only the last."""
        return _INTERVAL_S[self.mode]

    def first(self, progress: Progress) -> bytes:
        return self._render(line(progress), first=True)

    def update(self, progress: Progress) -> bytes:
        return self._render("\n" + line(progress))

    def ready(self, elapsed_s: float) -> bytes:
        """Ends the status; in the text a blank line parts it from the answer."""
        return self._render(f"\n{ready_line(elapsed_s)}\n\n", done=True)

    def failed(self, code: str) -> bytes:
        """Ends a status line that would shimmer for ever. Elsewhere nothing: the error event that follows says it."""
        if self.mode is not Mode.EVENT:
            return b""
        return self._render(failed_line(self._model, code), done=True)

    def _render(self, text: str, *, first: bool = False, done: bool = False) -> bytes:
        match self.mode:
            case Mode.CONTENT:
                return self._delta("content", text, first=first)
            case Mode.REASONING:
                return self._delta("reasoning_content", text, first=first)
            case Mode.EVENT:
                event = {"type": "status", "data": {"description": text.strip(), "done": done}}
                return self._chunk({}, b',"event":' + msgspec.json.encode(event))
            case Mode.COMMENT:
                return f": {text.strip()}\n\n".encode()
            case Mode.OFF:
                return b""
            case _:
                assert_never(self.mode)

    def _delta(self, key: str, text: str, *, first: bool) -> bytes:
        delta = {"role": "assistant", key: marked(text)} if first else {key: marked(text)}
        return self._chunk(delta, b"")

    def _chunk(self, delta: dict[str, str], more: bytes) -> bytes:
        if not self._head:
            self._head = msgspec.json.encode(self._about)[:-1]
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return b"data: " + self._head + b',"choices":[' + msgspec.json.encode(choice) + b"]" + more + b"}\n\n"
