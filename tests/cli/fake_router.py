"""A small real server that answers like a router's admin API, as each test sets it up."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

IDLE: dict[str, Any] = {
    "id": "qwen",
    "name": "Qwen",
    "backend": "llamacpp",
    "state": "unloaded",
    "instance": None,
    "pid": None,
    "devices": [],
    "held_mib": {},
    "port": None,
    "leases": 0,
    "waiting": 0,
    "since_s": None,
    "fraction": None,
    "error": None,
    "retry_after_s": None,
}


class FakeRouter(ThreadingHTTPServer):
    """`asked`: what came, as (method and path, body); `keys`: as whom. `steps`: lines of a load. `hold`: a log that is
    followed ends only when it is set; `following`: set once a follower has the lines so far."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, Any]] = []
        self.keys: list[str | None] = []
        self.models: list[dict[str, Any]] = [IDLE]
        self.steps: list[dict[str, Any]] = [{"ready": True, "elapsed_s": 0.1}]
        self.devices: list[dict[str, Any]] = []
        self.why: dict[str, Any] = {}
        self.unloaded = True
        self.reloaded: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.error: tuple[int, dict[str, Any]] | None = None
        self.log = ["first line", "second line"]
        self.hold = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeRouter

    def do_GET(self) -> None:
        self._note(None)
        if self._refused():
            return
        if self.path == "/admin/status":
            about = {"version": "1", "pid": 7, "uptime_s": 1.5, "config": "c.json"}
            self._json({**about, **self.server.about, "devices": self.server.devices, "models": self.server.models})
            return
        if self.path.startswith("/admin/why/"):
            self._json(self.server.why)
            return
        self._begin("text/plain")
        self.wfile.write("".join(line + "\n" for line in self.server.log).encode())
        self.wfile.flush()
        if "follow=1" in self.path:
            self.server.hold.wait(10)

    def do_POST(self) -> None:
        self._note(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self._refused():
            return
        if self.path == "/admin/reload":
            self._json(self.server.reloaded)
            return
        if self.path == "/admin/unload":
            self._json({"unloaded": self.server.unloaded})
            return
        self._begin("application/x-ndjson")
        for step in self.server.steps:
            self.wfile.write(json.dumps(step).encode() + b"\n")

    def _note(self, body: Any) -> None:
        self.server.asked.append((f"{self.command} {self.path}", body))
        self.server.keys.append(self.headers.get("Authorization"))

    def _refused(self) -> bool:
        if self.server.error is None:
            return False
        self._json(self.server.error[1], self.server.error[0])
        return True

    def _json(self, value: dict[str, Any], status: int = 200) -> None:
        self._begin("application/json", status)
        self.wfile.write(json.dumps(value).encode())

    def _begin(self, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass
