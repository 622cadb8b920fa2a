"""What the router reads in a request, and what it changes of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.errors import InvalidRequest
from llm_router.relay.body import read
from llm_router.relay.outgoing import rewrite
from llm_router.relay.request import Parameters
from llm_router.relay.status_text import marked

LONG = "a long text that says model and stream without meaning it. " * 40


def body(**keys: Any) -> bytes:
    return json.dumps({"model": "qwen", "messages": [{"role": "user", "content": "hi"}], **keys}).encode()


def sent(
    given_body: bytes,
    *,
    served_name: str | None = None,
    ask_usage: bool = False,
    parameters: Parameters | None = None,
) -> bytes:
    return rewrite(given_body, read(given_body), served_name=served_name, ask_usage=ask_usage, parameters=parameters)


# -- reading


def test_a_plain_streaming_chat() -> None:
    facts = read(body(stream=True))
    assert (facts.model, facts.stream, facts.include_usage, facts.plain, facts.background) == (
        "qwen", True, False, True, False,
    )  # fmt: skip


@pytest.mark.parametrize(("keys", "stream"), [({}, False), ({"stream": None}, False), ({"stream": False}, False)])
def test_a_stream_must_be_asked_for(keys: dict[str, Any], stream: bool) -> None:
    assert read(body(**keys)).stream is stream


@pytest.mark.parametrize(
    ("options", "asked"),
    [({"include_usage": True}, True), ({"include_usage": False}, False), ({}, False), (None, False)],
)
def test_usage_is_asked_for_in_the_stream_options(options: Any, asked: bool) -> None:
    assert read(body(stream=True, stream_options=options)).include_usage is asked


@pytest.mark.parametrize(
    ("keys", "plain"),
    [
        ({"tools": [{"type": "function"}]}, False),
        ({"tools": []}, True),
        ({"tools": None, "functions": None, "n": None, "response_format": None}, True),
        ({"functions": [{"name": "f"}]}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"response_format": {"type": "text"}}, True),
        ({"n": 2}, False),
        ({"n": 1}, True),
        ({"grammar": 'root ::= "a"'}, False),
        ({"regex": "a+"}, False),
    ],
)
def test_text_may_be_added_only_where_no_program_parses_it(keys: dict[str, Any], plain: bool) -> None:
    assert read(body(**keys)).plain is plain


TASK = "### Task:\nGenerate a concise, 3-5 word title"


@pytest.mark.parametrize(
    ("messages", "stream", "background"),
    [
        ([{"role": "user", "content": TASK}], False, True),
        ([{"role": "user", "content": TASK}], None, True),
        ([{"role": "user", "content": [{"type": "text", "text": TASK}]}], False, True),
        ([{"role": "user", "content": TASK}], True, False),
        ([{"role": "system", "content": TASK}], False, False),
        ([{"role": "user", "content": "hi"}, {"role": "user", "content": TASK}], False, False),
        ([{"role": "user", "content": "what does ### Task:\n mean"}], False, False),
        ([{"role": "user", "content": "### Task: other"}], False, False),
        ([{"role": "user", "content": []}], False, False),
        ("### Task:\n", False, False),
    ],
)
def test_open_webuis_own_requests_are_background(messages: Any, stream: bool | None, background: bool) -> None:
    assert read(body(messages=messages, stream=stream)).background is background


@pytest.mark.parametrize(
    ("bad", "param", "says"),
    [
        (b"", None, "empty"),
        (b"  \n", None, "empty"),
        (b"{", None, "JSON"),
        (b'{"model":"a",}', None, "JSON"),
        (b'{"model":"a"} x', None, "JSON"),
        (b"[]", None, "object"),
        (b'"model"', None, "object"),
        (b"null", None, "object"),
        (b'{"model":"a","x":"\xff"}', None, "UTF-8"),
        (b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "deep"),
        (b'{"model":"a","model":1,"x":' + b"[" * 100_000, None, ""),
        (b"{}", "model", "you must name a model"),
        (b'{"model":""}', "model", "you must name a model"),
        (b'{"model":null}', "model", "you must name a model"),
        (b'{"model":7}', "model", "string"),
        (b'{"model":["a"]}', "model", "string"),
        (b'{"model":"a","stream":"true"}', "stream", "true or false"),
        (b'{"model":"a","stream":1}', "stream", "true or false"),
        (b'{"model":"a","stream_options":"usage"}', "stream_options", "object"),
        (b'{"model":"a","stream_options":[1]}', "stream_options", "object"),
        (b'{"model":"a","model":"b"}', "model", "twice"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model", "twice"),
        (b'{"mod\\u0065l":"a","\\u006dodel":"b"}', "model", "twice"),
        (b'{"model":"a","stream":true,"stream":false}', "stream", "twice"),
        (b'{"model":"a","stream_options":{},"x":1,"stream_options":null}', "stream_options", "twice"),
    ],
)  # fmt: skip
def test_a_body_that_cant_be_used_says_what_is_wrong(bad: bytes, param: str | None, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(bad)
    assert caught.value.param == param
    assert says in caught.value.message
    assert caught.value.message.startswith("cannot ")
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("times", [1, 3])
def test_two_models_are_found_around_long_messages_too(times: int) -> None:
    messages = json.dumps([{"role": "user", "content": LONG * times + '"model" "stream"'}])
    with pytest.raises(InvalidRequest, match="twice"):
        read(f'{{"model":"a","messages":{messages},"model":"b"}}'.encode())
    assert read(f'{{"model":"a","messages":{messages},"stream":true}}'.encode()).stream


def test_a_word_within_a_value_is_no_second_key() -> None:
    tools = [{"function": {"parameters": {"properties": {"model": {}, "stream": {}}, "required": ["model", "stream"]}}}]
    for messages in ([{"role": "user", "content": 'set "model" and "stream"'}], [{"role": "user", "content": LONG}]):
        facts = read(body(stream=True, tools=tools, messages=messages))
        assert (facts.model, facts.stream) == ("qwen", True)


def test_a_bytearray_reads_like_bytes() -> None:
    given_body = body(stream=True)
    assert read(bytearray(given_body)) == read(given_body)
    changed = rewrite(bytearray(given_body), read(given_body), served_name="x", ask_usage=True, parameters=None)
    assert changed == sent(given_body, served_name="x", ask_usage=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary())
def test_no_bytes_at_all_raise_anything_else(data: bytes) -> None:
    for tried in (
        data,
        b'{"model":"a","x":' + data + b"}",
        b'{"model":"a","messages":[{"role":"\\u2063' + data + b'"}]}',
    ):
        try:
            facts = read(tried)
            rewrite(tried, facts, served_name="b", ask_usage=True, parameters=None)
        except InvalidRequest:
            continue


# -- rewriting


def test_a_body_with_nothing_to_change_is_the_same_object() -> None:
    for given_body in (body(stream=True), body(), body(stream=True, stream_options={"include_usage": True})):
        assert sent(given_body) is given_body
        assert sent(given_body, served_name="qwen") is given_body
    given_body = body(stream=True, stream_options={"include_usage": True})
    assert sent(given_body, ask_usage=True) is given_body
    assert json.loads(sent(body(), ask_usage=True))["stream_options"] == {"include_usage": True}


@given(st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from(["m", 'a"b', "\\", "ü"]), st.booleans(), JSON)
def test_only_what_was_asked_for_changes(extra: dict[str, Any], name: str, ascii_only: bool, content: Any) -> None:
    asked = extra | {"model": name, "stream": True, "messages": [{"role": "assistant", "content": content}]}
    if not isinstance(asked.get("stream_options"), dict | None):
        del asked["stream_options"]
    given_body = json.dumps(asked, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        facts = read(given_body)
    except InvalidRequest:
        return  # a lone surrogate
    if b"\\u2063" in given_body or "\u2063".encode() in given_body:
        return
    changed = rewrite(given_body, facts, served_name="/models/ünï", ask_usage=True, parameters=None)
    expected = asked | {
        "model": "/models/ünï",
        "stream_options": {**(asked.get("stream_options") or {}), "include_usage": True},
    }
    assert json.loads(changed) == expected
    defaults = Parameters(defaults={"model": "no"}, overrides={"top_k": 5}, removals=("nothing",))
    changed = rewrite(given_body, facts, served_name="/models/ünï", ask_usage=True, parameters=defaults)
    assert json.loads(changed) == expected | {"top_k": 5}


@pytest.mark.parametrize(
    "options", ["", ',"stream_options":null', ',"stream_options":{"continuous_usage_stats":true,"include_usage":false}']
)
def test_usage_is_asked_for_and_other_options_stay(options: str) -> None:
    changed = json.loads(sent(f'{{"model":"a","stream":true{options}}}'.encode(), ask_usage=True))
    assert changed["stream_options"].pop("include_usage") is True
    assert changed["stream_options"] == ({"continuous_usage_stats": True} if "continuous" in options else {})


NUMBERS = b"1.0 1 -0.0 1e400 123456789012345678901234567890 0.1000000000000000055511151231257827 1E+2 0.30".split()


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_never_rounded(number: bytes) -> None:
    given_body = (
        b'{"model":"a","stream":true,"seed":%b,"x":{"y":[%b]},"tools":[{"model":%b}],"stream_options":{"a":%b}}'
    )
    changed = sent(given_body.replace(b"%b", number), served_name="b", ask_usage=True)
    assert changed.count(b":" + number) + changed.count(b"[" + number + b"]") == 4


def test_the_model_is_found_wherever_it_stands() -> None:
    for given_body in (
        b'{ "messages" : ["model"] , "stream":true, "model" \n:\t"a\\"b" }',
        b'{"messages":[{"model":"x"}],"model":"a","stream":true}',
        b'{"x":"\\"model\\":\\"y\\"","model":"a","stream":true}',
        b'{"messages":["\\u0041 \\"model\\""],"m\\u006fdel":"a","stream":true}',
    ):
        changed = json.loads(sent(given_body, served_name="served", ask_usage=True))
        assert changed["model"] == "served"
        before = json.loads(given_body)
        assert {**changed, "model": before["model"]} == {**before, "stream_options": {"include_usage": True}}


def test_parameters_remove_then_fill_in_then_override() -> None:
    parameters = Parameters(
        defaults={"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "user": "router"},
        overrides={"max_tokens": 100, "chat_template_kwargs": {"enable_thinking": False}},
        removals=("logit_bias", "user"),
    )
    given_body = body(temperature=0.1, top_p=None, max_tokens=9999, logit_bias={"1": 2}, user="me")
    assert json.loads(sent(given_body, parameters=parameters)) == json.loads(body()) | {
        "temperature": 0.1,
        "top_p": 0.9,
        "min_p": 0.1,
        "user": "router",
        "max_tokens": 100,
        "chat_template_kwargs": {"enable_thinking": False},
    }


# -- a clean history

STATUS = marked("⏳ Loading model... 0s / 180s") + marked("\n✓ Model ready! (1.4s)\n\n")
FIGURES = marked("\n\n[Performance: 45.2 tok/s | 128 tokens in 2.83s]")


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("said", ["Hello", "", "ünï 🎉 \n\n trailing \n", "a\u2063b", 'quotes " and \\ backslashes'])
@pytest.mark.parametrize("shape", ["string", "parts", "reasoning_content", "reasoning"])
def test_the_model_sees_exactly_what_it_wrote(ascii_only: bool, said: str, shape: str) -> None:
    def request(text: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if shape == "parts":
            image = {"type": "image_url", "image_url": {"url": "data:,"}}
            message["content"] = [{"type": "text", "text": text}, image, {"type": "text", "text": ""}]
        elif shape != "string":
            message = {"role": "assistant", "content": None, shape: text}
        return {"model": "m", "seed": 1, "messages": [{"role": "user", "content": "hi"}, message]}

    given_body = json.dumps(request(STATUS + said + FIGURES), ensure_ascii=ascii_only).encode()
    assert json.loads(sent(given_body)) == request(said)


def test_only_assistant_messages_are_cleaned() -> None:
    for role in ("user", "system", "tool"):
        given_body = body(messages=[{"role": role, "content": STATUS + "quoted"}])
        assert json.loads(sent(given_body)) == json.loads(given_body)


@pytest.mark.parametrize(
    "messages", [None, "\u2063", ["\u2063"], [{"content": "\u2063"}], [{"role": "assistant", "content": {"\u2063": 1}}]]
)
def test_messages_of_an_unknown_shape_are_the_servers_to_refuse(messages: Any) -> None:
    given_body = body(messages=messages, note="\u2063")
    assert json.loads(sent(given_body)) == json.loads(given_body)


@pytest.mark.parametrize("backslashes", [0, 1, 31, 32, 33, 200])
@pytest.mark.parametrize("marked_text", [True, False])
def test_escaped_marks_are_found_behind_any_number_of_backslashes(backslashes: int, marked_text: bool) -> None:
    text = "line\n" * backslashes + (marked("⏳ Loading") if marked_text else "")
    body = json.dumps({"model": "m", "messages": [{"role": "assistant", "content": text + "kept"}]}).encode()
    facts = read(body)
    assert facts.has_marks is marked_text
    sent = json.loads(rewrite(body, facts, served_name=None, ask_usage=False, parameters=None))
    assert sent["messages"][0]["content"] == "line\n" * backslashes + "kept"
