"""Ollama's requests become OpenAI's: what each part of them is called there, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.dialects import ollama_request
from llm_router.dialects.ollama_request import Asked
from llm_router.errors import InvalidRequest
from llm_router.relay import body as bodies

USER = {"role": "user", "content": "hello"}


def asked_to_chat(**more: Any) -> Asked:
    request = {"model": "m:latest", "messages": [USER], **more}
    return ollama_request.chat(json.dumps(request).encode(), name="m")


def chat(**more: Any) -> dict[str, Any]:
    body = asked_to_chat(**more).body
    assert body is not None
    found: dict[str, Any] = json.loads(body)
    return found


def asked_to_generate(*, chats: bool = True, **more: Any) -> Asked:
    return ollama_request.generate(json.dumps({"model": "m", **more}).encode(), name="m", chats=chats)


def generate(*, chats: bool = True, **more: Any) -> dict[str, Any]:
    body = asked_to_generate(chats=chats, **more).body
    assert body is not None
    found: dict[str, Any] = json.loads(body)
    return found


def test_a_chat_streams_unless_it_says_otherwise() -> None:
    assert chat() == {"model": "m", "stream": True, "messages": [USER]}
    assert asked_to_chat().stream is True
    assert asked_to_chat().model == "m:latest", "the reply says the name that was asked for"
    assert chat(stream=False)["stream"] is False
    assert asked_to_chat(stream=False).stream is False


def test_options_go_by_the_names_that_servers_know() -> None:
    options = {
        "num_predict": 5,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["a"],
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "mirostat": 2,
    }
    assert chat(options=options) == chat() | {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["a"],
        "repeat_penalty": 1.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "mirostat": 2,
    }


@pytest.mark.parametrize("options", [None, {}, {"num_ctx": 8192, "num_gpu": 99, "use_mmap": True}, {"num_predict": -1}])
def test_what_is_the_configurations_is_passed_over(options: object) -> None:
    assert chat(options=options, truncate=True, shift=True) == chat()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("", None),
        (None, None),
        ("json", {"type": "json_object"}),
        (
            {"type": "object"},
            {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}}},
        ),
    ],
)
def test_the_form_of_the_answer(form: object, said: object) -> None:
    assert chat(format=form).get("response_format") == said


@pytest.mark.parametrize(
    ("think", "said", "shown"),
    [
        (None, {}, True),
        (True, {"chat_template_kwargs": {"enable_thinking": True}}, True),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}, False),
        ("low", {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"}, True),
    ],
)
def test_whether_to_think_and_whether_to_show_it(think: object, said: dict[str, Any], shown: bool) -> None:
    assert chat(think=think) == chat() | said
    assert asked_to_chat(think=think).thinking is shown


def test_logprobs_are_asked_for() -> None:
    assert chat(logprobs=True, top_logprobs=3) == chat() | {"logprobs": True, "top_logprobs": 3}
    assert generate(prompt="x", raw=True, logprobs=True, top_logprobs=3)["logprobs"] == 3


@pytest.mark.parametrize(
    ("data", "kind"),
    [("iVBORw0K", "image/png"), ("/9j/4AAQ", "image/jpeg"), ("R0lGODlh", "image/gif"), ("UklGRg", "image/webp")],
)
def test_pictures_are_known_by_how_they_begin(data: str, kind: str) -> None:
    [message] = chat(messages=[{**USER, "images": [data]}])["messages"]
    assert message["content"] == [
        {"type": "text", "text": "hello"},
        {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}},
    ]


def test_calls_get_ids_and_each_result_goes_to_the_first_open_call_of_its_tool() -> None:
    called = {
        "role": "assistant",
        "content": "",
        "thinking": "hm",
        "tool_calls": [
            {"function": {"name": "a", "arguments": {"n": 1}}},
            {"function": {"name": "b", "arguments": {}}},
            {"function": {"name": "a", "arguments": {"n": 2}}},
        ],
    }
    results = [
        {"role": "tool", "content": text, "tool_name": name} for text, name in [("B", "b"), ("1", "a"), ("2", "a")]
    ]
    said = chat(messages=[USER, called, *results])["messages"]
    assert said[1]["reasoning_content"] == "hm"
    calls = said[1]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "a", "arguments": '{"n":1}'},
        {"name": "b", "arguments": "{}"},
        {"name": "a", "arguments": '{"n":2}'},
    ]
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == 3
    assert [(message["content"], message["tool_call_id"]) for message in said[2:]] == [
        ("B", ids[1]),
        ("1", ids[0]),
        ("2", ids[2]),
    ]


def test_ids_of_the_clients_own_are_kept() -> None:
    call = {"id": "c9", "function": {"name": "a", "arguments": {}}}
    result = {"role": "tool", "content": "x", "tool_call_id": "c9"}
    said = chat(messages=[USER, {"role": "assistant", "tool_calls": [call]}, result])["messages"]
    assert (said[1]["tool_calls"][0]["id"], said[2]["tool_call_id"]) == ("c9", "c9")


def test_tools_go_as_they_are() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    assert chat(tools=tools) == chat() | {"tools": tools}


def test_a_prompt_is_a_chat_with_one_message() -> None:
    assert generate(prompt="x") == {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    assert generate(prompt="x", system="s", images=["iVBOR"])["messages"] == [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}},
            ],
        },
    ]


def test_a_raw_prompt_or_a_model_without_a_chat_template_continues_the_text() -> None:
    expected = {"model": "m", "stream": True, "prompt": "x"}
    assert generate(prompt="x", raw=True) == expected
    assert generate(prompt="x", chats=False, think=True) == expected
    assert asked_to_generate(prompt="x", raw=True).plain is True


@pytest.mark.parametrize("messages", [[], None])
def test_without_a_question_there_is_nothing_to_relay(messages: object) -> None:
    assert asked_to_chat(messages=messages).body is None
    assert asked_to_generate().body is None
    assert asked_to_generate(prompt="").body is None
    assert ollama_request.embed(b'{"model": "m", "input": []}', name="m").body is None


def test_texts_to_embed_in_both_forms() -> None:
    def embed(**more: Any) -> object:
        body = ollama_request.embed(json.dumps({"model": "m:latest", **more}).encode(), name="m").body
        assert body is not None
        return json.loads(body)

    assert embed(input=["a", "b"], dimensions=8, truncate=True) == {
        "model": "m",
        "input": ["a", "b"],
        "encoding_format": "float",
        "dimensions": 8,
    }
    assert embed(prompt="a") == embed(input="a")


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0),
        ("0", 0),
        ("0s", 0),
        (-1, -1),
        ("-1", -1),
        ("-1m", -60),
        (300, 300),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("500ms", 0.5),
    ],
)
def test_how_long_a_model_is_to_stay(keep_alive: str | float | None, seconds: float | None) -> None:
    assert asked_to_chat(keep_alive=keep_alive).keep_alive_s == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(("name", "plain"), [("a", "a"), ("a:latest", "a"), ("a:7b", "a:7b"), ("x/a:latest", "x/a")])
def test_the_tag_latest_says_nothing(name: str, plain: str) -> None:
    assert ollama_request.untagged(name) == plain


@pytest.mark.parametrize(
    ("name", "listed"),
    [("a", "a:latest"), ("a:7b", "a:7b"), ("x/a", "x/a:latest"), ("host:80/a", "host:80/a:latest")],
)
def test_a_list_has_tags(name: str, listed: str) -> None:
    assert ollama_request.tagged(name) == listed


def test_the_model_may_be_called_by_the_older_key() -> None:
    assert ollama_request.model(b'{"name": "m"}') == ("m", False)
    assert ollama_request.model(b'{"model": "m", "verbose": true}') == ("m", True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": [{"role": "robot"}]}, "robot"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": [1]}]}, "content"),
        ({"options": {"temperature": "hot"}}, "temperature"),
        ({"format": "poem"}, "format"),
        ({"format": 5}, "cannot"),
        ({"think": "hard"}, "think"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": "5 m"}, "keep_alive"),
        ({"model": ""}, "model"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        asked_to_chat(**change)
    assert caught.value.message.startswith("cannot ")


@pytest.mark.parametrize("key", ["suffix", "template"])
def test_what_a_prompt_cannot_have(key: str) -> None:
    with pytest.raises(InvalidRequest, match=key):
        generate(prompt="x", **{key: "y"})


# -- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={
            "content": st.text(max_size=5) | JSON,
            "images": st.lists(st.text(max_size=5), max_size=2),
            "tool_calls": st.lists(
                st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.text(), "arguments": JSON})}),
                max_size=2,
            ),
            "tool_name": st.text(max_size=3),
        },
    ),
    max_size=3,
)
KEYS = [
    "options",
    "format",
    "think",
    "tools",
    "stream",
    "keep_alive",
    "logprobs",
    "top_logprobs",
    "raw",
    "system",
    "images",
    "input",
    "prompt",
]


@given(messages=MESSAGES, more=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_whatever_comes_is_refused_or_makes_a_request_that_the_relay_can_read(
    messages: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    body = json.dumps({"model": "m", "messages": messages, "prompt": "x", **more}).encode()
    for read in (
        lambda: ollama_request.chat(body, name="m"),
        lambda: ollama_request.generate(body, name="m", chats=True),
        lambda: ollama_request.generate(body, name="m", chats=False),
        lambda: ollama_request.embed(body, name="m"),
    ):
        try:
            asked = read()
        except InvalidRequest as error:
            assert error.message.startswith("cannot ")
            continue
        if asked.body is not None:
            facts = bodies.read(asked.body)
            assert (facts.model, facts.stream) == ("m", asked.stream)


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_bytes_come_nothing_breaks(body: bytes) -> None:
    for read in (
        lambda: ollama_request.model(body),
        lambda: ollama_request.chat(body, name="m"),
        lambda: ollama_request.generate(body, name="m", chats=True),
        lambda: ollama_request.embed(body, name="m"),
    ):
        try:
            read()
        except InvalidRequest as error:
            assert error.message.startswith("cannot ")


def test_the_words_that_the_client_puts_into_the_models_mouth_are_known() -> None:
    def begun(*said: dict[str, Any]) -> str:
        return asked_to_chat(messages=[USER, *said]).begun

    assert begun() == ""
    assert begun({"role": "assistant", "content": "{"}) == "{"
    assert begun({"role": "assistant", "content": "{"}, USER) == ""
    assert begun({"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}) == ""
    assert begun({"role": "assistant", "content": None}) == ""
