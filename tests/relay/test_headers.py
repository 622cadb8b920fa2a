"""What passes between client and inference server beside the body."""

import pytest

from llm_router.errors import ConfigError, InvalidRequest, UpstreamGarbage
from llm_router.relay.headers import RequestHead, response_headers


def sent(*headers: tuple[bytes, bytes], credential: str | None = None) -> dict[bytes, bytes]:
    block = RequestHead(list(headers)).block(host=b"127.0.0.1:8085", content_length=12, credential=credential)
    assert block.endswith(b"\r\n\r\n")
    lines = block[:-4].split(b"\r\n")
    pairs = dict(line.split(b": ", 1) for line in lines)
    assert len(pairs) == len(lines), "each header once"
    return pairs


OWN = {b"host": b"127.0.0.1:8085", b"content-length": b"12", b"accept-encoding": b"identity"}


def test_a_request_without_headers_still_has_what_an_upstream_needs() -> None:
    assert sent() == OWN


def test_the_clients_own_headers_go_on_as_they_are() -> None:
    kept = {b"content-type": b"application/json", b"user-agent": b"curl/8", b"x-openwebui-chat-id": b"a: b, c"}
    assert sent(*kept.items()) == OWN | kept


@pytest.mark.parametrize(
    "name",
    [
        b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect", b"authorization", b"x-api-key",
        b"api-key", b"x-admin-key", b"cookie", b"x-conversation-id", b"x-llm-router-status", b"accept-encoding",
    ],
)  # fmt: skip
@pytest.mark.parametrize("spell", [bytes.lower, bytes.title, bytes.upper])
def test_what_speaks_about_the_connection_or_holds_the_clients_secrets_stays_here(name: bytes, spell: object) -> None:
    assert sent((spell(name), b"secret")) == OWN  # type: ignore[operator]


def test_what_connection_names_stays_here_too() -> None:
    headers = [(b"x-hop", b"1"), (b"connection", b"keep-alive, X-Hop ,x-late"), (b"x-late", b"2"), (b"x-end", b"3")]
    assert sent(*headers) == OWN | {b"x-end": b"3"}


def test_connection_cant_take_away_what_the_router_writes_itself() -> None:
    assert sent((b"connection", b"host, content-length, authorization"), credential="k") == OWN | {
        b"authorization": b"Bearer k"
    }


def test_the_backend_gets_its_own_key_in_place_of_the_clients() -> None:
    assert sent((b"authorization", b"Bearer client"), credential="backend")[b"authorization"] == b"Bearer backend"


@pytest.mark.parametrize("bad", [b"a\r\nx-evil: 1", b"a\nb", b"a\rb", b"a\0b", b"\r\n", b"\n\r"])
def test_a_line_break_or_nul_never_goes_on(bad: bytes) -> None:
    with pytest.raises(InvalidRequest):
        sent((b"x-a", bad))
    with pytest.raises(InvalidRequest):
        sent((b"x-a" + bad, b"value"))
    with pytest.raises(UpstreamGarbage):
        response_headers([(b"x-a", bad)])
    with pytest.raises(UpstreamGarbage):
        response_headers([(b"x-a" + bad, b"value")])


def test_a_line_break_that_is_dropped_with_its_header_harms_nobody() -> None:
    assert sent((b"cookie", b"a\r\nb")) == OWN


@pytest.mark.parametrize("key", ["a\nb", "a\r\nx: y", "schlüssel", "a\0"])
def test_a_key_that_cant_be_a_header_is_an_error_of_the_configuration(key: str) -> None:
    with pytest.raises(ConfigError):
        sent(credential=key)


def test_a_replys_headers_come_back_in_lower_case_and_in_order() -> None:
    pairs = [(b"Content-Type", b"text/event-stream"), (b"X-Accel-Buffering", b"no"), (b"X-Two", b"1"), (b"x-two", b"2")]
    assert response_headers(pairs) == [(name.lower(), value) for name, value in pairs]


@pytest.mark.parametrize(
    "name",
    [
        b"Connection", b"Keep-Alive", b"Proxy-Authenticate", b"TE", b"Trailer", b"Transfer-Encoding", b"Upgrade",
        b"Content-Length", b"Date", b"Server", b"Set-Cookie", b"Alt-Svc", b"Strict-Transport-Security",
        b"Access-Control-Allow-Origin",
    ],
)  # fmt: skip
def test_what_an_upstream_may_not_say_for_the_router_is_dropped(name: bytes) -> None:
    assert response_headers([(name, b"x"), (b"ETag", b"1")]) == [(b"etag", b"1")]


def test_what_a_replys_connection_names_is_dropped_too() -> None:
    assert response_headers([(b"X-Hop", b"1"), (b"Connection", b"close, x-hop")]) == []
