import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llm_router.install import proof
from llm_router.install.errors import InstallError


class Router(ThreadingHTTPServer):
    """Answers as a router would. `wants`: the key it asks for; `refusal`: its answer to every chat, if that."""

    def __init__(self, models: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = models
        self.wants: str | None = None
        self.refusal: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Router

    def do_GET(self) -> None:
        if self.server.wants and self.headers["Authorization"] != f"Bearer {self.server.wants}":
            self.reply(401, {"error": {"message": "a key"}})
        else:
            self.reply(200, {"data": self.server.models})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refusal:
            self.reply(503, {"error": {"message": self.server.refusal}})
        else:
            self.reply(200, {"choices": [{"message": {"content": f" I am {asked['model']}. "}}]})

    def reply(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def router() -> Iterator[Router]:
    server = Router([{"id": "embedder", "capabilities": ["embedding"]}, {"id": "talker", "capabilities": ["chat"]}])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ignore(_: str) -> None: ...


def test_the_first_model_that_can_chat_is_asked(router: Router) -> None:
    assert proof.chat(router.url, ignore) == "talker: I am talker."


def test_without_one_nobody_is_asked(router: Router) -> None:
    router.models = router.models[:1]
    assert proof.chat(router.url, ignore) is None


def test_a_key_is_sent_and_a_missing_one_is_no_failure(router: Router) -> None:
    router.wants = "sk"
    assert proof.chat(router.url, ignore) is None
    assert proof.chat(router.url, ignore, key="sk") == "talker: I am talker."


def test_a_model_that_doesnt_load_is_told_in_the_routers_words(router: Router) -> None:
    router.refusal = "CUDA out of memory"
    with pytest.raises(InstallError, match="cannot prove that talker works: CUDA out of memory"):
        proof.chat(router.url, ignore)
