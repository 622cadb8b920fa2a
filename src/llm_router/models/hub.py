"""Downloads model files from the Hugging Face hub: pinned, resumable, checked. Counterpart: `demo`, which chooses."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import httpx

from llm_router.errors import LlmRouterError
from llm_router.models.report import Report

_CONNECT_S = 5.0
_READ_S = 30.0
_BLOCK = 1024 * 1024


class DownloadFailed(LlmRouterError):
    """A file could not be fetched. What has arrived is kept, unless it was wrong, and the next try goes on there."""

    code = "download_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file at one revision. `sha256` in hex. `size_bytes` None: not known beforehand."""

    repository: str
    revision: str
    name: str
    sha256: str
    size_bytes: int | None = None

    @property
    def url(self) -> str:
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        return f"{endpoint}/{self.repository}/resolve/{self.revision}/{self.name}"


def download(file: HubFile, folder: Path, report: Report) -> Path:
    """Fetch `file` into `folder` unless it is there, and return its path. A connection that breaks is taken up again
    as long as each try brings something.

    Raises: DownloadFailed, after at most 5 s if the hub can't be reached.
    """
    target = folder / file.name
    if target.exists():
        return target
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise DownloadFailed(f"cannot fetch {file.name}: HF_HUB_OFFLINE is set; unset it to allow downloads")
    part = target.with_name(target.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(file, part, report)
        _verify(file, part, report)
        part.replace(target)
    except OSError as error:
        raise DownloadFailed(f"cannot write {target}: {error.strerror}; make room there, then try again") from error
    return target


def _fetch(file: HubFile, part: Path, report: Report) -> None:
    timeout = httpx.Timeout(_READ_S, connect=_CONNECT_S)
    with httpx.Client(timeout=timeout, follow_redirects=True) as http:
        while True:
            before = _size(part)
            try:
                _fetch_rest(http, file, part, report)
            except httpx.TransportError as error:
                if _size(part) > before:
                    continue
                raise DownloadFailed(
                    f"cannot fetch {file.name} from {httpx.URL(file.url).host}: {error or type(error).__name__}; "
                    "check the connection, or set HF_ENDPOINT to a mirror"
                ) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise DownloadFailed(f"cannot fetch {file.url}: {error}; check HF_ENDPOINT") from error
            return


def _fetch_rest(http: httpx.Client, file: HubFile, part: Path, report: Report) -> None:
    have = _size(part)
    if file.size_bytes is not None and have == file.size_bytes:
        return
    # Without this the server may compress, and then ranges would count other bytes than ours.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with http.stream("GET", file.url, headers=headers) as reply:
        if reply.status_code == 416:  # nothing is left to send; the checksum tells whether it is right
            return
        if not reply.is_success:
            raise DownloadFailed(f"cannot fetch {file.url}: the server says {reply.status_code}; check HF_ENDPOINT")
        resumed = reply.status_code == 206
        done = have if resumed else 0
        total = file.size_bytes or done + int(reply.headers.get("Content-Length", 0)) or None
        with part.open("ab" if resumed else "wb") as out:
            for block in reply.iter_bytes(_BLOCK):
                out.write(block)
                done += len(block)
                report(f"downloading {file.name}", min(1.0, done / total) if total else None)


def _verify(file: HubFile, part: Path, report: Report) -> None:
    report(f"checking {file.name}")
    with part.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != file.sha256:
        part.unlink()
        raise DownloadFailed(
            f"cannot use {file.name}: its SHA-256 is {found}, not {file.sha256}; it was deleted, try again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
