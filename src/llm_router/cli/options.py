"""What several commands take alike: their options, and the backends they may name."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import httpx
import typer

DEFAULT_URL = "http://127.0.0.1:8002"


def router_url(given: str | None) -> str | None:
    """The address as asked; the one that clients have, with `/v1`, does too."""
    if given is None:
        return None
    url = given.rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise typer.BadParameter(f'"{given}" is not an address; write one as {DEFAULT_URL}')
    return url


ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file; else the first in the usual folders.")
]
UrlOption = Annotated[
    str, typer.Option("--url", envvar="LLM_ROUTER_URL", callback=router_url, help="Where the router listens.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or alias.", show_default=False)]


def backend_kinds() -> set[str]:
    """The backends there are, by name alone; importing them is the composition root's business."""
    return {point.name for point in entry_points(group="llm_router.backends")}
