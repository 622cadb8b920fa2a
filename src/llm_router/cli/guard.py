"""How a command ends: every error of ours becomes one message on stderr and an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from llm_router.cli.client import NotRunning
from llm_router.config import ConfigUnreadable
from llm_router.errors import LlmRouterError

FAILED, UNREADABLE, NOT_RUNNING, INTERRUPTED = 1, 2, 3, 130

EXIT_CODES = """Exit codes: 0 done; 1 failed, or problems found; 2 wrong usage, or the configuration can't be read;
3 the router is not running; 130 interrupted."""


def exit_code(error: LlmRouterError) -> int:
    match error:
        case NotRunning():
            return NOT_RUNNING
        case ConfigUnreadable():
            return UNREADABLE
        case _:
            return FAILED


@contextmanager
def errors_as_json(wanted: bool) -> Iterator[None]:
    """With --json an error is an object on stdout instead of a message on stderr."""
    try:
        yield
    except LlmRouterError as error:
        if not wanted:
            raise
        print(json.dumps({"error": {"message": error.message, "code": error.code}}))
        raise typer.Exit(exit_code(error)) from error


class Commands(TyperGroup):
    """A group of commands whose errors are told, not traced."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except LlmRouterError as error:
            print(f"llm-router: {error.message}", file=sys.stderr)
            raise typer.Exit(exit_code(error)) from error
