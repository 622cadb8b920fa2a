"""What goes wrong while the machine is changed."""

from __future__ import annotations

from llm_router.errors import LlmRouterError


class InstallError(LlmRouterError):
    """A step of the installation that can't be done or undone."""

    code = "install_failed"
