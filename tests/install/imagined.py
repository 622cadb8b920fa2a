"""A machine that is only imagined: commands are written down and answered as a small Debian would."""

from pathlib import Path

from llm_router.install.errors import InstallError
from llm_router.install.machine import Machine, Result


class ImaginedMachine(Machine):
    """`ran`: what would have been run. `refuses`: commands that begin so fail."""

    def __init__(self, *, root: bool = True) -> None:
        self.ran: list[str] = []
        self.users: dict[str, set[str]] = {}
        self.groups = {"video", "systemd-journal"}
        self.things = {"/run/systemd/system"}
        self.polkit = "pkaction version 122"
        self.owners: dict[str, str] = {}
        self.active: set[str] = set()
        self.refuses = ""
        self._root = root

    def is_root(self) -> bool:
        return self._root

    def has_user(self, name: str) -> bool:
        return name in self.users

    def exists(self, path: str) -> bool:
        return path in self.things

    def own(self, path: Path, owner: str) -> None:
        self.owners[str(path)] = owner

    def ask(self, *argv: str) -> Result:
        line = " ".join(argv)
        self.ran.append(line)
        if self.refuses and line.startswith(self.refuses):
            return Result(status=1, output="refused")
        match argv:
            case ["useradd", *_, name]:
                self.users[name] = {name}
            case ["userdel", name]:
                del self.users[name]
            case ["usermod", "--append", "--groups", group, name]:
                self.users[name].add(group)
            case ["getent", "group", group]:
                return Result(status=0 if group in self.groups else 2, output="")
            case ["id", "-nG", name]:
                return Result(status=0, output=" ".join(sorted(self.users[name])))
            case ["pkaction", "--version"]:
                return Result(status=0 if self.polkit else 127, output=self.polkit)
            case ["systemctl", *_, verb, unit] if verb in ("is-active", "is-enabled"):
                return Result(status=0 if unit in self.active else 3, output="")
            case ["systemctl", *_, "restart", unit]:
                self.active.add(unit)
            case ["systemctl", *_, "disable", "--now", unit]:
                self.active.discard(unit)
        return Result(status=0, output="")

    def run(self, *argv: str) -> str:
        result = self.ask(*argv)
        if result.status != 0:
            raise InstallError(f"cannot run `{' '.join(argv)}`: {result.output}")
        return result.output

    def changes(self) -> list[str]:
        """Without what only looks."""
        looks = ("getent", "id ", "pkaction", "systemctl is-", "systemctl --user is-")
        return [line for line in self.ran if not line.startswith(looks)]
