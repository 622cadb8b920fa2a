"""What a client gets of a reply. Every stream is tried cut at every byte, and byte by byte, with the same outcome."""

import contextlib
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import (
    DONE,
    ENGINES,
    LLAMACPP_TEXT,
    LLAMACPP_USAGE,
    SGLANG,
    TABBY_PLAIN,
    TABBY_USAGE,
    TABBY_USAGE_END,
    TIMINGS,
    USAGE,
    VLLM,
    event,
    llamacpp,
    llamacpp_delta,
    vllm,
    vllm_delta,
)

from llm_router.errors import UpstreamGarbage
from llm_router.relay.chunk import Naming, naming
from llm_router.relay.reply import rewrite_reply
from llm_router.relay.sse import StreamRewriter, error_events
from llm_router.relay.status_text import MARK, clean

SENT_AT, NOW = 100.0, 104.0


def rewriter(
    *, chat: bool = True, include_usage: bool = False, performance: bool = False, **more: Any
) -> StreamRewriter:
    return StreamRewriter(chat=chat, include_usage=include_usage, performance=performance, sent_at=SENT_AT, **more)


def relayed(pieces: Iterable[bytes], **options: Any) -> bytes:
    found = rewriter(**options)
    return b"".join(found.feed(piece, NOW) for piece in pieces) + found.finish(NOW)


def everywhere(stream: bytes, **options: Any) -> bytes:
    """What comes of the stream, having made sure that it doesn't matter where it is cut."""
    whole = relayed([stream], **options)
    for at in range(1, len(stream)):
        assert relayed([stream[:at], stream[at:]], **options) == whole, f"cut before {stream[at:][:20]!r}"
    assert relayed([stream[at : at + 1] for at in range(len(stream))], **options) == whole
    events = stream.replace(b"\r\n\r\n", b"\r\n\r\n\0").replace(b"\n\n", b"\n\n\0").split(b"\0")
    assert relayed(events, **options) == whole
    return whole


def events_of(stream: bytes) -> list[Any]:
    """The events, decoded; each must be one that a simple client understands."""
    found = []
    for text in stream.decode().replace("\r\n", "\n").split("\n\n"):
        if text and not text.startswith(":"):
            assert text.startswith("data: "), text
            found.append(text[6:] if text == "data: [DONE]" else json.loads(text[6:]))
    return found


def text_of(events: list[Any], key: str = "content") -> str:
    deltas = [choice.get("delta", choice) for chunk in events[:-1] for choice in chunk.get("choices", ())]
    return "".join(delta.get(key) or "" for delta in deltas)


def check_end(events: list[Any], *, include_usage: bool) -> Any:
    """Usage and timings in exactly one chunk, whole; one finish chunk; nothing after. Returns the figures' chunk."""
    assert events[-1] == "[DONE]"
    chunks = events[:-1]
    with_figures = [chunk for chunk in chunks if chunk.get("usage") or "timings" in chunk]
    finishes = [chunk for chunk in chunks if any(choice["finish_reason"] for choice in chunk["choices"])]
    assert len(with_figures) == len(finishes) == 1
    last = with_figures[0]
    assert last is chunks[-1]
    assert last["choices"] == [] if include_usage else last is finishes[0]
    assert finishes[0] is chunks[-2 if include_usage else -1]
    for key in ("usage", "timings"):
        assert None not in last[key].values()
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    return last


# -- the end of each server's stream


@pytest.mark.parametrize("performance", [False, True])
@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_server_ends_in_the_same_way(engine: str, include_usage: bool, performance: bool) -> None:
    events = events_of(everywhere(ENGINES[engine], include_usage=include_usage, performance=performance))
    figures = check_end(events, include_usage=include_usage)
    assert figures["usage"].items() >= USAGE.items()
    assert figures["timings"].keys() >= TIMINGS.keys()
    assert figures["timings"]["predicted_n"] == 128
    assert (figures["id"], figures["model"], figures["object"]) == ("c", "m", "chat.completion.chunk")
    text = text_of(events)
    assert clean(text) == "Hello"
    if engine.startswith(("llamacpp", "tabbyapi")):
        assert figures["timings"]["predicted_ms"] == 2831.0, "their own times are exact"
        line = "45.2 tok/s | 128 tokens in 2.83s"
    else:
        line = "32.0 tok/s | 128 tokens in 4.00s"
    assert text == (f"Hello{MARK}\n\n[Performance: {line}]{MARK}" if performance else "Hello")


def test_what_needs_no_change_leaves_as_it_came() -> None:
    for stream in (LLAMACPP_USAGE, VLLM, SGLANG, TABBY_USAGE_END):
        end = stream.index(b'"stop"')
        start = stream.rindex(b"data:", 0, end)
        assert relayed([stream], reasoning=False).startswith(stream[:start])


def test_a_piece_without_change_is_the_same_object() -> None:
    found = rewriter()
    for _ in range(3):
        for text in ("a", "\n", '"quoted"', "back\\slash", "ünï", " "):
            piece = llamacpp(llamacpp_delta({"content": text}))
            assert found.feed(piece, NOW) is piece
    several = LLAMACPP_TEXT * 2
    assert found.feed(several, NOW) is several


def test_a_finish_reason_waits_for_the_figures_and_leaves_with_them() -> None:
    found = rewriter()
    found.feed(LLAMACPP_TEXT, NOW)
    assert found.started
    assert not found.finished
    assert found.feed(llamacpp(llamacpp_delta({}, "stop")), NOW) == b""
    assert found.finished
    assert found.feed(b": ping\n\n", NOW) == b": ping\n\n", "comments don't wait"
    out = found.feed(llamacpp(usage=USAGE), NOW)
    assert check_end([*events_of(out), "[DONE]"], include_usage=False)
    assert not found.done
    assert found.feed(DONE, NOW) == DONE
    assert found.done
    assert found.feed(LLAMACPP_TEXT, NOW) == found.finish(NOW) == found.fail("late", "upstream_lost") == b""


def test_without_any_count_the_events_are_counted_and_the_line_says_so() -> None:
    stream = LLAMACPP_TEXT + llamacpp(llamacpp_delta({}, "stop")) + DONE
    events = events_of(everywhere(stream, performance=True))
    figures = check_end(events, include_usage=False)
    assert figures["usage"] == {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2}
    assert "[Performance: ~0.5 tok/s | ~2 tokens in 4.00s]" in text_of(events)


def test_text_in_the_finish_chunk_comes_before_the_line() -> None:
    events = events_of(everywhere(TABBY_PLAIN, performance=True))
    check_end(events, include_usage=False)
    assert text_of(events).startswith(f"Hello!{MARK}")
    assert events[-2]["choices"][0]["delta"] == {}


def test_measured_times_begin_with_the_first_text() -> None:
    found = rewriter(performance=True)
    found.feed(llamacpp(llamacpp_delta({"role": "assistant", "content": None})), 100.1)
    for number in range(50):
        found.feed(llamacpp(llamacpp_delta({"content": str(number)})), 101.0 + number * 0.1)
    found.feed(llamacpp(llamacpp_delta({}, "stop")), 106.0)
    events = events_of(found.feed(llamacpp(usage={"prompt_tokens": 20, "completion_tokens": 60}) + DONE, 109.0))
    timings = check_end(events, include_usage=False)["timings"]
    assert (timings["prompt_ms"], timings["predicted_ms"]) == (1000.0, 5000.0)
    assert (timings["prompt_per_second"], timings["predicted_per_second"]) == (20.0, 12.0)


def test_a_reply_without_tokens_gets_no_line() -> None:
    stream = (
        llamacpp(llamacpp_delta({"role": "assistant", "content": None})) + llamacpp(llamacpp_delta({}, "stop")) + DONE
    )
    assert text_of(events_of(everywhere(stream, performance=True))) == ""


def test_text_completions_end_alike_and_never_get_a_line() -> None:
    def completion(text: str, finish: str | None = None, **more: Any) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
        return event({"choices": [choice], "created": 1, "model": "m", "object": "text_completion", "id": "c", **more})

    start = completion("Hel") + completion("lo")
    for end in (
        completion("", "stop", usage=USAGE, timings=TIMINGS),
        completion("", "stop") + event({"choices": [], "id": "c", "usage": USAGE}),
        completion("", "stop", usage=USAGE),
    ):
        for include_usage in (False, True):
            out = everywhere(start + end + DONE, chat=False, performance=True, include_usage=include_usage)
            assert out.startswith(start)
            figures = check_end(events_of(out), include_usage=include_usage)
            assert figures["usage"] == USAGE
            assert text_of(events_of(out), "text") == "Hello"


def test_with_several_choices_the_last_finish_chunk_has_the_figures() -> None:
    def of(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return vllm({"index": index, "delta": delta, "finish_reason": finish})

    stream = b"".join(of(index, {"content": text}) for text in "abcd" for index in (0, 1))
    stream += of(0, {}, "stop") + of(1, {"content": "e"}) + of(1, {}, "length") + vllm(usage=USAGE) + DONE
    events = events_of(everywhere(stream))
    assert [chunk["choices"][0]["finish_reason"] for chunk in events[-4:-1]] == ["stop", None, "length"]
    assert [bool(chunk.get("usage")) for chunk in events[-4:-1]] == [False, False, True]
    assert text_of(events) == "aabbccdde"


def test_tool_calls_and_reasoning_pass_as_they_are() -> None:
    call = {"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": ""}}
    stream = llamacpp(llamacpp_delta({"tool_calls": [call]}))
    for part in ('{"a', '":1', "}"):
        stream += llamacpp(llamacpp_delta({"tool_calls": [{"index": 0, "function": {"arguments": part}}]}))
    stream += llamacpp(llamacpp_delta({"reasoning_content": "hm"})) + llamacpp(
        llamacpp_delta({"reasoning_content": "m"})
    )
    end = llamacpp(llamacpp_delta({}, "tool_calls")) + llamacpp(usage=USAGE) + DONE
    out = everywhere(stream + end)
    assert out.startswith(stream)
    assert check_end(events_of(out), include_usage=False)["choices"][0]["finish_reason"] == "tool_calls"


def test_vllms_reasoning_is_renamed_and_nothing_else() -> None:
    events = events_of(everywhere(VLLM))
    assert text_of(events, "reasoning_content") == "thinking"
    assert text_of(events, "reasoning") == ""
    assert text_of(events) == "Hello"
    said = vllm(vllm_delta({"content": 'say \\"reasoning\\": "reasoning":'}))
    assert relayed([said]).startswith(said)


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"reasoning": "a", "reasoning_content": None}, {"reasoning_content": "a"}),
        ({"reasoning": None, "reasoning_content": "b"}, {"reasoning_content": "b"}),
        ({"reasoning": "a", "reasoning_content": "b"}, {"reasoning_content": "b"}),
    ],
)
def test_reasoning_that_came_under_both_names_leaves_once(delta: dict[str, Any], expected: dict[str, Any]) -> None:
    assert events_of(relayed([vllm(vllm_delta(delta))]))[0]["choices"][0]["delta"] == expected


def test_a_stream_without_an_end_gets_one() -> None:
    for stream in (
        LLAMACPP_USAGE.removesuffix(DONE),
        LLAMACPP_USAGE.removesuffix(b"\n\n"),
        LLAMACPP_USAGE.rstrip(b"]\n"),
    ):
        check_end(events_of(everywhere(stream)), include_usage=False)
    assert everywhere(LLAMACPP_TEXT) == LLAMACPP_TEXT + DONE
    assert everywhere(b"") == DONE


def test_usage_without_a_finish_reason_is_not_lost() -> None:
    for include_usage in (False, True):
        events = events_of(everywhere(LLAMACPP_TEXT + llamacpp(usage=USAGE) + DONE, include_usage=include_usage))
        assert events[-2]["usage"] == USAGE
        assert events[-1] == "[DONE]"


# -- failing


def test_a_server_that_dies_is_never_a_clean_end() -> None:
    found = rewriter(performance=True)
    sent = found.feed(LLAMACPP_TEXT + b'data: {"choices":[{"delta":{"con', NOW)
    assert sent == LLAMACPP_TEXT
    out = found.fail("cannot go on: CUDA out of memory", "upstream_lost")
    assert events_of(out) == [
        {
            "error": {
                "message": "cannot go on: CUDA out of memory",
                "type": "server_error",
                "param": None,
                "code": "upstream_lost",
            }
        },
        "[DONE]",
    ]
    assert found.done
    assert found.fail("again", "upstream_lost") == b""


def test_what_was_complete_leaves_before_the_error() -> None:
    found = rewriter()
    found.feed(LLAMACPP_TEXT + llamacpp(llamacpp_delta({}, "stop"), timings=TIMINGS), NOW)
    finish, error, done = events_of(found.fail("gone", "upstream_lost"))
    assert finish["timings"] == TIMINGS
    assert (error["error"]["message"], done) == ("gone", "[DONE]")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"error": {"code": 500, "message": "out of memory", "type": "server_error"}}, {"message": "out of memory"}),
        ({"error": {"message": "failed", "trace": "Traceback"}}, {"message": "failed"}),
        ({"error": "failed"}, {"message": "failed"}),
        (
            {"object": "error", "message": "bad", "type": "BadRequestError", "param": "stop", "code": 400},
            {"message": "bad", "type": "BadRequestError", "param": "stop"},
        ),
        (
            {"error": {"message": "longer than the context length", "type": "BadRequestError", "code": 400}},
            {
                "message": "longer than the context length",
                "type": "BadRequestError",
                "code": "context_length_exceeded",
            },
        ),
        (
            {"choices": [{"delta": {}}], "error": {"message": "failed", "type": "x", "code": None}},
            {"message": "failed", "type": "x"},
        ),
        (
            {"error": {"reason": 1}, "event": {"type": "execute"}},
            {"message": "the inference server failed without saying why"},
        ),
    ],
)
def test_a_servers_error_takes_one_shape_and_ends_the_stream(sent: Any, said: Any) -> None:
    out = everywhere(LLAMACPP_TEXT + event(sent) + LLAMACPP_TEXT)
    assert out.startswith(LLAMACPP_TEXT)
    error = {"type": "server_error", "param": None, "code": "upstream_error"} | said
    assert events_of(out[len(LLAMACPP_TEXT) :]) == [{"error": error}, "[DONE]"]


def test_an_error_has_no_choices() -> None:
    assert error_events('say "why"', "upstream_lost") == (
        b'data: {"error":{"message":"say \\"why\\"","type":"server_error","param":null,"code":"upstream_lost"}}\n\n'
        b"data: [DONE]\n\n"
    )


# -- what a second attempt must not repeat

OPENING = llamacpp(llamacpp_delta({"role": "assistant", "content": None}))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_role_alone_waits_for_the_first_token(engine: str) -> None:
    found = rewriter()
    stream = ENGINES[engine]
    for at in range(len(stream)):
        out = found.feed(stream[at : at + 1], NOW)
        said = [chunk for chunk in events_of(out) if chunk["choices"]]
        assert found.started is bool(said)
        if said:
            break
    assert any(said[-1]["choices"][0]["delta"].get(key) for key in ("content", "reasoning_content"))


def test_comments_dont_wait_and_are_no_answer() -> None:
    found = rewriter()
    assert found.feed(b": ping\n\n" + OPENING + b": ping\n\n", NOW) == b": ping\n\n: ping\n\n"
    assert not found.started
    text = llamacpp(llamacpp_delta({"content": "a"}))
    assert found.feed(text, NOW) == OPENING + text
    assert found.started
    assert found.feed(OPENING, NOW) == OPENING, "what comes in the middle of an answer is none of our business"


def test_a_role_that_nothing_follows_leaves_at_the_end() -> None:
    assert everywhere(OPENING) == OPENING + DONE
    assert everywhere(OPENING + DONE) == OPENING + DONE
    finish = llamacpp(llamacpp_delta({}, "stop"), usage=USAGE)
    assert everywhere(OPENING + finish + DONE).startswith(OPENING)
    failed = everywhere(OPENING + event({"error": {"message": "gone"}}))
    assert failed.startswith(OPENING)
    found = rewriter()
    assert found.feed(OPENING, NOW) == b""
    assert found.fail("gone", "upstream_lost").startswith(OPENING)


@pytest.mark.parametrize(
    "chunk",
    [
        llamacpp(llamacpp_delta({"role": "assistant", "content": None}), prompt_progress={"total": 10}),
        llamacpp(llamacpp_delta({"role": "assistant", "audio": {"id": "x"}})),
        llamacpp(llamacpp_delta({})),
        llamacpp(),
    ],
)
def test_what_says_more_than_the_role_doesnt_wait(chunk: bytes) -> None:
    assert rewriter().feed(chunk, NOW) == chunk


# -- what is a sign of life only


@pytest.mark.parametrize("comment", [b": ping\n\n", b":\r\n\r\n", b": ping", b"\n\n", b"retry: 10\n\n", b"\r\n"])
def test_comments_say_nothing(comment: bytes) -> None:
    found = rewriter()
    found.feed(LLAMACPP_TEXT, NOW)
    assert not found.silent
    found.feed(comment, NOW)
    assert found.silent


@pytest.mark.parametrize(
    "piece",
    [
        LLAMACPP_TEXT,
        b": ping\n\n" + LLAMACPP_TEXT + b": ping\n\n",
        b": ping\n\n" + LLAMACPP_TEXT[:20],
        OPENING,
        b"data: {}\n\n",
        b"data: odd\n\n",
    ],
)
def test_data_says_something_wherever_it_stands(piece: bytes) -> None:
    for known in (b"", LLAMACPP_TEXT * 2):
        found = rewriter()
        found.feed(known + b": ping\n\n", NOW)
        found.feed(piece, NOW)
        assert not found.silent


# -- what the model is called


def test_a_reply_names_the_model_as_the_client_did() -> None:
    for engine, stream in ENGINES.items():
        out = everywhere(stream, names=naming("chat", "m", "elsewhere", None))
        assert {chunk["model"] for chunk in events_of(out)[:-1]} == {"chat"}, engine
        assert events_of(out.replace(b'"model":"chat"', b'"model":"m"')) == events_of(relayed([stream]))
    body = reply(usage=USAGE, timings=TIMINGS)
    assert json.loads(rewritten(body, names=naming("chat", "m")))["model"] == "chat"


def test_any_other_name_is_the_servers_own_word() -> None:
    names = naming("chat", "elsewhere")
    assert everywhere(LLAMACPP_USAGE, names=names) == everywhere(LLAMACPP_USAGE)
    body = reply(usage=USAGE, timings=TIMINGS)
    assert rewritten(body, names=names) is body
    assert rewritten(reply(usage=USAGE, timings=TIMINGS, model=["m"]), names=names)


def test_names_that_are_the_same_cost_nothing() -> None:
    assert naming("chat", "chat", None) is None
    assert naming("chat", None) is None


def test_a_renamed_token_is_learned_like_any_other() -> None:
    found = rewriter(names=naming("chat", "m"))
    for text in ("a", "b", "c"):
        piece = llamacpp(llamacpp_delta({"content": text}))
        assert found.feed(piece, NOW) == piece.replace(b'"model":"m"', b'"model":"chat"')
    assert found.quickly(llamacpp(llamacpp_delta({"content": "d"}))) is not None


def test_tabbyapis_completions_say_model_as_the_others_do() -> None:
    choice = {"index": 0, "finish_reason": None, "text": "Hello", "logprobs": None}
    about = {"id": "cmpl-1", "created": 1, "model_name": "m", "object": "text_completion"}
    out = everywhere(event({**about, "choices": [choice]}, "\r\n\r\n") * 2, chat=False, names=naming("chat", "m"))
    assert [(chunk["model"], chunk.get("model_name")) for chunk in events_of(out)[:-1]] == [("chat", None)] * 2


# -- what a server has no business sending

EXECUTE = {"type": "execute", "data": {"code": "document.title='owned'"}}


@pytest.mark.parametrize(
    "key", ["event", "selected_model_id", "sources", "done", "output", "content", "type", "timings", "choices"]
)
def test_keys_that_front_ends_act_on_or_choke_on_are_removed(key: str) -> None:
    for value in (None,) if key in ("timings", "choices") else (None, EXECUTE, True, "x"):
        choices = {} if key == "choices" else {"choices": [llamacpp_delta({"content": "Hello"})]}
        stream = event({key: value, "id": "c", **choices}) * 3
        events = events_of(everywhere(stream + DONE))
        assert events == [{"id": "c", **choices}] * 3 + ["[DONE]"]


def hidden(payload: str) -> bytes:
    return f"data: {payload}\n\n".encode()


CHOICES = '"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]'
EVIL = '{"type":"execute","data":{"code":"1"}}'


@pytest.mark.parametrize(
    "attack",
    [
        hidden(f'{{{CHOICES},"\\u0065vent":{EVIL}}}'),
        hidden(f'{{"ev\\u0065nt":null,"event":{EVIL},{CHOICES},"event":{EVIL}}}'),
        hidden(f'{{ "event" : {EVIL} , {CHOICES} }}'),
        hidden(f'{{{CHOICES},"x":NaN,"event":{EVIL}}}'),
        hidden(f'{{{CHOICES},"x":"\\ud800","event":{EVIL}}}'),
        hidden(f'{{{CHOICES},"\\ud800":1,"event":{EVIL}}}'),
        hidden(f'{{{CHOICES},"x":"\t","event":{EVIL}}}'),
        hidden(f'\u00a0{{{CHOICES},"event":{EVIL}}}\u3000'),
        b"\xef\xbb\xbf" + hidden(f'{{{CHOICES},"event":{EVIL}}}'),
        hidden(f'{{{CHOICES},"x":"?","event":{EVIL}}}').replace(b"?", b"\xff"),
        f'data:{{{CHOICES},"event":{EVIL}}}\r\r'.encode(),
        f'data: {{{CHOICES},\r\ndata: "event":{EVIL}}}\r\n\r\n'.encode(),
        f': x\rdata: {{{CHOICES},"event":{EVIL}}}\n\n'.encode(),
        f'data: {{{CHOICES}}}\rdata: {{"event":{EVIL}}}\n\n'.encode(),
        f'data: [\ndata: {{{CHOICES},"event":{EVIL}}}\ndata: ]\n\n'.encode(),
        f'id: 1\nevent: message\ndata: {{"event":{EVIL},{CHOICES}}}\n\n'.encode(),
        hidden(f'{{"event":{EVIL},"x":' + "[" * 5000 + "]" * 5000 + "}"),
        hidden(f'{{"choices":[{{"delta":{{"content":"Hello"}},"x":{"[" * 900 + "]" * 900}}}],"event":{EVIL}}}'),
    ],
)
def test_an_event_for_the_front_end_never_passes_however_it_is_hidden(attack: bytes) -> None:
    for before in (b"", hidden(f"{{{CHOICES}}}") * 2):
        pieces = [before, attack, DONE] if len(attack) > 4000 else None
        out = relayed(pieces) if pieces else everywhere(before + attack + DONE)
        assert b"execute" not in out
        assert out.endswith(DONE)


@pytest.mark.parametrize(
    "text",
    [
        '"event":{"type":"execute"}',
        '{"finish_reason":"stop","usage":{"a":1}}',
        "data: [DONE]\n\n",
        '\\", "error": {"message": "x"}',
        "[DONE]",
        '"reasoning": "x"',
        "\r\n\r\n",
        "\\",
        "~a-text-nobody-writes~",
    ],
)
def test_words_within_the_text_are_never_touched(text: str) -> None:
    for key in ("content", "reasoning_content"):
        piece = llamacpp(llamacpp_delta({key: text}))
        stream = LLAMACPP_TEXT + piece * 3
        assert everywhere(stream) == stream + DONE
        found = rewriter()
        found.feed(LLAMACPP_TEXT, NOW)
        for _ in range(3):
            assert found.feed(piece, NOW) is piece


@pytest.mark.parametrize(
    "text",
    [
        b'x"},"finish_reason":null}],"event":{"type":"execute"},"y":[{"a":{"b":"',
        b'x"},"finish_reason":"stop"}],"y":[{"a":{"b":"',
        b'\\"},"finish_reason":null}],"event":{"type":"execute"},"y":[{"a":{"b":"\\\\',
        b'\\\\"},"finish_reason":null}],"event":{"type":"execute"},"y":[{"a":{"b":"',
        b"a\\",
        b"a\\\\\\",
        b"a\n\ndata: [DONE]\n\n",
        b"a\\n\n\ndata: [DONE]\n\n",
        b"a\r\rdata: [DONE]\r\r",
        b"",
    ],
)
def test_an_event_that_begins_and_ends_like_the_last_is_still_read_when_its_text_isnt_one(text: bytes) -> None:
    known = hidden(f'{{{CHOICES},"z":"1"}}')
    forged = known.replace(b"Hello", text)
    found, fresh = rewriter(), rewriter()
    for _ in range(3):
        assert found.feed(known, NOW) is known
    out = found.feed(forged, NOW)
    assert out == fresh.feed(forged, NOW)
    assert (found.done, found.finished) == (fresh.done, fresh.finished)
    with contextlib.suppress(ValueError):  # what isn't JSON no client can act on
        assert all("event" not in payload for payload in events_of(out))


def test_several_events_in_one_piece_are_each_looked_at() -> None:
    known, evil = hidden(f"{{{CHOICES}}}"), hidden(f'{{{CHOICES},"event":{EVIL}}}')
    found = rewriter()
    for _ in range(3):
        assert found.feed(known + evil + known, NOW) == known * 3


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    found = rewriter()
    with pytest.raises(UpstreamGarbage):
        for _ in range(17):
            found.feed(b"x" * 1024 * 1024, NOW)


@pytest.mark.parametrize(
    "stream",
    [
        b": ping\n\n",
        b"\n\n\n",
        b"retry: 10\n\n",
        b"data: not json\n\n",
        b"data: 7\n\n",
        b"data: [1,2]\n\n",
        b"data: null\n\n",
        b"data:\n\n",
        b'id: 1\nevent: message\ndata: {"choices":[]}\n\n',
        b': ping\r\n\r\ndata: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n',
        b'data: {"choices":[{"delta":{"content":"a"}}]}\r\r: ping\r\r',
        b'data: {"prompt_progress":{"total":10},"usage":null,"error":null}\n\n',
        b'data: {"choices":"odd"}\n\n',
        b'data: {"choices":[1]}\n\n',
        b'data: {"choices":[{"delta":"odd","finish_reason":null}]}\n\n',
    ],
)
def test_what_is_not_understood_but_harmless_passes(stream: bytes) -> None:
    assert everywhere(stream + DONE) == stream + DONE


def test_numbers_in_a_changed_chunk_are_never_rounded() -> None:
    odd = '{"event":1,"choices":[{"delta":{"content":"a"},"p":1.0}],"x":123456789012345678901234567890,"y":1e400}'
    assert relayed([hidden(odd)]) == hidden(odd.replace('"event":1,', "")) + DONE


# -- at random

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["event", "type", "usage", "timings", "choices", "error", "id", "object", "content", "x"]
DELTAS = st.dictionaries(st.sampled_from(["content", "reasoning", "reasoning_content", "role", "tool_calls"]), ANY)
CHOICE = st.fixed_dictionaries({"delta": DELTAS | ANY}, optional={"finish_reason": ANY, "index": ANY})
CHUNK = st.dictionaries(st.sampled_from(KEYS), ANY, max_size=4).flatmap(
    lambda top: st.lists(CHOICE, max_size=2).map(lambda choices: top | {"choices": choices})
)
END = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n\r\n"])
EVENT = st.builds(event, CHUNK | ANY, END) | st.sampled_from(
    [DONE, b": ping\n\n", b"\n", *[vllm(vllm_delta({"content": c})) for c in "ab"]]
)


@given(st.lists(EVENT, max_size=5), st.lists(st.integers(0, 2000)), st.booleans(), st.booleans())
def test_no_stream_depends_on_where_it_is_cut(events: list[bytes], cuts: list[int], usage: bool, line: bool) -> None:
    stream = b"".join(events)
    marks = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[start:end] for start, end in pairwise(marks)]
    options = {"include_usage": usage, "performance": line}
    whole = relayed([stream], **options)
    assert relayed(pieces, **options) == whole
    assert whole.rstrip(b"\r\n").endswith(b"data: [DONE]")
    assert sum(1 for found in objects_of(whole) if found.get("usage")) <= 1
    for found in objects_of(whole):
        assert found.keys().isdisjoint({"event", "type", "content"})
        assert found.get("timings", 1) is not None


def objects_of(stream: bytes) -> list[Any]:
    lines = stream.replace(b"\r", b"\n").split(b"\n")
    payloads = [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
    found = [json.loads(payload) for payload in payloads if payload != b"[DONE]"]
    return [payload for payload in found if isinstance(payload, dict)]


@given(st.lists(st.binary(max_size=40) | EVENT, max_size=4), st.integers(0, 200))
def test_no_bytes_at_all_break_it(parts: list[bytes], cut: int) -> None:
    stream = b"".join(parts)
    assert relayed([stream[:cut], stream[cut:]]) == relayed([stream])


# -- replies in one piece


def reply(message: Any = None, **more: Any) -> bytes:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "model": "m", **more}).encode()


def rewritten(body: bytes, *, chat: bool = True, performance: bool = False, names: Naming | None = None) -> bytes:
    options = {"chat": chat, "performance": performance, "sent_at": SENT_AT, "now": NOW, "names": names}
    return rewrite_reply(body, **options)[0]


def test_a_reply_that_has_everything_is_the_same_object() -> None:
    body = reply(usage=USAGE, timings=TIMINGS)
    assert rewritten(body) is body


def test_a_reply_gets_the_timings_that_its_server_lacks() -> None:
    found = json.loads(rewritten(reply(usage=USAGE)))
    assert (
        found["timings"].items() >= {"predicted_n": 128, "predicted_ms": 4000.0, "predicted_per_second": 32.0}.items()
    )
    assert found["timings"].keys() == {key for key in TIMINGS if key == "prompt_n" or not key.startswith("prompt")}
    del found["timings"]
    assert found == json.loads(reply(usage=USAGE))


def test_tabbyapis_seconds_become_timings_in_a_whole_reply_too() -> None:
    found = json.loads(rewritten(reply(usage=TABBY_USAGE), performance=True))
    assert found["usage"] == USAGE
    assert found["timings"].items() >= {"predicted_ms": 2831.0, "prompt_ms": 30.5, "predicted_n": 128}.items()
    assert "[Performance: 45.2 tok/s | 128 tokens in 2.83s]" in found["choices"][0]["message"]["content"]


def test_cached_tokens_leave_the_prompts_count() -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}
    stream = VLLM.replace(json.dumps(USAGE, separators=(",", ":")).encode(), json.dumps(usage).encode())
    timings = check_end(events_of(everywhere(stream)), include_usage=False)["timings"]
    assert (timings["cache_n"], timings["prompt_n"]) == (4, 6)


def test_the_short_way_and_the_long_way_say_the_same_of_a_reply() -> None:
    usual = {
        "prompt_tokens": 30,
        "completion_tokens": 7,
        "total_tokens": 37,
        "prompt_tokens_details": {"cached_tokens": 9},
    }
    short = json.loads(rewritten(reply(usage=usual)))
    long = json.loads(rewritten(reply(usage=usual | {"of_another_shape": 1})))
    assert short["timings"] == long["timings"]
    assert list(short["timings"]) == list(long["timings"])


def test_a_reply_gets_the_performance_line_at_its_end() -> None:
    found = json.loads(rewritten(reply(usage=USAGE, timings=TIMINGS), performance=True))
    text = found["choices"][0]["message"]["content"]
    assert text == f"Hello{MARK}\n\n[Performance: 45.2 tok/s | 128 tokens in 2.83s]{MARK}"
    assert json.loads(rewritten(reply(usage=USAGE, timings=TIMINGS), performance=True, chat=False)) == json.loads(
        reply(usage=USAGE, timings=TIMINGS)
    )


def test_a_reply_that_nobody_counted_is_estimated() -> None:
    for usage in ({}, {"usage": None}):
        found = json.loads(rewritten(reply({"role": "assistant", "content": "x" * 399}, **usage), performance=True))
        assert found["usage"] == {"prompt_tokens": 0, "completion_tokens": 100, "total_tokens": 100}
        assert "[Performance: ~25.0 tok/s | ~100 tokens in 4.00s]" in found["choices"][0]["message"]["content"]


def test_a_reply_with_tool_calls_only_keeps_its_null_content() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}
    found = json.loads(rewritten(reply(message, usage=USAGE), performance=True))
    assert found["choices"][0]["message"] == message


def test_a_reply_is_cleaned_like_a_chunk() -> None:
    message = {"role": "assistant", "reasoning": "hm", "content": "Hello"}
    found = json.loads(rewritten(reply(message, usage=USAGE, timings=TIMINGS, event=EXECUTE)))
    assert "event" not in found
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"7", b"<html>", b'{"error":{"message":"x"}}', b'{"detail":"x"}', b'{"choices":null}',
        b'{"choices":[]}', b'{"choices":"x","event":1}', b'{"data":[{"embedding":[0.1]}]}', b"\xff\xfe", b"{" * 100_000,
        b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_completion_passes_as_it_is(body: bytes) -> None:
    assert rewritten(body, performance=True) is body


@given(st.dictionaries(st.text(), ANY), st.text(), st.booleans())
def test_whatever_else_is_in_a_reply_stays(more: dict[str, Any], content: str, performance: bool) -> None:
    extra = {
        key: value
        for key, value in more.items()
        if key not in {*KEYS, "done", "output", "sources", "selected_model_id"}
    }
    body = reply({"role": "assistant", "content": content}, usage=USAGE, **extra)
    found = json.loads(rewritten(body, performance=performance))
    assert found.pop("timings")
    text = found["choices"][0]["message"]["content"]
    assert clean(text) == clean(content)
    found["choices"][0]["message"]["content"] = content
    assert found == json.loads(body)
