"""What is to run on the machine: the engines' programs, the ports and units of models, their files.

Counterpart: `machine`, which looks at what they run on. The configuration's own mistakes are `config`'s to find.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from llm_router.doctor.finding import Finding, ok, problem, warning
from llm_router.errors import LaunchError

_LIMIT_S = 20.0  # Python's engines import a lot before they say their version
_VERSION = re.compile(r"\d+(?:\.\d+)+\S*|\bb?\d{4,}\b(?: \([0-9a-f]+\))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command answered. `status` None: it can't be run, or took too long."""

    status: int | None
    output: str


Ask = Callable[[Sequence[str]], Said]


def ask(argv: Sequence[str]) -> Said:
    """Run a command that changes nothing. Waits for its end, at most 20 s."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Said(status=None, output=str(error))
    return Said(status=done.returncode, output=(done.stdout + done.stderr).strip())


def built_in(models: Sequence[str]) -> Iterator[Finding]:
    """`models`: those that the built-in llama.cpp serves."""
    if not models:
        return
    try:
        yield ok("llama.cpp", f"the built-in one, {metadata.version('xllamacpp')} ({_and(models)})")
    except metadata.PackageNotFoundError:
        yield problem(
            "llama.cpp",
            f"there is no built-in one for this machine: {_and(models)} can't start",
            'install llama.cpp, and set "binary" of the backend "llamacpp" to its llama-server',
        )


def programs(used_by: Mapping[str, Sequence[str]], ask: Ask = ask) -> Iterator[Finding]:
    """`used_by`: which models are started with each program, a path or a name on PATH."""
    for program, models in used_by.items():
        found = shutil.which(program)
        about = f"program {Path(program).name}"
        if found is None:
            is_there = Path(program).exists()
            yield problem(
                about,
                f"{program} {'is not executable' if is_there else 'was not found'}: {_and(models)} can't start",
                f"`chmod +x {program}`" if is_there else 'install it, or set "binary" of its backend to its path',
            )
            continue
        said = ask((found, "--version"))
        version = _VERSION.search(said.output) if said.status == 0 else None
        yield ok(about, found + (f", {version[0]}" if version else "") + f" ({_and(models)})")


def ports(
    fixed: Mapping[int, Sequence[str]], ensure_free: Callable[[int], None], *, is_running: bool
) -> Iterator[Finding]:
    """`fixed`: models by the port that their servers always have. `ensure_free`: raises LaunchError, naming who has it.
    `is_running`: a router is, and so the ports may be its models'."""
    taken = 0
    for port, models in fixed.items() if not is_running else ():
        try:
            ensure_free(port)
        except LaunchError as error:
            taken += 1
            yield warning(
                f"port {port}",
                error.message.removeprefix("cannot use "),
                f"{_and(models)} can't start before; a server left by an earlier router is taken over at the start",
            )
    if fixed and not taken:
        yield ok("ports", f"{', '.join(map(str, fixed))}: {'used by the router' if is_running else 'free'}")


def units(services: Mapping[str, Sequence[str]], ask: Ask = ask) -> Iterator[Finding]:
    """`services`: models by their systemd unit."""
    managers = ("--system", "--user")
    for unit, models in services.items():
        asked = (ask(("systemctl", manager, "show", unit, "--property=LoadState")) for manager in managers)
        states = [state for state in map(_unit_state, asked) if state is not None]
        if "loaded" in states:
            yield ok(f"unit {unit}", f"is known to systemd ({_and(models)})")
        elif not states:
            remedy = 'use "script" or "path" instead of "service"'
            yield problem(f"unit {unit}", "systemd can't be asked: it isn't running here", remedy)
        else:
            yield problem(
                f"unit {unit}",
                f"systemd says {states[0]}: {_and(models)} can't start",
                "write the unit (systemd/ has templates) and run `systemctl daemon-reload`",
            )


def _unit_state(said: Said) -> str | None:
    found = re.search(r"^LoadState=(\S+)", said.output, re.MULTILINE)
    return found[1] if said.status == 0 and found is not None else None


def files(sizes_mib: Mapping[str, int], cached: Mapping[str, float], memory_mib: int | None) -> Iterator[Finding]:
    """Whether a model's files stay in memory between switches. By model. `memory_mib`: of the host."""
    if not sizes_mib:
        return
    large = [name for name, size in sizes_mib.items() if memory_mib is not None and size > memory_mib]
    if large:
        yield warning(
            "page cache",
            f"the files of {_and(large)} are larger than this machine's memory, so each load reads them from the disk",
            "more memory, a faster disk, or a smaller quantisation makes switches faster",
        )
    warm = [name for name in sizes_mib if cached.get(name, 0.0) >= 0.9]
    total = sum(sizes_mib.values())
    of = f" of {memory_mib / 1024:.0f} GiB memory" if memory_mib is not None else ""
    yield ok("model files", f"{total / 1024:.1f} GiB together{of}; in memory now: {_and(warm) if warm else 'none'}")


def size_mib(path: Path) -> int:
    """Of a file, or of all files in a folder; 0 where there is none. Never raises."""
    try:
        found: Iterable[Path] = path.iterdir() if path.is_dir() else (path,)
        return sum(file.stat().st_size for file in found if file.is_file()) // 1024**2
    except OSError:
        return 0


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
