"""LAW: parses, prints, exits with a code."""

from __future__ import annotations

import os
from pathlib import Path


def main() -> None:
    """The entry point of `llm-router`."""
    from llm_router.cli.commands import app  # here, so that importing the package costs nothing

    _have_a_home()
    app(prog_name="llm-router")


def _have_a_home() -> None:
    """A user whom the machine doesn't know may have none; it is "/" then, as container runtimes have it."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"
