"""What the installation needs of the machine, each with its remedy. Looks, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from llm_router.install import polkit
from llm_router.install.layout import Layout
from llm_router.install.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that is missing. `is_fatal`: nothing works without it."""

    message: str
    remedy: str
    is_fatal: bool = True

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}"


def missing(layout: Layout, machine: Machine, *, has_units: bool) -> list[Need]:
    """`has_units`: models of the configuration run in units, which takes a polkit rule."""
    return [
        *_rights(layout, machine),
        *_systemd(layout, machine, has_units),
        *_polkit(layout, machine, has_units),
        *_gpu(machine),
    ]


def _rights(layout: Layout, machine: Machine) -> Iterator[Need]:
    if not layout.is_for_user and not machine.is_root():
        yield Need(
            message="only root can install for the whole machine",
            remedy="run `sudo ./install.sh`, or install for yourself with `./install.sh --user`",
        )
    if layout.is_for_user and machine.is_root():
        yield Need(message="a service of root's own would be unprotected", remedy="leave out --user, or don't be root")


def _systemd(layout: Layout, machine: Machine, has_units: bool) -> Iterator[Need]:
    if not machine.exists("/run/systemd/system"):
        yield Need(
            message="systemd isn't running here",
            remedy="without it there is nothing to install: run `llm-router serve` under what starts services here",
        )
    elif layout.is_for_user and machine.ask("systemctl", "--user", "list-jobs").status != 0:
        yield Need(
            message="your own systemd manager can't be reached",
            remedy="log in again rather than by su or sudo; if that doesn't help: "
            "`sudo apt install dbus-user-session` and `sudo loginctl enable-linger $USER`",
        )

    elif layout.is_for_user and has_units and not machine.exists(f"/run/user/{os.getuid()}/bus"):
        yield Need(
            message="your own systemd manager has no D-Bus, by which the router starts units",
            remedy="`sudo apt install dbus-user-session`, then log in again",
        )


def _polkit(layout: Layout, machine: Machine, has_units: bool) -> Iterator[Need]:
    if layout.polkit is None or not has_units:
        return
    said = machine.ask("pkaction", "--version")
    version = polkit.version(said.output)
    if said.status != 0 or version is None:
        yield Need(
            message="polkit is missing, by which the router may start units without being root",
            remedy="`apt install polkitd` (Debian 12, Ubuntu 24.04 and later)",
        )
    elif not polkit.reads_rules(version):
        yield Need(message=f"polkit {version} can't tell one unit from another", remedy=polkit.REMEDY)


def _gpu(machine: Machine) -> Iterator[Need]:
    if machine.exists("/dev/nvidiactl") or machine.exists("/dev/kfd"):
        return
    if machine.exists("/proc/driver/nvidia"):
        remedy = "load its modules: `nvidia-modprobe -u -c 0`"
    else:
        remedy = "models will run on the CPU; for an NVIDIA GPU install its driver (`ubuntu-drivers install`, or "
        remedy += "`apt install nvidia-driver`) and restart"
    yield Need(message="no GPU driver was found", remedy=remedy, is_fatal=False)
