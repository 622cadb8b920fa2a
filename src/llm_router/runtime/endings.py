"""What is to be said of an instance whose start failed or whose server is gone. Counterpart: `effects`, which reports
it."""

from __future__ import annotations

from llm_router.backends.signals import is_out_of_memory
from llm_router.launchers import procfs
from llm_router.launchers.masking import Mask, secrets_of
from llm_router.runtime.instances import Instance


def told(record: Instance, error: str) -> str:
    """The error without the server's secrets, which it may say in its answers too, and with what the kernel knows."""
    if record.spec is not None:
        error = Mask(secrets_of(record.spec))(error)
    if _was_ended_by_the_kernel(record):
        error += " (the machine ran out of memory, and the kernel ended it)"
    return error


def lacked_memory(record: Instance, error: str | None) -> bool:
    """Whether it ended for want of memory, by the kernel's word or the engine's. A server that outlives its models has
    the troubles of all of them in its log, so there the error must tell."""
    if error is None:
        return False
    if _was_ended_by_the_kernel(record):
        return True
    outlives = record.spec is not None and record.spec.load is not None
    lines = [] if record.process is None or outlives else record.process.output.tail()
    return is_out_of_memory("\n".join((*lines, error)))


def _was_ended_by_the_kernel(record: Instance) -> bool:
    """Only of a load that is believed: in its minutes hardly anything else is ended so."""
    if record.process is None or not record.process.exited.done() or record.ready_at is not None:
        return False
    return record.oom_kills is not None and (procfs.oom_kills() or 0) > record.oom_kills
