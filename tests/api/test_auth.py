"""Who may ask what: keys and their limits, and what protects a router without any."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from llm_router.api.auth import Caller, Gate
from llm_router.config.keys import ClientKey
from llm_router.errors import AdminOnly, LlmRouterError, ModelNotAllowed, OriginNotAllowed, RateLimited, Unauthenticated


def key(name: str, **more: Any) -> ClientKey:
    """Its text is its name with "-key" behind it."""
    digest = hashlib.sha256(f"{name}-key".encode()).digest()
    values: dict[str, Any] = {"admin": False, "models": ("*",), "requests_per_minute": None, "concurrency": None}
    return ClientKey(name=name, digest=digest, **(values | more))


def gate(*keys: ClientKey, is_private: bool = True, **more: Any) -> Gate:
    return Gate(keys, is_private=is_private, **more)


def bearer(name: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {name}-key".encode(), b"host": b"anything.example"}


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer anna-key"},
        {b"authorization": b"bearer  anna-key "},
        {b"x-api-key": b"anna-key"},
        {b"api-key": b"anna-key"},
    ],
)
def test_a_key_is_taken_from_any_of_the_usual_headers(headers: dict[bytes, bytes]) -> None:
    caller = gate(key("anna")).identify(headers)
    assert caller is not None
    assert caller.name == "anna"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Basic anna-key"},
        {b"authorization": b"Bearer anna-ke"},
        {b"authorization": b"Bearer anna-key2"},
        {b"authorization": b"Bearer \xff"},
        {b"x-api-key": b""},
    ],
)
def test_without_a_known_key_nobody_is_served_and_what_was_sent_is_not_repeated(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthenticated) as raised:
        gate(key("anna")).admit(headers)
    assert "anna" not in raised.value.message


def test_who_has_no_limits_costs_nothing_later() -> None:
    found = gate(key("free"), key("bound", concurrency=1))
    assert found.admit(bearer("free")) is None
    assert found.admit(bearer("bound")) is not None


def test_a_key_is_for_its_models() -> None:
    caller = Caller(key("a", models=("qwen*", "phi")))
    caller.enter("qwen-72b")
    with pytest.raises(ModelNotAllowed, match=r"cannot use gpt with this key: it is for qwen\*, phi"):
        caller.enter("gpt")
    assert [caller.may_use(name) for name in ("phi", "phi-2")] == [True, False]


def test_so_many_at_the_same_time_and_no_more() -> None:
    caller = Caller(key("a", concurrency=2))
    caller.enter("m")
    caller.enter("m")
    with pytest.raises(RateLimited):
        caller.enter("m")
    caller.leave()
    caller.enter("m")


def test_so_many_in_a_minute_and_then_one_at_a_time() -> None:
    now = [100.0]
    caller = Caller(key("a", requests_per_minute=3), lambda: now[0])
    for _ in range(3):
        caller.enter("m")
    with pytest.raises(RateLimited) as raised:
        caller.enter("m")
    assert raised.value.retry_after_s == pytest.approx(20.0)
    now[0] += 20.1
    caller.enter("m")
    with pytest.raises(RateLimited):
        caller.enter("m")
    now[0] += 60
    for _ in range(3):
        caller.enter("m")


def test_what_was_used_counts_on_after_a_change() -> None:
    before = gate(key("a", concurrency=1))
    caller = before.admit(bearer("a"))
    assert caller is not None
    caller.enter("m")
    after = gate(key("a", concurrency=2), before=before)
    again = after.admit(bearer("a"))
    assert again is not None
    again.enter("m")
    with pytest.raises(RateLimited):
        again.enter("m")
    caller.leave()
    again.enter("m")


# -- management


def test_managing_needs_an_admin_key_where_there_is_one() -> None:
    found = gate(key("anna"), key("boss", admin=True))
    caller = found.admit_admin(bearer("boss"), "192.0.2.7")
    assert caller is not None
    assert caller.name == "boss"
    with pytest.raises(AdminOnly):
        found.admit_admin(bearer("anna"), "127.0.0.1")
    with pytest.raises(Unauthenticated):
        found.admit_admin({}, "127.0.0.1")
    assert found.identify(bearer("boss")) is caller, "an admin's key opens everything"


@pytest.mark.parametrize(
    ("client", "headers", "may"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("192.0.2.7", {}, False),
        (None, {}, False),
        ("127.0.0.1", {b"x-forwarded-for": b"192.0.2.7"}, False),
        ("127.0.0.1", {b"forwarded": b"for=192.0.2.7"}, False),
        ("127.0.0.1", {b"host": b"evil.example"}, False),
        ("127.0.0.1", {b"host": b"localhost", b"origin": b"https://evil.example"}, False),
    ],
)
def test_with_other_keys_only_this_machine_manages(client: str | None, headers: dict[bytes, bytes], may: bool) -> None:
    found = gate(key("anna"))
    if may:
        assert found.admit_admin(headers, client) is None
    else:
        with pytest.raises(LlmRouterError):
            found.admit_admin(headers, client)


# -- without keys


@pytest.mark.parametrize(
    "host",
    ["localhost:8002", "127.0.0.1:8002", "[::1]:8002", "192.168.1.5", "box", "a.localhost", "llm.lan:80", "x.y.corp"],
)
def test_names_that_can_only_be_ours(host: str) -> None:
    found = gate(own_hosts=("LLM.lan",), allowed_hosts=("*.corp",))
    assert found.admit({b"host": host.encode()}) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8002", "127.0.0.1.evil.example", "llm.lan.evil", "1.2.3"]
)
def test_a_name_that_could_be_anybodys_is_refused(host: str) -> None:
    with pytest.raises(OriginNotAllowed, match="allowed_hosts"):
        gate(own_hosts=("llm.lan",)).admit({b"host": host.encode()})


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        (b"https://evil.example", False),
        (b"null", False),
        (b"http://localhost:3000", False),
        (b"http://localhost:8002", True),
        (b"https://chat.example", True),
        (b"https://chat.example.evil", False),
    ],
)
def test_a_web_page_is_refused_unless_it_is_allowed_or_the_routers_own(origin: bytes, may: bool) -> None:
    headers = {b"host": b"localhost:8002", b"origin": origin}
    found = gate(cors_origins=("https://chat.example/",))
    if may:
        assert found.admit(headers) is None
    else:
        with pytest.raises(OriginNotAllowed):
            found.admit(headers)


def test_where_the_risk_was_accepted_everybody_may_ask_but_not_manage_under_any_name() -> None:
    found = gate(is_private=False)
    assert found.admit({b"host": b"llm.example", b"origin": b"https://chat.example"}) is None
    assert found.admit_admin({b"host": b"192.0.2.1:8002"}, "192.0.2.7") is None
    with pytest.raises(OriginNotAllowed):
        found.admit_admin({b"host": b"llm.example"}, "192.0.2.7")


def test_any_page_may_where_all_may() -> None:
    headers = {b"host": b"localhost", b"origin": b"https://any.example"}
    assert gate(cors_origins=("*",)).admit(headers) is None
