"""The kinds of change. Each is a value that knows whether it is done, how to do it, and how to undo it.

Counterpart: `plan`, which carries them out in order and remembers which of them changed something. `is_done`, `do` and
`undo` may be called again and again. What was there before is neither changed nor taken away.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from llm_router.install.errors import InstallError
from llm_router.install.machine import Machine

_GROUPS = ("video", "render", "systemd-journal")  # the GPU, and the journal of units


class Step(Protocol):
    """`kind`: its name in the record. `record`: what `undo` needs, as JSON; `from_record` makes a step of it again."""

    kind: ClassVar[str]

    def describe(self) -> str:
        """What it does, for people: `make the folder …`."""
        ...

    def describe_undo(self) -> str: ...
    def is_done(self, machine: Machine) -> bool: ...
    def do(self, machine: Machine) -> None:
        """Raises: InstallError, OSError."""
        ...

    def undo(self, machine: Machine) -> None:
        """Raises: InstallError, OSError."""
        ...

    def record(self) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user that the router and its servers run as, in the groups of GPU and journal as far as there are any."""

    name: str
    home: str
    kind: ClassVar[str] = "account"

    def describe(self) -> str:
        return f"make the system user {self.name}, in the groups {', '.join(_GROUPS)} as far as they exist"

    def describe_undo(self) -> str:
        return f"remove the user {self.name}"

    def is_done(self, machine: Machine) -> bool:
        if not machine.has_user(self.name):
            return False
        member_of = machine.ask("id", "-nG", self.name).output.split()
        return all(group in member_of for group in self._groups(machine))

    def do(self, machine: Machine) -> None:
        if not machine.has_user(self.name):
            shell = "/usr/sbin/nologin"
            machine.run(
                "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", self.home, "--shell", shell,
                self.name,
            )  # fmt: skip
        for group in self._groups(machine):
            machine.run("usermod", "--append", "--groups", group, self.name)

    def undo(self, machine: Machine) -> None:
        if machine.has_user(self.name):
            machine.run("userdel", self.name)

    def record(self) -> dict[str, str]:
        return {"name": self.name, "home": self.home}

    def _groups(self, machine: Machine) -> list[str]:
        return [group for group in _GROUPS if machine.ask("getent", "group", group).status == 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """With all that will be in it. `owner`: "user:group"; None: who installs."""

    path: str
    mode: int = 0o755
    owner: str | None = None
    kind: ClassVar[str] = "folder"

    def describe(self) -> str:
        return f"make the folder {self.path}" + (f", owned by {self.owner}" if self.owner else "")

    def describe_undo(self) -> str:
        return f"remove {self.path} with everything in it"

    def is_done(self, machine: Machine) -> bool:
        return Path(self.path).is_dir()

    def do(self, machine: Machine) -> None:
        path = Path(self.path)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(self.mode)
        if self.owner:
            machine.own(path, self.owner)

    def undo(self, machine: Machine) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def record(self) -> dict[str, str]:
        return {"path": self.path}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`keep`: what is there already stays as it is, whatever it says. Written whole or not at all; a file with other
    content is kept beside it as `….before`."""

    path: str
    text: str = ""
    mode: int = 0o644
    owner: str | None = None
    keep: bool = False
    kind: ClassVar[str] = "file"

    def describe(self) -> str:
        return f"write {self.path}" + (" unless it is there already" if self.keep else "")

    def describe_undo(self) -> str:
        return f"remove {self.path}"

    def is_done(self, machine: Machine) -> bool:
        path = Path(self.path)
        return path.exists() and (self.keep or path.read_text() == self.text)

    def do(self, machine: Machine) -> None:
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.new")
        scratch.write_text(self.text)
        scratch.chmod(self.mode)
        if self.owner:
            machine.own(scratch, self.owner)
        if path.exists():
            shutil.copy2(path, _before(path))
        scratch.replace(path)

    def undo(self, machine: Machine) -> None:
        Path(self.path).unlink(missing_ok=True)
        _before(Path(self.path)).unlink(missing_ok=True)

    def record(self) -> dict[str, str]:
        return {"path": self.path}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The folder that the program was put into before the installer could run. Its undo takes away all releases, and a
    Python that was brought along."""

    release: str
    kind: ClassVar[str] = "program"

    def describe(self) -> str:
        return f"keep the program in {self.release}"

    def describe_undo(self) -> str:
        return f"remove the program from {Path(self.release).parent}"

    def is_done(self, machine: Machine) -> bool:
        return self._mark.exists()

    def do(self, machine: Machine) -> None:
        self._mark.touch()

    def undo(self, machine: Machine) -> None:
        releases = Path(self.release).parent
        for folder in (releases, releases.parent / "python"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)

    def record(self) -> dict[str, str]:
        return {"release": self.release}

    @property
    def _mark(self) -> Path:
        return Path(self.release) / ".installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    path: str
    target: str = ""
    kind: ClassVar[str] = "link"

    def describe(self) -> str:
        return f"point {self.path} to {self.target}"

    def describe_undo(self) -> str:
        return f"remove {self.path}"

    def is_done(self, machine: Machine) -> bool:
        path = Path(self.path)
        return path.is_symlink() and str(path.readlink()) == self.target

    def do(self, machine: Machine) -> None:
        path = Path(self.path)
        if path.exists() and not path.is_symlink():
            raise InstallError(f"cannot make the link {path}: something else is there; move it away")
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.new")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(self.target)
        scratch.replace(path)

    def undo(self, machine: Machine) -> None:
        if Path(self.path).is_symlink():
            Path(self.path).unlink()

    def record(self) -> dict[str, str]:
        return {"path": self.path}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFile:
    """A unit's file; systemd reads its files anew before and after. `option`: "--user" for the user's own manager, or
    "". A unit that isn't of our making is left as it is."""

    path: str
    text: str = ""
    option: str = ""
    kind: ClassVar[str] = "unit"

    def describe(self) -> str:
        return f"install the unit {self.path}"

    def describe_undo(self) -> str:
        return f"stop {Path(self.path).name} and remove {self.path}"

    def is_done(self, machine: Machine) -> bool:
        return self._file().is_done(machine) or self._is_foreign()

    def do(self, machine: Machine) -> None:
        self._file().do(machine)
        _before(Path(self.path)).unlink(missing_ok=True)
        machine.run(*systemctl(self.option, "daemon-reload"))

    def undo(self, machine: Machine) -> None:
        if self._is_foreign():
            return
        machine.ask(*systemctl(self.option, "stop", Path(self.path).name))
        self._file().undo(machine)
        drop_in = Path(f"{self.path}.d")
        if drop_in.is_dir():
            shutil.rmtree(drop_in)
        machine.run(*systemctl(self.option, "daemon-reload"))
        machine.ask(*systemctl(self.option, "reset-failed", Path(self.path).name))

    def record(self) -> dict[str, str]:
        return {"path": self.path, "option": self.option}

    def _file(self) -> File:
        return File(path=self.path, text=self.text)

    def _is_foreign(self) -> bool:
        path = Path(self.path)
        return path.exists() and "llm-router install" not in path.read_text(errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Enabled and running. `is_current`: what it runs is what is installed now; else it is started anew."""

    name: str
    option: str = ""
    is_current: bool = False
    kind: ClassVar[str] = "service"

    def describe(self) -> str:
        return f"enable and start {self.name}"

    def describe_undo(self) -> str:
        return f"stop and disable {self.name}, and end what it started"

    def is_done(self, machine: Machine) -> bool:
        is_up = machine.ask(*systemctl(self.option, "is-active", self.name)).status == 0
        is_enabled = machine.ask(*systemctl(self.option, "is-enabled", self.name)).status == 0
        return is_up and is_enabled and self.is_current

    def do(self, machine: Machine) -> None:
        machine.run(*systemctl(self.option, "enable", self.name))
        result = machine.ask(*systemctl(self.option, "restart", self.name))
        if result.status != 0:
            whose = ("--user-unit",) if self.option else ("--unit",)
            log = machine.ask("journalctl", *whose, self.name, "--lines=15", "--output=cat", "--no-pager").output
            raise InstallError(f"cannot start {self.name}: {result.output}\n{log}")

    def undo(self, machine: Machine) -> None:
        machine.ask(*systemctl(self.option, "disable", "--now", self.name))
        # What `on_exit: leave` left, or a router that was killed.
        machine.ask(*systemctl(self.option, "kill", "--signal=KILL", self.name))

    def record(self) -> dict[str, str]:
        return {"name": self.name, "option": self.option}


def systemctl(option: str, *rest: str) -> tuple[str, ...]:
    return ("systemctl", *((option,) if option else ()), *rest)


def from_record(kind: str, values: dict[str, str]) -> Step:
    """Raises: InstallError for a record of another version."""
    try:
        match kind:
            case "account":
                return Account(**values)
            case "folder":
                return Folder(path=values["path"])
            case "file":
                return File(path=values["path"])
            case "program":
                return Program(release=values["release"])
            case "link":
                return Link(path=values["path"])
            case "unit":
                return UnitFile(**values)
            case "service":
                return Service(name=values["name"], option=values["option"])
            case _:
                raise InstallError(
                    f'cannot undo "{kind}": this version doesn\'t know it; use the one that installed it'
                )
    except (TypeError, KeyError) as error:
        raise InstallError(f'cannot undo "{kind}": its record is damaged ({error}); remove it by hand') from error


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")
