"""Which headers go on to an inference server, and which come back from it.

Counterpart: `exchange`, which sends what is made here. Reads no header's meaning beyond that, and knows no status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llm_router.errors import ConfigError, InvalidRequest, UpstreamGarbage

Headers = list[tuple[bytes, bytes]]

# RFC 9110 §7.6.1: these speak about one connection, and the next hop has another one.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)

_NOT_FORWARDED = _HOP_BY_HOP | {
    # Written anew for the upstream: the client's are about the router.
    b"host",
    b"content-length",
    b"accept-encoding",
    # The whole body is read before the upstream is asked, so there is nothing left to wait for.
    b"expect",
    # The client's credentials are for the router. An inference server gets its own key, or none. TabbyAPI takes
    # `x-admin-key`, and management must not be reachable through an inference route.
    b"authorization",
    b"api-key",
    b"x-api-key",
    b"x-admin-key",
    b"cookie",
    # llama.cpp goes on generating after the client has left when it sees this one.
    b"x-conversation-id",
}

_NOT_RETURNED = _HOP_BY_HOP | {
    # The reply may be rewritten, and the server that writes it frames it.
    b"content-length",
    # The router's own server adds these.
    b"date",
    b"server",
    # One reply has one number, the router's, which stands in its log.
    b"x-request-id",
    # One origin stands before many upstreams: a cookie of one would be offered to all, and none is forwarded.
    b"set-cookie",
    # These two would send the client past the router, or bind the router's host name to TLS.
    b"alt-svc",
    b"strict-transport-security",
}

# Which web pages may read a reply is the router's decision; llama.cpp allows every origin that asks.
_CORS = b"access-control-"
_REQUEST_PREFIXES = (b"proxy-", b"x-llm-router-")
_RESPONSE_PREFIXES = (b"proxy-", _CORS)
_NAMES_NOTHING = frozenset({b"close", b"keep-alive", b""})


class RequestHead:
    """A client's headers, and what was made of them: whoever sends the same ones again finds it done.

    `pairs`: names in lower case, in their order. `fields`: by name.
    """

    __slots__ = ("_block", "_credential", "_host", "fields", "pairs")

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.pairs = pairs
        self.fields = dict(pairs)
        self._host = b""
        self._credential: str | None = None
        self._block = b""

    def block(self, *, host: bytes, content_length: int, credential: str | None) -> bytes:
        """The header block for an upstream, to the empty line, without the request line. Asked for one upstream after
        the other, it is made once for each time that changes.

        `host`: as in a URL, with the port. `content_length`: bytes of the body that will follow.
        `credential`: the upstream's own key, sent as `Authorization: Bearer`; None sends none.

        Raises: InvalidRequest when a header holds a line break or NUL, ConfigError when the credential can't be a
        header.
        """
        if self._host is not host or self._credential is not credential:
            self._block = _block(self.pairs, host, credential)
            self._host, self._credential = host, credential
        return b"content-length: %d\r\n%b" % (content_length, self._block)


def _block(headers: Iterable[tuple[bytes, bytes]], host: bytes, credential: str | None) -> bytes:
    own = [b"host: " + host, b"accept-encoding: identity"]
    if credential is not None:
        own.append(b"authorization: Bearer " + _credential(credential))
    kept: list[bytes] = []
    named: set[bytes] = set()
    for raw_name, value in headers:
        name = raw_name.lower()
        if name in _NOT_FORWARDED or name.startswith(_REQUEST_PREFIXES):
            if name == b"connection":
                named |= _named(value)
            continue
        kept.append(name + b": " + value)
    if named:
        kept = [line for line in kept if line.partition(b":")[0] not in named]
    block = b"\r\n".join(own + kept) + b"\r\n\r\n"
    # Counted once over the whole block: each header adds exactly one CR LF, or it smuggles another header.
    breaks = len(own) + len(kept) + 1
    if block.count(b"\n") != breaks or block.count(b"\r") != breaks or b"\0" in block:
        raise InvalidRequest("cannot forward a header that holds a line break or NUL: send it without")
    return block


def response_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """An upstream's headers as they go to the client, names in lower case, in their order.

    Raises: UpstreamGarbage when a header holds a line break or NUL.
    """
    kept: list[tuple[bytes, bytes]] = []
    named: set[bytes] = set()
    for raw_name, value in headers:
        name = raw_name.lower()
        if name in _NOT_RETURNED or name.startswith(_RESPONSE_PREFIXES):
            if name == b"connection":
                named |= _named(value)
            continue
        line = name + value
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise UpstreamGarbage("cannot return a header that holds a line break or NUL: check the inference server")
        kept.append((name, value))
    return [pair for pair in kept if pair[0] not in named] if named else kept


class ReplyHead:
    """An upstream's headers, and those of them that go on to the client. `fields`: by name in lower case."""

    __slots__ = ("fields", "returned")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        """Raises: UpstreamGarbage, as `response_headers`."""
        self.fields = fields
        self.returned = response_headers(fields.items())


def _named(value: bytes) -> set[bytes]:
    """The further headers that a `Connection` header declares to be about this connection only."""
    return {token.strip() for token in value.lower().split(b",")} - _NAMES_NOTHING


def _credential(key: str) -> bytes:
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("cannot send an API key with other than printable ASCII characters: check the backend's key")
    return key.encode("ascii")
