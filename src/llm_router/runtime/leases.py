"""Requests as the scheduler knows them: gives them ids, tells each what was decided. Counterpart: `relay.exchange`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

from llm_router.core.commands import CutRequest, GrantRequest, Refusal, RejectRequest
from llm_router.core.events import Event, RequestArrived, RequestClass, RequestClosed
from llm_router.errors import (
    LlmRouterError,
    LoadFailed,
    ModelNotReady,
    NoRoom,
    Preempted,
    QueueFull,
    ShuttingDown,
)
from llm_router.relay.gate import Caller, asking
from llm_router.relay.lease import Upstream, Waiter
from llm_router.relay.status_text import Progress
from llm_router.runtime.patience import Outlook, Patience, Task, Timer

_ERRORS: dict[Refusal, type[LlmRouterError]] = {
    Refusal.QUEUE_FULL: QueueFull,
    Refusal.LOAD_FAILED: LoadFailed,
    Refusal.NO_ROOM: NoRoom,
    Refusal.NOT_READY: ModelNotReady,
    Refusal.SHUTTING_DOWN: ShuttingDown,
    Refusal.PREEMPTED: Preempted,
}

# Asked aside, something is a task that doesn't even wait for a load that is under way.
_CLASSES = {**{known.value: known for known in RequestClass}, "aside": RequestClass.TASK}


class Leases:
    """Implements `relay.lease.Dispatcher`.

    `post`: the handle's. `now`: monotonic seconds. `upstream_of`: an instance's address. `progress_of`: what a waiting
    request waits for. `suspect`: looks whether an instance that is silent for long still lives. `outlook` and
    `call_later`: as `Patience` wants them.
    """

    def __init__(
        self,
        *,
        post: Callable[[Event], None],
        now: Callable[[], float],
        upstream_of: Callable[[int], Upstream],
        progress_of: Callable[[int], Progress | None],
        suspect: Callable[[int], None],
        outlook: Callable[[str], Outlook],
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._post = post
        self._now = now
        self._upstream_of = upstream_of
        self._progress_of = progress_of
        self._suspect = suspect
        self._ids = itertools.count(1)
        self._waiters: dict[int, Waiter] = {}
        self._patience = Patience(self, outlook=outlook, call_later=call_later, now=now)
        self._callers: dict[int, Caller] = {}  # those with limits
        self._lost: tuple[Waiter, Caller | None] | None = None  # who lost a lease last, and whose request that is

    def open(self, model: str, *, request_class: str, waiter: Waiter) -> int:
        """A waiter who asks again right after he lost his lease goes on with the same request: it counts once. Whose it
        is isn't asked again either: what tells him of the loss is a connection that others have used before."""
        request = next(self._ids)
        lost, self._lost = self._lost, None
        if lost is not None and lost[0] is waiter:
            caller = lost[1]
            if caller is not None:
                caller.resume()
        elif (caller := asking.get()) is not None:
            try:
                caller.enter(model)
            except LlmRouterError as error:
                waiter.refused(error)
                return request
        if caller is not None:
            self._callers[request] = caller
        if request_class == "task":
            waiter = Task(self._patience, request, model, waiter, caller)
        self._waiters[request] = waiter
        self._post(
            RequestArrived(
                at=self._now(),
                request=request,
                model=model,
                request_class=_CLASSES[request_class],
            )
        )
        return request

    def again(self, task: Task) -> None:
        """A task that was refused asks once more: to the scheduler another request, to its caller the same."""
        request = task.asked = next(self._ids)
        if task.caller is not None:
            task.caller.resume()
            self._callers[request] = task.caller
        self._waiters[request] = task
        self._post(RequestArrived(at=self._now(), request=request, model=task.model, request_class=RequestClass.TASK))

    def look(self) -> None:
        """A model may have become ready, or it may never: tasks may have waited for it."""
        self._patience.look()

    def close(self, request: int, *, lost: bool = False) -> None:
        waiter = self._waiters.pop(request, None)
        if waiter is None:
            self._patience.close(request)
            return
        caller = self._leave(request)
        self._post(RequestClosed(at=self._now(), request=request, lost=lost))
        if lost:
            self._lost = waiter.waiter if isinstance(waiter, Task) else waiter, caller

    def suspect(self, instance: int) -> None:
        self._suspect(instance)

    def progress(self, request: int) -> Progress | None:
        return self._progress_of(request)

    def granted(self, command: GrantRequest) -> None:
        waiter = self._waiters[command.request]
        try:
            waiter.granted(command.request, self._upstream_of(command.instance))
        except Exception:
            # A mistake of ours must cost this request alone, not a place on the instance for ever.
            with contextlib.suppress(Exception):
                waiter.cut(LlmRouterError("cannot serve the request: the router failed; its log tells more"))
            self.close(command.request)
            raise

    def _leave(self, request: int) -> Caller | None:
        caller = self._callers.pop(request, None) if self._callers else None
        if caller is not None:
            caller.leave()
        return caller

    def rejected(self, command: RejectRequest) -> None:
        self._leave(command.request)
        self._waiters.pop(command.request).refused(_error(command.refusal, command.detail, command.retry_after_s))

    def cut(self, command: CutRequest) -> None:
        self._waiters[command.request].cut(_error(command.refusal, command.detail, None))


def _error(refusal: Refusal, detail: str, retry_after_s: float | None) -> LlmRouterError:
    return _ERRORS[refusal](detail, retry_after_s=retry_after_s)
