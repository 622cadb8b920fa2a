"""Proves that an installed router works: it answers, and a model of its says something."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from llm_router.install.errors import InstallError

_UP_S = 60.0
_LONGEST_S = 900.0  # of a load; the router's own limit is usually first


def chat(url: str, report: Callable[[str], None], *, key: str | None = None) -> str | None:
    """Ask the first model that can chat to say something; its words. None: there is no such model, or it wants another
    key than `key`.

    Waits up to a minute for the router and as long as the load takes. Raises: InstallError.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(10.0, read=_LONGEST_S)) as client:
        listing = _when_up(client, url)
        model = None if listing is None else _first_chat(listing["data"])
        if model is None:
            return None
        report(f"asking {model} to say something; it is loaded first")
        body = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "Say hello."}]}
        reply = client.post("/v1/chat/completions", json=body)
        if reply.status_code != 200:
            raise InstallError(f"cannot prove that {model} works: {_message(reply)}; see `journalctl -u llm-router`")
        return f"{model}: {reply.json()['choices'][0]['message']['content'].strip()}"


def _when_up(client: httpx.Client, url: str) -> dict[str, Any] | None:
    """None: it answers, and wants a key."""
    deadline = time.monotonic() + _UP_S
    while True:
        try:
            reply = client.get("/v1/models")
            if reply.status_code in (401, 403):
                return None
            listing: dict[str, Any] = reply.raise_for_status().json()
        except httpx.HTTPError as error:
            if time.monotonic() > deadline or isinstance(error, httpx.HTTPStatusError):
                raise InstallError(
                    f"cannot reach the router at {url}: {error}; see `journalctl -u llm-router`"
                ) from error
            time.sleep(0.2)
        else:
            return listing


def _first_chat(models: list[dict[str, Any]]) -> str | None:
    for model in models:
        if not set(model.get("capabilities") or ()) & {"embedding", "rerank", "speech", "audio", "image"}:
            return str(model["id"])
    return None


def _message(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {reply.status_code}"
