"""Who is let in, over real sockets: keys and their limits, web pages, slow clients; and what is told about it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from typing import Any

import httpx
import pytest
from routing import RouterProcess, Start, fake, until

from llm_router.launchers import procfs

ANNA, BOSS = "anna-has-a-key-like-this", "boss-has-a-key-like-that"
KEYS: dict[str, Any] = {
    "anna": {"key": f"sha256:{hashlib.sha256(ANNA.encode()).hexdigest()}"},
    "boss": {"key": BOSS, "admin": True},
}
ANNAS = {**KEYS["anna"], "models": ["mine"]}
CHAT = {"model": "a", "messages": [{"role": "user", "content": "hello"}]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def chat(client: httpx.AsyncClient, key: str | None = ANNA, model: str = "a", **headers: str) -> httpx.Response:
    sent = {**headers, **(bearer(key) if key else {})}
    return await client.post("/v1/chat/completions", json={**CHAT, "model": model}, headers=sent)


async def talk(router: RouterProcess, *pieces: bytes) -> bytes:
    """All that comes until the router closes."""
    port = int(router.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(10):
        said = await reader.read()
    writer.close()
    return said


async def test_without_a_key_nothing_is_served_in_whatever_dialect(share: Start) -> None:
    router = await share({"a": fake()}, keys=KEYS)
    async with router.client() as client:
        assert (await client.get("/health")).status_code == 200
        refused = await chat(client, None)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert (await chat(client, "another-key-altogether")).status_code == 401
        assert (await client.get("/v1/models")).json()["error"]["type"] == "authentication_error"
        message = await client.post("/v1/messages", json=CHAT)
        assert (message.status_code, message.json()["error"]["type"]) == (401, "authentication_error")
        tags = await client.get("/api/tags")
        assert (tags.status_code, type(tags.json()["error"])) == (401, str)
        for path in ("/admin/status", "/upstream/a/stats", "/docs", "/openapi.json", "/metrics"):
            assert (await client.get(path)).status_code == 401, path
        assert (await chat(client)).status_code == 200
        assert (
            await client.post("/v1/messages", json={**CHAT, "max_tokens": 9}, headers={"x-api-key": ANNA})
        ).is_success
        assert (await client.get("/v1/models", headers=bearer(ANNA))).is_success


async def test_managing_and_reaching_past_the_router_needs_an_admin_key_and_is_noted(share: Start) -> None:
    router = await share({"a": fake()}, keys=KEYS)
    async with router.client() as client:
        for method, path in (("GET", "/admin/status"), ("GET", "/upstream/a/stats"), ("POST", "/admin/reload")):
            refused = await client.request(method, path, headers=bearer(ANNA))
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_key_required"), path
        assert (await client.get("/admin/status", headers=bearer(BOSS))).is_success
        done = await client.post("/admin/reload", headers={**bearer(BOSS), "X-Request-Id": "the-deploy"})
        assert done.is_success
    log = router.log.read_text()
    assert "POST /admin/reload by boss from 127.0.0.1: 200 (request the-deploy)" in log
    assert re.search(r"POST /admin/reload by nobody known from 127\.0\.0\.1: 403", log)
    assert "/admin/status by boss" not in log, "looking is no act"


async def test_a_key_opens_its_models_so_many_times_and_no_more(start: Start) -> None:
    limited = {**KEYS["anna"], "models": ["a", "s*"], "concurrency": 2}
    brief = {"key": "brief-has-a-key-too", "requests_per_minute": 2}
    models = {"a": fake("--token-ms", "30"), "b": fake(), "some": fake()}
    router = await start(models, keys={"anna": limited, "brief": brief, "boss": KEYS["boss"]})
    async with router.client() as client:
        listed = (await client.get("/v1/models", headers=bearer(ANNA))).json()["data"]
        assert [model["id"] for model in listed] == ["a", "some"]
        tags = (await client.get("/api/tags", headers=bearer(ANNA))).json()["models"]
        assert {model["name"].partition(":")[0] for model in tags} == {"a", "some"}
        refused = await chat(client, model="b")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        either = [chat(client) for _ in range(2)]
        running = [asyncio.ensure_future(one) for one in either]  # noqa: TID251

        async def both() -> bool:
            status = (await client.get("/admin/status", headers=bearer(BOSS))).json()["models"][0]
            return bool(status["leases"] == 2)

        await until(both)
        crowded = await chat(client)
        assert (crowded.status_code, crowded.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(crowded.headers["retry-after"]) >= 1
        refused = await client.post("/v1/messages", json={**CHAT, "max_tokens": 9}, headers=bearer(ANNA))
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert [one.status_code for one in await asyncio.gather(*running)] == [200, 200]
        assert (await chat(client)).status_code == 200
        said = [(await chat(client, "brief-has-a-key-too")).status_code for _ in range(3)]
        assert said == [200, 200, 429]


async def test_a_request_that_is_sent_again_after_a_crash_counts_once(start: Start) -> None:
    keys = {name: {"key": f"{name}-has-a-key-like-this", "requests_per_minute": 1} for name in ("anna", "bert")}
    router = await start({"broken": fake("--fault", "close_before_byte")}, keys={**keys, "boss": KEYS["boss"]})
    body = {**CHAT, "model": "broken", "max_tokens": 9}
    async with router.client() as client:
        for path, name in (("/v1/chat/completions", "anna"), ("/v1/messages", "bert")):
            headers = bearer(f"{name}-has-a-key-like-this")
            assert [(await client.post(path, json=body, headers=headers)).status_code for _ in range(2)] == [502, 429]
        stats = (await client.get("/upstream/broken/stats", headers=bearer(BOSS))).json()
    assert stats["requests"] == 4


def is_told_of(name: str, reply: httpx.Response) -> bool:
    return f'"{name}' in reply.text


async def test_a_key_sees_its_models_and_no_others_wherever_models_are_told(start: Start) -> None:
    router = await start({"mine": fake(), "theirs": fake(memory="0MiB")}, keys={**KEYS, "anna": ANNAS})
    anna, boss = bearer(ANNA), bearer(BOSS)
    async with router.client() as client:
        for name in ("mine", "theirs"):
            assert (await chat(client, BOSS, name)).status_code == 200
        for path in ("/v1/models", "/models", "/api/tags", "/api/ps"):
            for headers in (anna, {**anna, "anthropic-version": "2023-06-01"}):
                found = await client.get(path, headers=headers)
                assert is_told_of("mine", found), path
                assert not is_told_of("theirs", found), path
            assert is_told_of("theirs", await client.get(path, headers=boss)), path
        for method, path, body, status in (
            ("GET", "/v1/models/{}", None, 404),
            ("POST", "/api/show", {"model": "{}"}, 404),
            ("POST", "/models/load", {"model": "{}"}, 403),
            ("POST", "/api/chat", {"model": "{}", "keep_alive": 0}, 403),
            ("POST", "/v1/chat/completions", {**CHAT, "model": "{}"}, 403),
            ("GET", "/admin/status", None, 403),
            ("GET", "/metrics", None, 403),
        ):
            named = None if body is None else json.loads(json.dumps(body).replace("{}", "theirs"))
            refused = await client.request(method, path.format("theirs"), json=named, headers=anna)
            assert refused.status_code == status, path
        unknown = (await chat(client, ANNA, "nothing")).json()["error"]["message"]
        assert "mine" in unknown
        assert "theirs" not in unknown
        assert (await client.get("/v1/models/mine", headers=anna)).is_success
        assert (await client.post("/models/load", json={"model": "mine"}, headers=anna)).is_success
        async with client.stream("GET", "/models/sse", headers=anna) as events:
            lines = events.aiter_lines()
            assert await anext(lines) == ": from now on"
            for name in ("theirs", "mine"):
                assert (await client.post("/admin/unload", json={"model": name}, headers=boss)).is_success
            assert (await client.post("/models/load", json={"model": "mine"}, headers=anna)).is_success
            heard = []
            while not heard or heard[-1]["data"]["status"] != "loaded":
                line = await anext(lines)
                heard += [json.loads(line.removeprefix("data: "))] if line else []
            assert {event["model"] for event in heard} == {"mine"}


async def test_a_key_that_is_taken_away_is_refused_on_open_connections_too(start: Start) -> None:
    router = await start({"a": fake()}, keys=KEYS)
    async with router.client() as client:
        for _ in range(3):
            assert (await chat(client)).status_code == 200
        router.config.write_text(json.dumps({**json.loads(router.config.read_text()), "keys": {"boss": KEYS["boss"]}}))
        assert (await client.post("/admin/reload", headers=bearer(BOSS))).is_success
        assert (await chat(client)).status_code == 401
        assert (await chat(client, BOSS)).status_code == 200


async def test_secrets_are_in_no_log_and_no_command_line(start: Start) -> None:
    router = await start({"a": fake(api_key="the-servers-own-key")}, keys=KEYS)
    async with router.client() as client:
        await chat(client)
        await chat(client, "a-guess-that-is-wrong")
    router.config.write_text(json.dumps({"models": {}, "keys": {"boss": {"key": BOSS, "modles": ["*"]}}}))
    async with router.client() as client:
        told = (await client.post("/admin/reload", headers=bearer(BOSS))).text
    text = router.log.read_text() + told + " ".join(procfs.command_line(router.pid))
    for secret in (ANNA, BOSS, "the-servers-own-key", "a-guess-that-is-wrong"):
        assert secret not in text


async def test_every_reply_has_a_number(share: Start) -> None:
    router = await share({"a": fake()})
    async with router.client() as client:
        first, second = [(await chat(client, None)).headers["x-request-id"] for _ in range(2)]
        assert first != second
        for path in ("/v1/models", "/nowhere", "/admin/status"):
            assert (await client.get(path, headers={"X-Request-Id": "mine:1"})).headers["x-request-id"] == "mine:1"
        assert (await chat(client, None, "nope", **{"X-Request-Id": "mine:2"})).headers["x-request-id"] == "mine:2"
        odd = (await chat(client, None, **{"X-Request-Id": "no spaces please"})).headers["x-request-id"]
        assert " " not in odd


async def test_on_this_machine_alone_no_page_and_no_strange_name_gets_through(start: Start) -> None:
    router = await start({"a": fake()}, allowed_hosts=["llm.example"])
    async with router.client() as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            assert (await chat(client, None, **headers)).json()["error"]["code"] == "origin_not_allowed"
            assert (await client.get("/v1/models", headers=headers)).status_code == 403
            assert (await client.get("/admin/status", headers=headers)).status_code == 403
        assert (await client.options("/v1/models", headers={"Origin": "https://evil.example"})).status_code == 403
        assert (await chat(client, None, Host="llm.example")).status_code == 200


async def test_allowed_pages_get_what_a_browser_wants(start: Start) -> None:
    page = {"Origin": "https://chat.example"}
    router = await start({"a": fake()}, keys=KEYS, cors_origins=["https://chat.example"])
    async with router.client() as client:
        asked = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = await client.options("/v1/chat/completions", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == page["Origin"]
        for reply in (await chat(client, **page), await chat(client, None, **page)):
            assert reply.headers["access-control-allow-origin"] == page["Origin"]
        other = await chat(client, Origin="https://evil.example")
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/messages"])
async def test_who_never_finishes_a_request_is_not_waited_for(share: Start, path: bytes) -> None:
    router = await share({"a": fake()}, request_timeout="300ms")
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % path
    assert await talk(router) == b""
    assert (await talk(router, head)).startswith(b"HTTP/1.1 408 ")
    assert (await talk(router, head + b"Content-Length: 90\r\n\r\n{")).startswith(b"HTTP/1.1 408 ")


async def test_a_head_without_end_is_refused(share: Start) -> None:
    router = await share({"a": fake()})
    begin = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    endless = [begin, *(b"x-%d: %b\r\n" % (n, b"y" * 4000) for n in range(500))]
    assert (await talk(router, *endless)).startswith(b"HTTP/1.1 431 ")
    many = b"".join(b"x-%d: 1\r\n" % number for number in range(300))
    assert (await talk(router, begin + many + b"Content-Length: 2\r\n\r\n{}")).startswith(b"HTTP/1.1 431 ")
    async with router.client() as client:
        assert (await chat(client, None)).status_code == 200
    assert "Traceback" not in router.log.read_text()


async def test_a_slow_answer_is_no_slow_request(start: Start) -> None:
    router = await start({"a": fake("--token-ms", "40")}, request_timeout="300ms")
    events = await router.chat("a")
    assert (events.done, events.error) == (True, None)
