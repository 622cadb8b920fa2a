"""Asks a running server something: its facts, to load a model, to give one back.

Counterpart: the backends' `HttpCall`s, which say what to ask. A few calls for each load, so by a library; `probe` polls
by itself, since it asks up to 200 times a second (0.5 ms of CPU each, here 2.4 ms).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from llm_router.backends.base import Address, Facts, HttpCall, Inquiry
from llm_router.errors import LaunchError

# An engine's own description of itself is some 100 KiB at most; what is longer isn't one.
BODY_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes


async def ask(address: Address, call: HttpCall) -> Answer:
    """Send `call` and read its answer, at most `call.limit_s` seconds. Cancelling closes the connection.

    Raises: LaunchError where there is no whole answer in time.
    """
    try:
        async with asyncio.timeout(call.limit_s), _sent(address, call) as response:
            return Answer(status=response.status_code, body=await _body(response))
    except TimeoutError as error:
        raise LaunchError(f"cannot ask {_place(address, call)}: no answer within {call.limit_s:g} s") from error


async def listen(address: Address, call: HttpCall, on_data: Callable[[str], None]) -> Answer:
    """Send `call` and hand what stands in each `data:` line of the event stream to `on_data`, which may raise to end
    it, until the stream ends. The answer's body is empty unless its status isn't 200, and then there are no events.

    No deadline of its own: a load takes as long as it takes. Cancelling closes the connection.
    Raises: LaunchError where the connection fails or ends before the stream does; what `on_data` raises.
    """
    async with _sent(address, call) as response:
        if response.status_code != 200:
            return Answer(status=response.status_code, body=await _body(response))
        async for line in _lines(response):
            if line.startswith(b"data:"):
                on_data(line[5:].strip().decode(errors="replace"))
        return Answer(status=200, body=b"")


async def inquire(address: Address, inquiry: Inquiry) -> Facts | None:
    """What it says of itself; None where it answers something else than 200. Raises: LaunchError without an answer."""
    answer = await ask(address, inquiry.call)
    return inquiry.read(answer.body) if answer.status == 200 else None


def merged(answers: Iterable[Facts]) -> Facts:
    """The first that knows something wins."""
    known = Facts()
    for facts in answers:
        known = Facts(
            context_length=facts.context_length if known.context_length is None else known.context_length,
            slots=facts.slots if known.slots is None else known.slots,
            models=known.models or facts.models,
            build=facts.build if known.build is None else known.build,
        )
    return known


@asynccontextmanager
async def _sent(address: Address, call: HttpCall) -> AsyncIterator[httpx.Response]:
    """The answer as soon as its head is there."""
    scheme = "https" if address.tls else "http"
    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"{scheme}://{host}:{address.port}{address.base_path}{call.path}"
    # Without the environment's proxies: these servers are ours or our neighbours'.
    verify = ssl.create_default_context() if address.tls else False
    try:
        async with httpx.AsyncClient(timeout=None, trust_env=False, verify=verify) as client:  # noqa: S113 - see callers
            request = client.build_request(call.method, url, content=call.body, headers=list(call.headers))
            response = await _begun(client, request)
            try:
                yield response
            finally:
                await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        why = str(error) or type(error).__name__
        raise LaunchError(f"cannot ask {_place(address, call)}: {why}") from error


async def _begun(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    try:
        return await client.send(request, stream=True)
    except AttributeError as error:  # anyio's, which looks for the socket of a connection that is gone by then
        raise httpx.ConnectError("the connection was closed as soon as it was open") from error


def _place(address: Address, call: HttpCall) -> str:
    return f"{address.host}:{address.port} for {call.path}"


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > BODY_BYTES:
            break
    return bytes(body[:BODY_BYTES])


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """httpx's own cut at every character that Unicode takes for a line's end, and those occur inside of JSON."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
        if len(rest) > BODY_BYTES:
            raise LaunchError("cannot read an event stream: one of its lines has no end")
    if rest:
        yield rest
