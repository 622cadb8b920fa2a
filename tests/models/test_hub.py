"""Downloads from a hub: a small real HTTP server that cuts, lies and refuses on request."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llm_router.models import hub
from llm_router.models.hub import DownloadFailed, HubFile

CONTENT = bytes(range(256)) * 40_000
FILE = HubFile(
    repository="someone/model-GGUF",
    revision="abc123",
    name="model.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
)


class Hub(ThreadingHTTPServer):
    """`cuts`: for each coming request, after how many bytes the connection breaks (None: not at all)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.cuts: list[int | None] = []
        self.status = 200
        self.ranges = True


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : None if cut is None else start + cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}/")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Reports:
    def __init__(self) -> None:
        self.fractions: list[float] = []

    def __call__(self, message: str, fraction: float | None = None) -> None:
        if fraction is not None:
            self.fractions.append(fraction)


def test_a_file_is_fetched_once_at_its_pinned_revision(server: Hub, tmp_path: Path) -> None:
    reports = Reports()
    path = hub.download(FILE, tmp_path / "new", reports)
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/someone/model-GGUF/resolve/abc123/model.gguf", None)]
    assert reports.fractions == sorted(reports.fractions)
    assert reports.fractions[-1] == 1.0
    assert hub.download(FILE, tmp_path / "new", reports) == path
    assert len(server.asked) == 1
    assert [left.name for left in path.parent.iterdir()] == ["model.gguf"]


def test_a_broken_connection_is_taken_up_where_it_broke(server: Hub, tmp_path: Path) -> None:
    server.cuts = [3_000_000, 2_000_000]
    assert hub.download(FILE, tmp_path, Reports()).read_bytes() == CONTENT
    ranges = [asked for _, asked in server.asked]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(asked is not None and asked.startswith("bytes=") for asked in ranges[1:])


def test_a_connection_that_brings_nothing_more_is_given_up_and_resumed_next_time(server: Hub, tmp_path: Path) -> None:
    server.cuts = [4_000_000, 0]
    with pytest.raises(DownloadFailed, match=r"cannot fetch model\.gguf"):
        hub.download(FILE, tmp_path, Reports())
    kept = (tmp_path / "model.gguf.part").stat().st_size
    assert 0 < kept <= 4_000_000
    assert hub.download(FILE, tmp_path, Reports()).read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={kept}-"


def test_a_server_without_ranges_starts_over(server: Hub, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "model.gguf.part").write_bytes(b"old beginning")
    assert hub.download(FILE, tmp_path, Reports()).read_bytes() == CONTENT


def test_a_complete_part_is_only_checked(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "model.gguf.part").write_bytes(CONTENT)
    unsized = HubFile(repository="a/b", revision="c", name="model.gguf", sha256=FILE.sha256)
    assert hub.download(unsized, tmp_path, Reports()).read_bytes() == CONTENT
    assert server.asked == [("/a/b/resolve/c/model.gguf", f"bytes={len(CONTENT)}-")]


def test_wrong_content_is_deleted(server: Hub, tmp_path: Path) -> None:
    wrong = HubFile(repository="a/b", revision="c", name="model.gguf", sha256="0" * 64)
    with pytest.raises(DownloadFailed, match=r"SHA-256.*try again"):
        hub.download(wrong, tmp_path, Reports())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusal_names_the_status(server: Hub, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DownloadFailed, match=f"the server says {status}"):
        hub.download(FILE, tmp_path, Reports())


def test_no_hub_at_all_fails_at_once(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed}")
    with pytest.raises(DownloadFailed, match="HF_ENDPOINT"):
        hub.download(FILE, tmp_path, Reports())


def test_offline_means_offline(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE"):
        hub.download(FILE, tmp_path, Reports())
    assert server.asked == []


def test_a_folder_that_cannot_be_written_is_named(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadFailed, match="cannot write"):
        hub.download(FILE, tmp_path / "file", Reports())
