"""Settings that need packages which only an extra brings. Counterpart: `load`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from llm_router.config.rules import Mistake
from llm_router.config.schema import Config

_EXPORTER = "opentelemetry.exporter.otlp.proto.http"  # it needs the rest of the extra


def missing(config: Config) -> Iterator[Mistake]:
    """Settings whose packages aren't installed. Looks for them only where they are needed."""
    if config.tracing and not _is_there(_EXPORTER):
        yield Mistake(
            key=("tracing",),
            message="OpenTelemetry isn't installed beside the router",
            remedy="run `pip install 'llm-router[otel]'` in its environment, or write false",
        )


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even what it is part of
        return False
