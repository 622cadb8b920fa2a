"""Everything of OpenAI's API beside the plain chat, with the official client where it has the endpoint."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import official
import pytest
from engines import program
from routing import RouterProcess, Start, fake, numbers

QUICK = ("--count", "5")
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def client_for(router: RouterProcess) -> official.openai.AsyncOpenAI:
    return official.openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0)


class Elsewhere:
    """A server elsewhere that has the endpoints that few have: it answers with what the test says, and keeps what it
    was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str, bytes]] = {}
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        path = first.split()[1]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if first.startswith("POST"):
            self.asked.append((path, headers, body))
        missing = (200 if first.startswith("GET") else 404, "application/json", b'{"detail":"Not Found"}')
        status, kind, answer = self.answers.get(path, missing)
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode() + answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def elsewhere() -> AsyncIterator[tuple[Elsewhere, dict[str, Any]]]:
    there = Elsewhere()
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0, limit=2**26)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield there, {"backend": "openai", "url": f"http://127.0.0.1:{port}", "model_name": "theirs", "aliases": ["x"]}


def error_of(answer: httpx.Response) -> tuple[int, str]:
    said = answer.json()["error"]
    assert said.keys() == {"message", "type", "param", "code"}
    assert said["message"].startswith(("cannot", "you must"))
    return answer.status_code, said["code"]


# -- responses


async def test_responses_are_translated_where_the_server_only_chats(start: Start) -> None:
    router = await start({"a": fake(*QUICK, "--startup-s", "0.3")})
    async with client_for(router) as client:
        text, kinds = "", []
        async with client.responses.stream(model="a", input="hi", instructions="be kind") as stream:
            async for event in stream:
                kinds.append(event.type)
                text += event.delta if event.type == "response.output_text.delta" else ""
            final = await stream.get_final_response()
        assert text == final.output_text == numbers("a", 5)
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
        assert final.usage is not None
        assert final.usage.output_tokens == 6
        whole = await client.responses.create(model="a", input="hi", max_output_tokens=3)
        assert whole.output_text == " I am a: 1 2"
        assert whole.incomplete_details is not None
        assert whole.incomplete_details.reason == "max_output_tokens"
    sent = (await router.stats("a"))["last"]
    assert sent["path"] == "/v1/chat/completions"
    assert sent["body"]["messages"] == [{"role": "user", "content": "hi"}]


async def test_responses_of_a_real_engine_are_whole_for_the_official_client(
    start: Start, tiny_models: dict[str, Any]
) -> None:
    router = await start({"tiny-a": {**tiny_models["tiny-a"], "aliases": ["gpt-5"]}})
    async with client_for(router) as client:
        whole = await client.responses.create(model="gpt-5", input="hello")
        assert whole.output_text.strip() == numbers("tiny-a", 50).strip()
        async with client.responses.stream(model="tiny-a", input="hello") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert final.output_text.strip() == numbers("tiny-a", 50).strip()
        assert kinds[-1] == "response.completed"


async def test_a_responses_stream_that_fails_says_so_in_its_own_words(start: Start) -> None:
    native = {"backend": "vllm", "command": ["false"]}
    models = {"native": native, "translated": fake("--exit-at-start", "3")}
    router = await start(models)
    for model in models:
        async with router.client() as client:
            answer = await client.post("/v1/responses", json={"model": model, "input": "hi", "stream": True})
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        told = next(event for event in events if event["type"] == "error")
        assert told["code"] == "model_load_failed", model
        assert "[DONE]" not in answer.text


async def test_a_natively_streamed_response_brings_no_foreign_events(start: Start) -> None:
    stream = (
        b'event: response.created\ndata: {"type":"response.created","event":{"type":"execute"},"sequence_number":0}\n\n'
    )
    stream += b'data: {"type":"response.output_text.delta","delta":"say \\"event\\" twice"}\n\n'
    async with elsewhere() as (there, model):
        there.answers["/v1/responses"] = (200, "text/event-stream", stream)
        router = await start({"a": {**model, "backend": "vllm"}})
        async with router.client() as client:
            answer = await client.post("/v1/responses", json={"model": "a", "input": "hi", "stream": True})
    assert "execute" not in answer.text
    assert '"type":"response.created"' in answer.text
    assert 'say \\"event\\" twice' in answer.text


async def test_a_task_sent_as_a_response_loads_nothing(start: Start, tiny_models: dict[str, Any]) -> None:
    router = await start({"tiny-a": tiny_models["tiny-a"], "fake": fake()})
    async with router.client() as client:
        for model in ("tiny-a", "fake"):
            answer = await client.post("/v1/responses", json={"model": model, "input": "### Task:\nGenerate a title"})
            assert error_of_any(answer) == (503, "model_not_ready")
    assert router.loads() == []


def error_of_any(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# -- what passes through


async def test_rerank_speech_and_images_pass_to_the_server_that_has_them(start: Start) -> None:
    ranks = {"results": [{"index": 1, "relevance_score": 0.9}]}
    picture = {"created": 1, "data": [{"b64_json": "AA=="}]}
    async with elsewhere() as (there, model):
        there.answers["/v1/rerank"] = (200, "application/json", json.dumps(ranks).encode())
        there.answers["/v1/audio/speech"] = (200, "audio/mpeg", b"\xff\xfb" * 5000)
        there.answers["/v1/images/generations"] = (200, "application/json", json.dumps(picture).encode())
        router = await start({"m": {**model, "parameters": {"overrides": {"top_n": 1}}}})
        async with router.client() as client, client_for(router) as theirs:
            for path in ("/v1/rerank", "/rerank", "/v1/reranking"):
                asked = {"model": "x", "query": "q", "documents": ["a", "b"], "unheard_of": 1}
                assert (await client.post(path, json=asked)).json() == ranks
                assert there.asked[-1][0] == "/v1/rerank"
                sent = json.loads(there.asked[-1][2])
                assert (sent["model"], sent["unheard_of"], sent["top_n"]) == ("theirs", 1, 1)
            spoken = await theirs.audio.speech.create(model="m", voice="alloy", input="hello")
            assert spoken.content == b"\xff\xfb" * 5000
            images = await theirs.images.generate(model="m", prompt="a cat")
            assert images.data is not None
            assert images.data[0].b64_json == "AA=="


async def test_a_recording_passes_to_the_server_under_the_name_it_knows(start: Start) -> None:
    sound = bytes(range(256)) * 10_000  # larger than what is kept in memory
    async with elsewhere() as (there, model):
        for path in ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"):
            there.answers[path] = (200, "application/json", b'{"text":"hello"}')
        router = await start({"m": model})
        async with client_for(router) as client:
            heard = await client.audio.transcriptions.create(model="x", file=("a.wav", sound), language="de")
            assert heard.text == "hello"
            path, headers, body = there.asked[-1]
            assert path == "/v1/audio/transcriptions"
            assert headers["content-type"].startswith("multipart/form-data; boundary=")
            assert sound in body
            assert b'name="model"\r\n\r\ntheirs\r\n' in body
            assert b'name="language"\r\n\r\nde\r\n' in body
        async with router.client() as plain:
            for path in ("/v1/audio/translations", "/v1/images/edits"):
                answer = await plain.post(path, data={"model": "m", "prompt": "x"}, files={"image": b"png"})
                assert (answer.status_code, there.asked[-1][0]) == (200, path)


async def test_the_fields_of_a_form_have_the_models_parameters(start: Start) -> None:
    parameters = {"defaults": {"language": "en", "seed": 1}, "overrides": {"size": "1x1"}, "removals": ["user"]}
    async with elsewhere() as (there, model):
        router = await start({"m": {**model, "parameters": parameters}})
        async with router.client() as client:
            for path in ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"):
                there.answers[path] = (200, "application/json", b"{}")
                said = {"model": "x", "language": "de", "size": "9x9", "user": "me"}
                assert (await client.post(path, data=said, files={"file": b"bytes"})).status_code == 200
                body = there.asked[-1][2]
                fields = dict(re.findall(rb'name="(\w+)"\r\n\r\n(.*)\r\n', body))
                assert fields == {b"model": b"theirs", b"language": b"de", b"seed": b"1", b"size": b"1x1"}
                assert b"\r\n\r\nbytes\r\n" in body


async def test_a_recording_waits_for_its_model_and_survives_a_second_attempt(start: Start) -> None:
    router = await start({"m": fake("--startup-s", "0.3", "--fault", "close_before_byte"), "n": fake()})
    async with router.client() as client:
        await router.chat("n")
        form: dict[str, Any] = {"files": {"file": b"sound" * 1000}, "data": {"model": "m"}}
        answer = await client.post("/v1/audio/transcriptions", **form)
    assert answer.status_code in (501, 502)
    assert router.loads()[:2] == ["n", "m"]


async def test_what_a_server_lacks_is_said_and_nothing_is_loaded_where_that_is_known(
    start: Start, tmp_path: Path
) -> None:
    binary = program(tmp_path, "tabby.sh", "fake_tabbyapi.py")
    tabby = {"backend": "tabbyapi", "command": [str(binary)]}
    llama = {"backend": "llamacpp", "command": [str(binary)]}
    router = await start({"t": tabby, "l": llama, "o": fake()})
    form: dict[str, Any] = {"files": {"file": b"sound"}}
    async with router.client() as client:
        for model, path in (("t", "/v1/rerank"), ("l", "/v1/audio/speech"), ("t", "/v1/images/generations")):
            assert error_of(await client.post(path, json={"model": model})) == (501, "not_supported")
        for model, path in (("t", "/v1/audio/transcriptions"), ("l", "/v1/images/edits")):
            assert error_of(await client.post(path, data={"model": model}, **form)) == (501, "not_supported")
        assert router.loads() == []
        assert error_of(await client.post("/v1/rerank", json={"model": "o"})) == (501, "not_supported")
        answer = await client.post("/v1/audio/translations", data={"model": "o"}, **form)
        assert error_of(answer) == (501, "not_supported")
    assert router.loads() == ["o"], "of an unknown server only a try tells"


# -- what isn't touched


async def test_a_program_gets_its_answer_untouched(start: Start) -> None:
    router = await start({"a": fake(*QUICK)})
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    for more in ({"tools": tools}, {"response_format": {"type": "json_object"}}, {"n": 2}):
        events = await router.chat("a", **more)
        assert events.written == ""
        async with router.client() as client:
            await client.post("/admin/unload", json={"model": "a"})


async def test_what_the_router_has_no_word_for_reaches_the_server(start: Start) -> None:
    router = await start({"a": fake(*QUICK)})
    image = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    said: dict[str, Any] = {
        "messages": [{"role": "user", "content": image}],
        "logprobs": True,
        "top_logprobs": 3,
        "n": 2,
        "seed": 12345678901234567890,
        "chat_template_kwargs": {"enable_thinking": False},
        "unheard_of": {"deep": [1.10, None]},
        "stream_options": {"include_usage": True, "continuous_usage_stats": False},
    }
    await router.chat("a", **said)
    body = (await router.stats("a"))["last"]["body"]
    assert {key: body[key] for key in said} == said


async def test_stream_options_are_honoured_to_the_letter(start: Start) -> None:
    router = await start({"a": fake(*QUICK), "b": fake(*QUICK, "--style", "openai", "--always-usage")})
    for model in ("a", "b"):
        for options, extra in ((None, 0), ({}, 0), ({"include_usage": False}, 0), ({"include_usage": True}, 1)):
            more = {} if options is None else {"stream_options": options}
            events = await router.chat(model, headers={"X-LLM-Router-Status": "off"}, **more)
            empty = [chunk for chunk in events.chunks if chunk["choices"] == []]
            assert len(empty) == extra, (model, options)


async def test_the_real_engine_gives_probabilities(start: Start, tiny_models: dict[str, Any]) -> None:
    router = await start({"tiny-a": tiny_models["tiny-a"]})
    messages: Any = [{"role": "user", "content": "hello"}]
    async with client_for(router) as client:
        found = await client.chat.completions.create(
            model="tiny-a", messages=messages, logprobs=True, top_logprobs=2, max_tokens=4
        )
        logprobs = found.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert len(logprobs.content) == 4
        assert len(logprobs.content[0].top_logprobs) == 2


# -- bad input

JSON_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank", "/rerank")
PATHS = (*JSON_PATHS, "/v1/reranking", "/v1/audio/speech", "/v1/images/generations", "/models/load", "/models/unload")
FORM_PATHS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits")
WRONG = (b"", b"[]", b'"x"', b"{", b"{}", b'{"model":7}', b'{"model":""}', b'{"model":"\xff"}', b"[" * 50_000)


async def test_bad_input_gets_openais_error_from_every_endpoint(start: Start) -> None:
    router = await start({"a": fake()})
    async with router.client() as client:
        for path in PATHS:
            for body in WRONG:
                answer = await client.post(path, content=body, headers={"content-type": "application/json"})
                assert answer.status_code in (400, 404), (path, body[:20], answer.text)
                assert error_of(answer)[1] in ("invalid_request", "model_not_found")
            assert error_of(await client.post(path, json={"model": "nope", "input": "x"})) == (404, "model_not_found")
        for path in FORM_PATHS:
            assert error_of(await client.post(path, json={"model": "a"})) == (415, "unsupported_media_type")
            for body in (b"", b"--x--", b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\na'):
                kind = {"content-type": "multipart/form-data; boundary=x"}
                assert error_of(await client.post(path, content=body, headers=kind)) == (400, "invalid_request")
            answer = await client.post(path, data={"model": "nope"}, files={"file": b"x"})
            assert error_of(answer) == (404, "model_not_found")
    assert router.loads() == []


@pytest.mark.parametrize("path", [*PATHS, *FORM_PATHS])
async def test_what_is_too_large_is_refused(share: Start, path: str) -> None:
    router = await share({"a": fake()}, max_body="10KiB")
    async with router.client() as client:
        if path in FORM_PATHS:
            answer = await client.post(path, data={"model": "a"}, files={"file": b"x" * 100_000})
        else:
            answer = await client.post(path, json={"model": "a", "input": "x" * 100_000})
        assert error_of(answer) == (413, "request_too_large")
