"""Talks to a running router's admin API. Counterpart: `api.admin`. Prints nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from llm_router.config import Config
from llm_router.errors import LlmRouterError

KEY_VARIABLE = "LLM_ROUTER_KEY"
_CONNECT_S = 5.0
_ANSWER_S = 30.0
_KEY_CODES = ("invalid_api_key", "admin_key_required")


class NotRunning(LlmRouterError):
    """Nobody answers at the router's address."""

    code = "not_running"


class Refused(LlmRouterError):
    """The router answered with an error; `code` is the router's own."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def address(config: Config) -> str:
    """Where a router with this configuration is asked from its own machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104 -- asked, not bound
    return f"http://[{host}]:{config.router_port}" if ":" in host else f"http://{host}:{config.router_port}"


class RouterClient:
    """One conversation with the router at `url`. All methods raise NotRunning and Refused."""

    def __init__(self, url: str) -> None:
        self.url = url
        # The environment's proxies are for the world outside; asking one for our loopback address only fails oddly.
        timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
        # From the environment, because everybody on the machine can read a command line.
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, headers=headers)

    def status(self) -> dict[str, Any]:
        with self._translated():
            status = self._checked(self._http.get("/admin/status")).json()
        return self._expected(status)

    def why(self, model: str) -> dict[str, Any]:
        with self._translated():
            found = self._checked(self._http.get(f"/admin/why/{quote(model, safe='')}")).json()
        return self._expected(found)

    def unload(self, model: str) -> dict[str, Any]:
        """Waits until the model is gone, however long its requests take."""
        with self._translated():
            reply = self._http.post(
                "/admin/unload", json={"model": model}, timeout=httpx.Timeout(None, connect=_CONNECT_S)
            )
            return self._expected(self._checked(reply).json())

    def reload(self) -> dict[str, Any]:
        """Raises: Refused also where the file has mistakes."""
        with self._translated():
            reply = self._http.post("/admin/reload", json={}, timeout=httpx.Timeout(None, connect=_CONNECT_S))
            return self._expected(self._checked(reply).json())

    def load(self, model: str) -> Iterator[dict[str, Any]]:
        """Each step of the load; ends with the one that has `ready`. Raises: Refused also where the load fails."""
        for line in self._lines("POST", "/admin/load", json={"model": model}):
            with self._translated():
                step = self._expected(json.loads(line))
            if "error" in step:
                raise _refusal(step)
            yield step
            if step.get("ready"):
                return
        raise Refused(
            f"cannot tell how the load of {model} ended: the router went away; see `llm-router status`", "lost"
        )

    def logs(self, model: str, *, lines: int, follow: bool) -> Iterator[str]:
        """The lines of the model's log; with `follow` they go on until the instance is gone."""
        parameters = {"lines": lines, "follow": int(follow)}
        return self._lines("GET", f"/admin/logs/{quote(model, safe='')}", params=parameters)

    def _lines(self, method: str, path: str, **request: Any) -> Iterator[str]:
        timeout = httpx.Timeout(None, connect=_CONNECT_S)
        with self._translated(), self._http.stream(method, path, timeout=timeout, **request) as reply:
            if reply.is_error:
                reply.read()
            for line in self._checked(reply).iter_lines():
                if line:
                    yield line

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotRunning(
                f"the router is not running at {self.url}: start it with `llm-router serve`, or name its address with "
                "--url or LLM_ROUTER_URL"
            ) from error
        except httpx.HTTPError as error:
            raise Refused(
                f"cannot talk to {self.url}: {error or type(error).__name__}; look at its log", "lost"
            ) from error
        except ValueError as error:
            raise self._stranger() from error

    def _checked(self, reply: httpx.Response) -> httpx.Response:
        if reply.is_success:
            return reply
        try:
            body = reply.json()
        except ValueError:
            raise self._stranger() from None
        raise _refusal(body) if isinstance(body, dict) and "error" in body else self._stranger()

    def _expected(self, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._stranger()
        return value

    def _stranger(self) -> Refused:
        return Refused(f"cannot understand {self.url}: it doesn't answer like llm-router; check --url", "not_a_router")


def _refusal(body: dict[str, Any]) -> Refused:
    error = body["error"]
    known = error if isinstance(error, dict) else {"message": str(error)}
    message, code = str(known.get("message", "unknown error")), str(known.get("code") or "error")
    return Refused(f"{message}; commands take it from {KEY_VARIABLE}" if code in _KEY_CODES else message, code)
