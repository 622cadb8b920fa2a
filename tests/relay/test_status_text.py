"""What a waiting client sees, and how it leaves the history again."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.errors import InvalidRequest
from llm_router.relay.status_text import (
    MARK,
    Mode,
    Progress,
    StatusStream,
    choose,
    clean,
    is_open_webui,
    line,
    marked,
    ready_line,
)


def progress(phase: str = "starting", elapsed_s: float = 15.4, **more: Any) -> Progress:
    return Progress(phase=phase, elapsed_s=elapsed_s, limit_s=180.0, **more)


@pytest.mark.parametrize(
    ("given_progress", "text"),
    [
        (progress(), "⏳ Loading model... 15s / 180s"),
        (progress(elapsed_s=0.0), "⏳ Loading model... 0s / 180s"),
        (progress(phase="waking", estimate_s=22.6), "⏳ Waking model... 15s / 180s (about 23s)"),
        (progress(fraction=0.434), "⏳ Loading model... 15s / 180s (43%)"),
        (progress(fraction=1.7), "⏳ Loading model... 15s / 180s (100%)"),
        (progress(estimate_s=22.6), "⏳ Loading model... 15s / 180s (about 23s)"),
        (progress(fraction=0.0, estimate_s=23.0), "⏳ Loading model... 15s / 180s (0%, about 23s)"),
        (progress(estimate_s=12.0), "⏳ Loading model... 15s / 180s"),
        (progress("queued", 3.9), "⏳ Waiting for the device... 3s"),
        (progress("queued", 3.9, position=2), "⏳ Waiting for the device... 3s (2 ahead)"),
        (progress("queued", 3.9, position=0), "⏳ Waiting for the device... 3s"),
        (progress("busy", 3.9, position=1), "⏳ Waiting for a free slot... 3s (1 ahead)"),
        (progress("draining", 3.9), "⏳ Switching models... 3s"),
        (progress("stopping", 3.9), "⏳ Switching models... 3s"),
    ],
)
def test_a_line_says_what_is_known(given_progress: Progress, text: str) -> None:
    assert line(given_progress) == text


@pytest.mark.parametrize(
    ("elapsed_s", "text"), [(23.4, "23s"), (1.42, "1.4s"), (9.94, "9.9s"), (9.96, "10s"), (0.0, "0.0s")]
)
def test_the_ready_line_has_a_decimal_below_ten_seconds(elapsed_s: float, text: str) -> None:
    assert ready_line(elapsed_s) == f"✓ Model ready! ({text})"


OURS = st.sampled_from(
    ["⏳ Loading model... 1s / 2s", "\n✓ Model ready! (1.4s)\n\n", "\n\n[Performance: 1 tok/s]", "✗ no"]
)


@given(st.lists(st.tuples(st.text().filter(lambda text: MARK not in text), OURS)), st.text())
def test_every_marked_region_is_removed_and_nothing_else(pairs: list[tuple[str, str]], end: str) -> None:
    written = "".join(text + marked(ours) for text, ours in pairs)
    assert clean(written) == "".join(text for text, _ in pairs)
    if MARK not in end:
        assert clean(written + end) == "".join(text for text, _ in pairs) + end


@pytest.mark.parametrize(
    "text",
    [f"a_{{i{MARK}j{MARK}k}}", f"{MARK}", f"x{MARK}⏳ cut off", f"{MARK}{MARK}", "[Performance: 1 tok/s]", "⏳", ""],
)
def test_a_models_own_separators_stay(text: str) -> None:
    assert clean(text) == text
    if not text.endswith("cut off"):  # what is open stays open: nobody can tell where it was meant to end
        assert clean(text + marked("\n\n[Performance: 1 tok/s]")) == text


@pytest.mark.parametrize("text", ["plain", "", f"⏳ {MARK}"])
def test_a_text_that_clean_would_not_find_is_never_marked(text: str) -> None:
    with pytest.raises(ValueError, match="cannot mark"):
        marked(text)


@pytest.mark.parametrize(
    ("header", "default", "open_webui", "plain", "mode"),
    [
        (None, None, False, True, Mode.CONTENT),
        (None, None, False, False, Mode.COMMENT),
        (None, None, True, True, Mode.EVENT),
        (None, None, True, False, Mode.EVENT),
        (None, Mode.REASONING, True, True, Mode.REASONING),
        (None, Mode.OFF, False, True, Mode.OFF),
        (None, Mode.CONTENT, False, False, Mode.COMMENT),
        ("auto", None, False, True, Mode.CONTENT),
        ("auto", Mode.OFF, False, True, Mode.OFF),
        ("Content ", Mode.OFF, True, False, Mode.CONTENT),
        ("off", Mode.EVENT, True, True, Mode.OFF),
    ],
)
def test_the_mode_is_the_clients_then_the_configurations_then_by_client(
    header: str | None, default: Mode | None, open_webui: bool, plain: bool, mode: Mode
) -> None:
    assert choose(header, default, open_webui=open_webui, plain=plain) is mode


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="content, event, reasoning, comment, off"):
        choose("loud", None, open_webui=False, plain=True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({b"user-agent": b"Python/3.11 aiohttp/3.14.5"}, True),
        ({b"x-openwebui-user-id": b"1", b"user-agent": b"curl/8"}, True),
        ({b"user-agent": b"OpenAI/Python 2.1"}, False),
        ({b"user-agent": b"curl/8 (not Python/3.11 aiohttp/3)"}, False),
        ({}, False),
    ],
)
def test_open_webui_is_known_by_its_headers(headers: dict[bytes, bytes], expected: bool) -> None:
    assert is_open_webui(headers) is expected


def stream(mode: Mode) -> StatusStream:
    return StatusStream(mode, model='the "model"', id="chatcmpl-1", created=1700000000)


def chunks(data: bytes) -> list[dict[str, Any]]:
    events = data.decode().split("\n\n")
    assert events.pop() == ""
    return [json.loads(event.removeprefix("data: ")) for event in events]


def whole(mode: Mode) -> bytes:
    status = stream(mode)
    return (
        status.first(progress(elapsed_s=0))
        + status.update(progress(elapsed_s=5))
        + status.update(progress(elapsed_s=10))
        + status.ready(12.3)
    )


@pytest.mark.parametrize(("mode", "key"), [(Mode.CONTENT, "content"), (Mode.REASONING, "reasoning_content")])
def test_text_modes_write_lines_that_clean_takes_out(mode: Mode, key: str) -> None:
    sent = chunks(whole(mode))
    assert [chunk["choices"][0]["delta"].get("role") for chunk in sent] == ["assistant", None, None, None]
    text = "".join(chunk["choices"][0]["delta"][key] for chunk in sent)
    assert text.replace(MARK, "") == (
        "⏳ Loading model... 0s / 180s\n⏳ Loading model... 5s / 180s\n⏳ Loading model... 10s / 180s\n"
        "✓ Model ready! (12s)\n\n"
    )
    assert clean(text + "Hello") == "Hello"
    for chunk in sent:
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["model"] == 'the "model"'
        assert (chunk["id"], chunk["created"]) == ("chatcmpl-1", 1700000000)
        assert chunk["choices"][0]["finish_reason"] is None
        written = chunk["choices"][0]["delta"][key]
        assert written[0] == written[-1] == MARK, "each piece alone: the stream may end after any of them"


def test_events_are_open_webuis_own_status_on_empty_deltas() -> None:
    sent = chunks(whole(Mode.EVENT))
    assert sent[1] == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": 'the "model"',
        "choices": [{"index": 0, "delta": {}, "finish_reason": None}],
        "event": {"type": "status", "data": {"description": "⏳ Loading model... 5s / 180s", "done": False}},
    }
    assert sent[-1]["event"]["data"] == {"description": "✓ Model ready! (12s)", "done": True}


def test_comments_are_invisible_to_every_parser() -> None:
    assert whole(Mode.COMMENT).decode().split("\n\n")[::3] == [
        ": ⏳ Loading model... 0s / 180s",
        ": ✓ Model ready! (12s)",
    ]
    assert all(event.startswith(b": ") for event in whole(Mode.COMMENT).split(b"\n\n")[:-1])


def test_off_is_silent() -> None:
    assert whole(Mode.OFF) == b""


@pytest.mark.parametrize("mode", Mode)
def test_a_failure_closes_only_the_line_that_would_shimmer_on(mode: Mode) -> None:
    sent = stream(mode).failed("model_load_failed")
    if mode is Mode.EVENT:
        assert chunks(sent)[0]["event"]["data"] == {"description": '✗ the "model" failed to load', "done": True}
    else:
        assert sent == b""


def test_what_fails_without_a_load_is_not_called_one() -> None:
    sent = stream(Mode.EVENT).failed("queue_full")
    assert chunks(sent)[0]["event"]["data"] == {"description": '✗ the "model" can\'t answer', "done": True}


@pytest.mark.parametrize("mode", Mode)
def test_updates_are_frequent_enough_to_keep_a_connection_and_rare_enough_to_read(mode: Mode) -> None:
    assert 2 <= stream(mode).interval_s <= 10
