"""The table's rows about Ollama's API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from compatibility import COUNT, EMBEDS, Asking, NotPossible, feature
from compatibility_words import BEGUN, CALLED, CITY, FUNCTION, HELLO, PICTURE, goes_on, lines, refused, text_of

OLLAMA = "Ollama"


async def ollama(asking: Asking, path: str = "/api/chat", **more: Any) -> dict[str, Any]:
    asked = {"messages": HELLO} if path == "/api/chat" else {}
    return await asking.json(path, {"model": asking.model, "stream": False, **asked, **more})


async def ollama_lines(asking: Asking, path: str = "/api/chat", **more: Any) -> list[dict[str, Any]]:
    asked = {"messages": HELLO} if path == "/api/chat" else {}
    answer = await asking.post(path, {"model": asking.model, **asked, **more})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert '{"error"' not in answer.text, answer.text
    return lines(answer.text)


@feature(OLLAMA, "`/api/version`, `/api/tags`, `/api/show`", "from the configuration and the headers of the files")
async def ollamas_listings(asking: Asking) -> None:
    assert (await asking.client.get("/api/version")).json()["version"]
    listed = (await asking.client.get("/api/tags")).json()["models"]
    assert f"{asking.model}:latest" in {model["model"] for model in listed}
    assert "completion" in (await asking.json("/api/show", {"model": asking.model}))["capabilities"]


@feature(OLLAMA, "`/api/ps`")
async def ollamas_residents(asking: Asking) -> None:
    await asking.loaded()
    resident = (await asking.client.get("/api/ps")).json()["models"]
    assert f"{asking.model}:latest" in {model["model"] for model in resident}


@feature(OLLAMA, "`/api/chat`, whole and streamed, with durations and counts")
async def ollamas_chat(asking: Asking) -> None:
    said = await ollama(asking)
    assert (said["message"]["content"], said["done"]) == (text_of(asking), True)
    assert said["eval_count"] == COUNT + 1
    assert said["total_duration"] >= said["load_duration"] >= 0
    found = await ollama_lines(asking)
    assert "".join(line["message"]["content"] for line in found) == text_of(asking)
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]


@feature(OLLAMA, "a chat whose answer the client begins", BEGUN)
async def ollamas_beginning(asking: Asking) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well,"}]
    said = (await ollama(asking, messages=messages))["message"]["content"]
    found = await ollama_lines(asking, messages=messages)
    assert "".join(line["message"]["content"] for line in found) == said
    goes_on(asking, said)


@feature(OLLAMA, "tools, arguments as objects")
async def ollamas_tools(asking: Asking) -> None:
    for found in ([await ollama(asking, tools=[FUNCTION])], await ollama_lines(asking, tools=[FUNCTION])):
        [call] = [call["function"] for line in found for call in line["message"].get("tool_calls", ())]
        assert (call["name"], call["arguments"]) == CALLED


@feature(OLLAMA, "`think`")
async def ollamas_thinking(asking: Asking) -> None:
    assert (await ollama(asking, think=True))["message"]["thinking"] == " 1 2 3"
    found = await ollama_lines(asking, think=True)
    assert "".join(line["message"].get("thinking", "") for line in found) == " 1 2 3"


@feature(OLLAMA, "`images`")
async def ollamas_pictures(asking: Asking) -> None:
    await ollama(asking, messages=[{"role": "user", "content": "what?", "images": [PICTURE]}])
    parts = asking.answered()[-1]["body"]["messages"][0]["content"]
    assert parts[1] == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}


@feature(OLLAMA, '`format`: "json" or a schema')
async def ollamas_format(asking: Asking) -> None:
    await ollama(asking, format="json")
    assert asking.answered()[-1]["body"]["response_format"] == {"type": "json_object"}
    await ollama(asking, format=CITY)
    assert asking.answered()[-1]["body"]["response_format"]["json_schema"]["schema"] == CITY


@feature(OLLAMA, "`logprobs`")
async def ollamas_probabilities(asking: Asking) -> None:
    found = (await ollama(asking, logprobs=True, top_logprobs=1))["logprobs"]
    assert "".join(token["token"] for token in found) == text_of(asking)


@feature(OLLAMA, "`/api/generate`, whole, streamed and `raw`")
async def ollamas_prompt(asking: Asking) -> None:
    assert (await ollama(asking, "/api/generate", prompt="hello"))["response"] == text_of(asking)
    for more in ({}, {"raw": True}):
        found = await ollama_lines(asking, "/api/generate", prompt="hello", **more)
        assert "".join(line["response"] for line in found) == text_of(asking)


@feature(
    OLLAMA, "`options`: sampling, `num_predict`, `stop`, `seed`", "what shapes a load (`num_ctx`, …) is configured"
)
async def ollamas_options(asking: Asking) -> None:
    said = await ollama(asking, options={"num_predict": 2, "temperature": 0.5, "seed": 7, "num_ctx": 8192})
    assert (said["message"]["content"], said["done_reason"]) == (f" I am {asking.model}: 1", "length")
    sent = asking.answered()[-1]["body"]
    assert (sent["temperature"], sent["seed"], "num_ctx" in sent) == (0.5, 7, False)


@feature(OLLAMA, "`/api/embed`, `/api/embeddings`", "TabbyAPI: where its own `config.yml` names an embedding model")
async def ollamas_embeddings(asking: Asking) -> None:
    model = asking.model + EMBEDS
    assert len((await asking.json("/api/embed", {"model": model, "input": ["one", "two"]}))["embeddings"]) == 2
    assert (await asking.json("/api/embeddings", {"model": model, "prompt": "one"}))["embedding"]


async def stays_s(asking: Asking, **more: Any) -> float:
    """How long the model will stay after a request, by `/api/ps`."""
    await ollama(asking, **more)
    residents = (await asking.client.get("/api/ps")).json()["models"]
    until_ = next(model["expires_at"] for model in residents if model["model"] == f"{asking.model}:latest")
    return (datetime.fromisoformat(until_) - datetime.now(UTC)).total_seconds()


@feature(OLLAMA, '`keep_alive`: a duration, as `"1h30m"`, `"300"`, `300`', "instead of the `idle_timeout`")
async def ollamas_durations(asking: Asking) -> None:
    for asked, wanted_s in (("1h30m", 5400), ("300", 300), (300, 300), ("1.5m", 90)):
        assert wanted_s - 30 < await stays_s(asking, keep_alive=asked) <= wanted_s


@feature(OLLAMA, '`keep_alive`: `-1`, `"-1m"`', "it isn't unloaded for want of use, but makes room for others")
async def ollamas_staying(asking: Asking) -> None:
    for asked in (-1, "-1", "-1m"):
        assert await stays_s(asking, keep_alive=asked) > 10**8


@feature(OLLAMA, "`keep_alive`: `0`", "unloads after the answer, unless others use the model")
async def ollamas_leaving(asking: Asking) -> None:
    assert (await ollama(asking, keep_alive="0s"))["message"]["content"] == text_of(asking)
    await asking.router.until(asking.model, "unloaded")


@feature(OLLAMA, "no prompt or no messages: loads, or with `keep_alive: 0` unloads")
async def ollamas_loading(asking: Asking) -> None:
    assert (await ollama(asking, "/api/generate"))["done_reason"] == "load"
    assert (await asking.router.status())[asking.model]["state"] == "ready"
    assert (await ollama(asking, messages=[], keep_alive=0))["done_reason"] == "unload"
    await asking.router.until(asking.model, "unloaded")


@feature(OLLAMA, "a chat with empty lines while the model loads", "the router writes them into the stream")
async def ollamas_waiting(asking: Asking) -> None:
    await asking.unloaded()
    found = await ollama_lines(asking)
    assert found[0]["message"] == {"role": "assistant", "content": ""}
    assert "".join(line["message"]["content"] for line in found) == text_of(asking)
    assert found[-1]["load_duration"] > 0


@feature(OLLAMA, "errors of the server in Ollama's shape")
async def an_error_for_ollama(asking: Asking) -> None:
    body = {"model": asking.model, "messages": [{"role": "user", "content": "fault: error400"}], "stream": False}
    answer = await asking.post("/api/chat", body)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert "as you wished" in answer.json()["error"]


@feature(OLLAMA, "`suffix`, `template`", "models have their own marks and templates: send the whole prompt with `raw`")
async def ollamas_suffix(asking: Asking) -> None:
    for more in ({"suffix": "x"}, {"template": "x"}):
        answer = await asking.post("/api/generate", {"model": asking.model, "prompt": "x", **more})
        assert answer.status_code == 400
    raise refused(answer.json(), "cannot use a")


@feature(OLLAMA, "`/api/pull`, `create`, `copy`, `push`, `DELETE /api/delete`", "models come with the configuration")
async def ollamas_pull(asking: Asking) -> None:
    for name in ("pull", "create", "copy", "push"):
        answer = await asking.post(f"/api/{name}", {"model": asking.model})
        assert (answer.status_code, list(answer.json())) == (404, ["error"])
    raise NotPossible
