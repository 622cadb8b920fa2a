"""Where everything goes: for the whole machine, or for one user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

USER = "llm-router"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`prefix`: program and record of the installation; below it `current` is the release that runs. `link`: the
    command on PATH. `polkit`: None where no rule is needed. `user`: whose service it is; None: of who installs it."""

    prefix: Path
    config_dir: Path
    state: Path
    units: Path
    link: Path
    polkit: Path | None
    user: str | None

    @property
    def is_for_user(self) -> bool:
        return self.user is None

    @property
    def current(self) -> Path:
        return self.prefix / "current"

    @property
    def releases(self) -> Path:
        return self.prefix / "releases"

    @property
    def program(self) -> Path:
        return self.current / "bin" / "llm-router"

    @property
    def config(self) -> Path:
        return self.config_dir / "router_config.json"

    @property
    def scripts(self) -> Path:
        return self.config_dir / "scripts"

    @property
    def record(self) -> Path:
        return self.prefix / "install.json"

    @property
    def owner(self) -> str | None:
        """Of what the router may write."""
        return None if self.user is None else f"{self.user}:{self.user}"

    @property
    def reader(self) -> str | None:
        """Of what the router may only read."""
        return None if self.user is None else f"root:{self.user}"


def for_machine(root: Path = Path("/")) -> Layout:
    return Layout(
        prefix=root / "opt/llm-router",
        config_dir=root / "etc/llm-router",
        state=root / "var/lib/llm-router",
        units=root / "etc/systemd/system",
        link=root / "usr/local/bin/llm-router",
        polkit=root / "etc/polkit-1/rules.d/50-llm-router.rules",
        user=USER,
    )


def for_user(home: Path) -> Layout:
    """The folders of the XDG specification where nothing else is set: a service doesn't see a shell's variables."""
    return Layout(
        prefix=home / ".local/share/llm-router",
        config_dir=home / ".config/llm-router",
        state=home / ".local/state/llm-router",
        units=home / ".config/systemd/user",
        link=home / ".local/bin/llm-router",
        polkit=None,
        user=None,
    )
