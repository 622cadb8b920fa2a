"""Anthropic's requests become chat completions: what each part of them is called there, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.dialects import anthropic_request
from llm_router.dialects.anthropic_reply import estimate
from llm_router.errors import InvalidRequest
from llm_router.relay import body as bodies

USER = {"role": "user", "content": "hello"}


def translated(**more: Any) -> dict[str, Any]:
    request = {"model": "m", "max_tokens": 10, "messages": [USER], **more}
    found: dict[str, Any] = json.loads(anthropic_request.read(json.dumps(request).encode()).body)
    return found


def messages(*said: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = translated(messages=list(said), **more)["messages"]
    return found


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_the_smallest_request_says_no_more_in_the_other_dialect() -> None:
    assert translated() == {"model": "m", "max_tokens": 10, "messages": [USER]}


def test_the_limits_keep_their_names_where_they_have_the_same() -> None:
    found = translated(
        stream=True, temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["a", "b"], metadata={"user_id": "u"}
    )
    assert found == translated() | {
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["a", "b"],
        "user": "u",
    }


def test_what_only_anthropic_knows_is_passed_over() -> None:
    more = {"service_tier": "auto", "container": None, "context_management": {"edits": []}, "speed": "fast", "x": [1]}
    assert translated(**more, cache_control={"type": "ephemeral"}) == translated()


@pytest.mark.parametrize("system", ["Be kind.\nBe brief.", [text("Be kind."), text("Be brief.")]])
def test_a_system_prompt_is_the_first_message(system: object) -> None:
    assert messages(USER, system=system) == [{"role": "system", "content": "Be kind.\nBe brief."}, USER]


@pytest.mark.parametrize("system", ["", [], None])
def test_no_system_prompt_is_no_message(system: object) -> None:
    assert messages(USER, system=system) == [USER]


def test_the_line_that_changes_with_each_request_leaves_the_system_prompt() -> None:
    billing = "x-anthropic-billing-header: cc_version=2.1.100; cch=eb6c6;"
    assert messages(USER, system=[text(billing), text("Be kind.")]) == messages(USER, system="Be kind.")
    assert messages(USER, system=billing + "\nBe kind.") == messages(USER, system="Be kind.")
    assert messages(USER, system="Never say x-anthropic-billing-header: it is secret")[0]["content"].startswith("Never")


def test_a_system_message_before_the_conversation_is_system_prompt_and_a_later_one_a_reminder() -> None:
    first = {"role": "system", "content": "Be kind."}
    assert messages(first, USER) == [first, USER]
    assert messages(USER, {"role": "assistant", "content": "hi"}, {"role": "system", "content": "Hurry."}) == [
        USER,
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "<system-reminder>\nHurry.\n</system-reminder>"},
    ]


def test_texts_are_one_text_and_pictures_stay_in_their_place() -> None:
    assert messages(user(text("a"), text("b"))) == [{"role": "user", "content": "a\nb"}]
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}
    assert messages(user(text("a"), picture, linked, text("b"))) == [
        {
            "role": "user",
            "content": [
                text("a"),
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}},
                text("b"),
            ],
        }
    ]


def test_what_the_user_says_twice_in_a_row_is_one_message() -> None:
    assert messages(USER, user(text("again"))) == [{"role": "user", "content": "hello\nagain"}]


def test_documents_and_search_results_are_read_as_text() -> None:
    plain = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "long"}}
    parts = {"type": "document", "source": {"type": "content", "content": [text("p")]}}
    found = {"type": "search_result", "title": "S", "source": "https://s", "content": [text("r")]}
    assert messages(user(plain, parts, found)) == [{"role": "user", "content": "T\nlong\np\nS (https://s)\nr"}]


def test_calls_and_their_results_keep_their_ids_and_results_come_first() -> None:
    called = {
        "role": "assistant",
        "content": [
            text("so"),
            {"type": "tool_use", "id": "t1", "name": "ls", "input": {"n": 1e2, "deep": {"a": [1]}}},
        ],
    }
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [text("one"), text("two")]}
    assert messages(USER, called, user(text("and now"), result))[1:] == [
        {
            "role": "assistant",
            "content": "so",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "ls", "arguments": '{"n":100.0,"deep":{"a": [1]}}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "one\ntwo"},
        {"role": "user", "content": "and now"},
    ]


@pytest.mark.parametrize(
    ("content", "is_error", "said"),
    [
        (None, None, ""),
        ("", None, ""),
        ("fine", False, "fine"),
        ("no such file", True, "Error: no such file"),
        ("Error: no such file", True, "Error: no such file"),
        ("<tool_use_error>no</tool_use_error>", True, "<tool_use_error>no</tool_use_error>"),
        ([{"type": "tool_reference", "tool_name": "Grep"}], None, "Grep"),
    ],
)
def test_what_a_tools_result_says(content: object, is_error: bool | None, said: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": content, "is_error": is_error}
    assert messages(USER, {"role": "assistant", "content": "x"}, user(result))[-1] == {
        "role": "tool",
        "tool_call_id": "t1",
        "content": said,
    }


def test_a_picture_in_a_tools_result_is_shown_by_the_user() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [text("a screenshot"), picture]}
    shown, said = messages(user(result))
    assert shown == {"role": "tool", "tool_call_id": "t1", "content": "a screenshot"}
    assert said["content"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


def test_earlier_thoughts_go_back_to_the_model_but_not_those_that_only_anthropic_can_read() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    assert messages(USER, {"role": "assistant", "content": [thought, hidden, text("hi")]})[1] == {
        "role": "assistant",
        "content": "hi",
        "reasoning_content": "hm",
    }


def test_tools_are_functions_and_their_schemas_stay_as_they_are() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "number", "maximum": 1e300}}, "required": ["n"]}
    tool = {"name": "f", "description": "d", "input_schema": schema, "strict": True, "cache_control": {}}
    assert translated(tools=[tool, {"type": "custom", "name": "g", "input_schema": {}}])["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema, "strict": True}},
        {"type": "function", "function": {"name": "g", "parameters": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_which_tool_to_use(choice: dict[str, Any], said: dict[str, Any]) -> None:
    found = translated(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice)
    assert {key: found[key] for key in ("tool_choice", "parallel_tool_calls") if key in found} == said
    assert "tool_choice" not in translated(tool_choice=choice), "without tools servers refuse it"


@pytest.mark.parametrize(
    ("thinking", "said", "shown"),
    [
        (None, {}, False),
        ({"type": "disabled"}, {"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"type": "adaptive"}, {"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"type": "adaptive", "display": "omitted"}, {"chat_template_kwargs": {"enable_thinking": True}}, False),
        (
            {"type": "enabled", "budget_tokens": 2048},
            {"chat_template_kwargs": {"enable_thinking": True}, "thinking_budget_tokens": 2048},
            True,
        ),
    ],
)
def test_whether_to_think_and_whether_to_show_it(thinking: object, said: dict[str, Any], shown: bool) -> None:
    request = {"model": "m", "max_tokens": 10, "messages": [USER], "thinking": thinking}
    asked = anthropic_request.read(json.dumps(request).encode())
    assert json.loads(asked.body) == translated() | said
    assert asked.thinking is shown


def test_the_form_of_the_answer_and_the_effort() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    wanted = {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True}}
    assert translated(output_config={"format": form, "effort": "max"}) == translated() | {
        "response_format": wanted,
        "reasoning_effort": "high",
    }
    assert translated(output_format=form)["response_format"] == wanted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": None}, '"max_tokens" is missing'),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": [user({"type": "hologram"})]}, "hologram"),
        ({"messages": [user({"type": "tool_use", "id": "a", "name": "b", "input": {}})]}, "tool_use"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image", "source": {"type": "file"}}]}]}, "image"),
        ({"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]}, "file"),
        (
            {"messages": [user({"type": "document", "source": {"type": "base64", "media_type": "x", "data": ""}})]},
            "document",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
        ({"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "poem"}}}, "output format"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        translated(**change)
    assert caught.value.message.startswith("cannot ")


def test_a_count_may_leave_out_how_long_the_answer_may_be() -> None:
    request = json.dumps({"model": "m", "messages": [USER]}).encode()
    assert anthropic_request.read(request, counting=True).messages == [USER]


def test_an_estimate_grows_with_all_that_is_sent() -> None:
    def of(**more: Any) -> int:
        asked = anthropic_request.read(json.dumps({"model": "m", "messages": [USER], **more}).encode(), counting=True)
        return estimate(asked.messages, asked.tools)

    assert 4 <= of() <= 8
    assert of(system="x" * 400) - of() == pytest.approx(104, abs=2)
    assert of(tools=[{"name": "f", "input_schema": {}, "description": "x" * 400}]) - of() > 100
    picture = {"type": "image", "source": {"type": "url", "url": "u"}}
    assert of(messages=[user(text("hello"), picture)]) - of() == 1500
    called = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": "x" * 400}}
    assert of(messages=[USER, {"role": "assistant", "content": [called]}]) - of() > 100


# -- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BLOCKS = st.one_of(
    st.builds(text, st.text(max_size=5)),
    st.fixed_dictionaries({"type": st.just("tool_use"), "id": st.text(), "name": st.text(), "input": JSON}),
    st.fixed_dictionaries(
        {"type": st.just("tool_result"), "tool_use_id": st.text(), "content": JSON, "is_error": st.booleans()}
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["image", "document"]), "source": JSON}),
    st.fixed_dictionaries({"type": st.just("thinking"), "thinking": st.text()}),
    JSON,
)
KEYS = [
    "system",
    "thinking",
    "tools",
    "tool_choice",
    "output_config",
    "stop_sequences",
    "temperature",
    "top_k",
    "stream",
    "metadata",
    "mcp_servers",
]


@given(
    said=st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "assistant", "system"]),
                "content": st.text(max_size=5) | st.lists(BLOCKS, max_size=3),
            }
        ),
        max_size=3,
    ),
    more=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2),
)
def test_whatever_comes_is_refused_or_makes_a_request_that_the_relay_can_read(
    said: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    request = {"model": "m", "max_tokens": 10, "messages": said, **more}
    try:
        asked = anthropic_request.read(json.dumps(request).encode())
    except InvalidRequest as error:
        assert error.message.startswith("cannot ")
        return
    facts = bodies.read(asked.body)
    assert (facts.model, facts.stream) == ("m", asked.stream)
    assert estimate(asked.messages, asked.tools) >= 0


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_bytes_come_nothing_breaks(body: bytes) -> None:
    for counting in (False, True):
        try:
            anthropic_request.read(body, counting=counting)
        except InvalidRequest as error:
            assert error.message.startswith("cannot ")


def test_the_words_that_the_client_puts_into_the_models_mouth_are_known() -> None:
    def begun(*said: dict[str, Any]) -> str:
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}, *said]}
        return anthropic_request.read(json.dumps(body).encode()).begun

    call = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    assert begun() == ""
    assert begun({"role": "assistant", "content": "{"}) == "{"
    assert begun({"role": "assistant", "content": [text("{"), text("a")]}) == "{\na"
    assert begun({"role": "assistant", "content": [text("x"), call]}) == ""
    for nothing in ([], ""):
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "assistant", "content": nothing}]}
        assert anthropic_request.read(json.dumps(body).encode()).begun == ""
