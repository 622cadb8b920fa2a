"""LAW: parses, prints, exits with a code."""

from __future__ import annotations


def main() -> None:
    """The entry point of `llm-router`."""
    from llm_router.cli.commands import app  # here, so that importing the package costs nothing

    app(prog_name="llm-router")
