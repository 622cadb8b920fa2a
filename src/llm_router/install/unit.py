"""Fills in the unit templates. Counterparts: the files in `systemd/`, which explain themselves; `layout`."""

from __future__ import annotations

import re
from pathlib import Path

from llm_router.install.errors import InstallError
from llm_router.install.layout import Layout

_PLACE = re.compile(r"@(PROGRAM|CONFIG|STATE|USER|UNIT)@")
_PACKAGED = Path(__file__).parent / "templates"
# In a checkout they lie where people look for them.
_CHECKOUT = Path(__file__).parents[3] / "systemd"


def router_unit(layout: Layout) -> str:
    return _filled(_template(layout, "llm-router"), layout, "llm-router.service")


def engine_unit(layout: Layout, backend: str, unit: str) -> str | None:
    """For a server of this kind; None: there is no template for it."""
    path = _folder(layout) / f"{backend}.service.template"
    return _filled(path.read_text(), layout, unit) if path.exists() else None


def _template(layout: Layout, name: str) -> str:
    path = _folder(layout) / f"{name}.service.template"
    if not path.exists():
        raise InstallError(f"cannot find the unit template {path}: install llm-router again")
    return path.read_text()


def _folder(layout: Layout) -> Path:
    base = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
    return base / "user" if layout.is_for_user else base


def _filled(text: str, layout: Layout, unit: str) -> str:
    values = {
        "PROGRAM": str(layout.program),
        "CONFIG": str(layout.config),
        "STATE": str(layout.state),
        "USER": layout.user or "",
        "UNIT": unit,
    }
    return _PLACE.sub(lambda match: values[match[1]], text)
