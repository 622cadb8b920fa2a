"""LangChain against a real router, as a program that knows nothing of it would use it.

Slow because the import alone takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import official
import pytest
from nursery import PROGRAMS
from routing import RouterProcess, Start, fake, numbers

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

pytestmark = pytest.mark.slow
COUNT = 5


@pytest.fixture
async def router(start: Start, tmp_path: Path) -> AsyncIterator[RouterProcess]:
    """`able` calls tools and embeds, `dying` breaks off after three tokens, `failing` can't be loaded."""
    argv = [sys.executable, "-IS", str(PROGRAMS / "fake_featured.py"), "--port", "${PORT}", "--count", str(COUNT)]
    argv += ["--name", "able", "--style", "openai", "--as", "openai", "--journal", str(tmp_path / "journal")]
    failing = fake("--exit-at-start", "3")
    yield await start(
        {
            "able": {"backend": "openai", "command": argv},
            "dying": fake("--fault", "close_after_3"),
            "failing": failing,
        }
    )


Chat = Callable[..., "ChatOpenAI"]


@pytest.fixture
async def http(router: RouterProcess) -> AsyncIterator[httpx.AsyncClient]:
    """LangChain's own would outlive the test: it keeps one for all."""
    async with router.client() as client:
        yield client


@pytest.fixture
async def chat(router: RouterProcess, http: httpx.AsyncClient) -> Chat:
    from langchain_openai import ChatOpenAI

    def chat(model: str = "able", **more: Any) -> ChatOpenAI:
        where = {"base_url": f"{router.url}/v1", "api_key": "none", "max_retries": 0, "http_async_client": http}
        return ChatOpenAI(model=model, **where, **more)

    return chat


async def test_a_chat_is_answered_whole_and_streamed_with_its_counts(chat: Chat) -> None:
    whole = await chat().ainvoke("hello")
    assert whole.content == numbers("able", COUNT)
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == COUNT + 1

    pieces = [piece async for piece in chat(stream_usage=True).astream("hello")]
    assert len(pieces) > COUNT
    said = pieces[0]
    for piece in pieces[1:]:
        said += piece
    # What the router adds for people ends with the answer; a program asks for it to be left out.
    assert str(said.content).startswith(numbers("able", COUNT))
    assert said.usage_metadata is not None
    assert said.usage_metadata["output_tokens"] == COUNT + 1


async def test_a_stream_of_a_program_that_says_so_is_the_models_words_alone(chat: Chat) -> None:
    headers = {"X-LLM-Router-Status": "comment", "X-LLM-Router-Performance": "never"}
    pieces = [piece async for piece in chat(default_headers=headers).astream("hello")]
    assert "".join(str(piece.content) for piece in pieces) == numbers("able", COUNT)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_tool_is_called_and_its_result_sent_back(router: RouterProcess, chat: Chat, streams: bool) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    def weather(city: str) -> str:
        """The weather in a city."""
        return f"cold in {city}"

    model = chat().bind_tools([weather])
    history: list[Any] = [HumanMessage("weather in Oslo?")]
    if streams:
        pieces = [piece async for piece in model.astream(history)]
        said = pieces[0]
        for piece in pieces[1:]:
            said += piece
    else:
        said = await model.ainvoke(history)
    [call] = said.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
    assert not said.content, "nothing of the router's where tools are declared"
    result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
    assert (await chat().ainvoke([*history, said, result])).content == numbers("able", COUNT)
    sent = (await router.stats("able"))["last"]["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"]


async def test_structured_output_reaches_the_server_as_a_schema(router: RouterProcess, chat: Chat) -> None:
    schema = {"title": "Place", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    model = chat().with_structured_output(schema, method="json_schema", include_raw=True)
    found = await model.ainvoke("where?")
    assert found["raw"].content == numbers("able", COUNT)  # which isn't JSON: a stand-in can only count
    sent = (await router.stats("able"))["last"]["body"]["response_format"]
    assert (sent["type"], sent["json_schema"]["schema"]["required"]) == ("json_schema", ["city"])


async def test_the_responses_api_works_where_the_server_only_chats(chat: Chat) -> None:
    model = chat(use_responses_api=True)
    assert (await model.ainvoke("hello")).text == numbers("able", COUNT)
    pieces = [piece async for piece in model.astream("hello")]
    assert "".join(piece.text for piece in pieces) == numbers("able", COUNT)


async def test_texts_are_embedded(router: RouterProcess, http: httpx.AsyncClient) -> None:
    from langchain_openai import OpenAIEmbeddings

    # Else it counts tokens with OpenAI's own tokenizer and sends their numbers, which no other server's model shares.
    model = OpenAIEmbeddings(
        model="able",
        base_url=f"{router.url}/v1",
        api_key="none",
        check_embedding_ctx_length=False,
        http_async_client=http,
    )
    found = await model.aembed_documents(["one", "two"])
    assert len(found) == 2
    assert len(found[0]) == len(await model.aembed_query("one")) > 0


async def test_errors_are_those_of_openais_client(chat: Chat) -> None:
    with pytest.raises(official.openai.NotFoundError, match="cannot find the model"):
        await chat("nope").ainvoke("hello")
    with pytest.raises(official.openai.InternalServerError, match="failing") as failed:
        await chat("failing").ainvoke("hello")
    assert failed.value.status_code == 503
    text = ""
    with pytest.raises(official.openai.APIError) as broken:
        async for piece in chat("dying", default_headers={"X-LLM-Router-Status": "off"}).astream("hello"):
            text += str(piece.content)
    assert text == " I am dying: 1 2"
    assert broken.value.code == "upstream_lost"
