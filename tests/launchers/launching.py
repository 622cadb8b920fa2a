"""What the tests of this folder start, and how they wait for it."""

import asyncio
import sys
from pathlib import Path

from llm_router.backends.base import Address, LaunchSpec, Readiness, StopPlan
from llm_router.launchers.base import Identity
from llm_router.launchers.instance import Process

FAKE = Path(__file__).parents[1] / "programs" / "fake_backend.py"
AT_ONCE = StopPlan(grace_s=0.0, kill_after_s=0.0)


def fake_spec(*options: str, port: int = 0) -> LaunchSpec:
    return LaunchSpec(
        # -I -S: nothing of the environment is needed, and the start is twice as fast.
        argv=(sys.executable, "-IS", str(FAKE), "--port", str(port), *options),
        address=Address(host="127.0.0.1", port=port),
        readiness=Readiness(),
    )


def python_spec(code: str) -> LaunchSpec:
    return LaunchSpec(argv=(sys.executable, "-IS", "-c", code), address=Address(host="127.0.0.1", port=1))


def identity(instance: int = 1, model: str = "tiny/a", port: int = 1) -> Identity:
    return Identity(instance=instance, model=model, launch_key="key", port=port)


async def line_of(process: Process, wanted: str) -> str:
    """The first line that begins with `wanted`, past or future."""
    async with asyncio.timeout(20):
        async for line in process.output.follow():
            if line.startswith(wanted):
                return line
    raise AssertionError(f"ended without {wanted!r}: {process.output.tail()}")


def is_alive(pid: int, *, zombie: bool = False) -> bool:
    """`zombie`: count one that nobody has reaped yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return zombie or state not in "ZX"
