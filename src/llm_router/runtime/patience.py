"""Tasks that wait for a load which somebody else has caused: a title that is asked for while its chat's model comes.

The scheduler serves a task at once or refuses it, so that none ever starts, delays or undoes a switch. That stays so:
here a refused one only asks again. Counterpart: `leases`, which asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from llm_router.errors import LlmRouterError, ModelNotReady
from llm_router.relay.gate import Caller
from llm_router.relay.lease import Upstream, Waiter

# Open-WebUI sends a new chat's title request first, by up to two seconds, mostly by 0.1 to 0.2 (0.12.4, 64 chats). But
# one kind of task keeps its chat from being sent until it is answered, so that what this wins costs those chats.
_UNTIL_THE_CHAT_COMES_S = 1.0
_LOOK_S = 2.0  # whether anybody still waits for the model: that has no event
_LONGEST_S = 300.0  # after that Open-WebUI hangs up
_MOST = 64  # at the same time


class Outlook(Enum):
    """Of a model. THERE: it is loaded. COMING: it loads, or somebody waits for it to. NONE: neither."""

    THERE = "there"
    COMING = "coming"
    NONE = "none"


class Timer(Protocol):
    def cancel(self) -> None: ...


class Asking(Protocol):
    """What a task needs of `Leases`: `again` asks once more, under a new number (`Task.asked`); `close` ends that."""

    def again(self, task: Task) -> None: ...
    def close(self, request: int) -> None: ...


class Task:
    """Implements `relay.lease.Waiter` before another one, which hears of a refusal only when it is the last word.

    `number`: by which its client knows it. `caller`: whose it is; None: somebody without limits.
    """

    def __init__(self, patience: Patience, number: int, model: str, waiter: Waiter, caller: Caller | None) -> None:
        self._patience = patience
        self.number = number
        self.model = model
        self.waiter = waiter
        self.caller = caller
        self.since = patience.now()
        self.asked: int | None = number  # under this number it has asked, and has no answer yet
        self.timer: Timer | None = None

    def granted(self, request: int, upstream: Upstream) -> None:
        self._patience.forget(self)
        self.waiter.granted(request, upstream)

    def refused(self, error: LlmRouterError) -> None:
        self.asked = None
        if not self._patience.keeps(self, error):
            self._patience.forget(self)
            self.waiter.refused(error)

    def cut(self, error: LlmRouterError) -> None:
        self.waiter.cut(error)


class Patience:
    """`outlook`: of a model, now. `call_later`: the event loop's. `now`: monotonic seconds."""

    def __init__(
        self,
        asking: Asking,
        *,
        outlook: Callable[[str], Outlook],
        call_later: Callable[[float, Callable[[], None]], Timer],
        now: Callable[[], float],
    ) -> None:
        self._asking = asking
        self._outlook = outlook
        self._call_later = call_later
        self._kept: dict[int, Task] = {}
        self.now = now

    def keeps(self, task: Task, error: LlmRouterError) -> bool:
        """Whether it goes on waiting. 1. Only for a load, for so long, and so many of them. 2. The model is there, so
        no load will help: its places are taken, or others need its room. 3. Who causes the load may still come."""
        waited_s = self.now() - task.since
        if not isinstance(error, ModelNotReady) or waited_s >= _LONGEST_S:  # 1
            return False
        if task.number not in self._kept and len(self._kept) >= _MOST:
            return False
        outlook = self._outlook(task.model)
        if outlook is Outlook.THERE:  # 2
            return False
        pause_s = _LOOK_S
        if outlook is Outlook.NONE:  # 3
            pause_s = _UNTIL_THE_CHAT_COMES_S - waited_s
            if pause_s <= 0:
                return False
        self._kept[task.number] = task
        self._stop_timer(task)
        task.timer = self._call_later(pause_s, lambda: self._ask(task))
        return True

    def forget(self, task: Task) -> None:
        """It has its answer."""
        self._kept.pop(task.number, None)
        self._stop_timer(task)

    def close(self, number: int) -> None:
        """Its client has left."""
        task = self._kept.get(number)
        if task is not None:
            self.forget(task)
            if task.asked is not None:
                self._asking.close(task.asked)

    def look(self) -> None:
        """A model may have become ready, or it may never."""
        for task in list(self._kept.values()):
            self._ask(task)

    def _ask(self, task: Task) -> None:
        if task.asked is None and self._kept.get(task.number) is task:
            self._asking.again(task)

    def _stop_timer(self, task: Task) -> None:
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
