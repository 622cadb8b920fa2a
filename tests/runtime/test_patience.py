"""A task waits for a load that others have caused, and for nothing else; the scheduler decides each time it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from llm_router.core.commands import Command, GrantRequest, RejectRequest
from llm_router.core.events import Event, InstanceReady, LoadRequested, RequestArrived, ShutdownRequested
from llm_router.core.scheduler import Scheduler
from llm_router.core.specs import ModelSpec, PolicySpec
from llm_router.core.views import InstanceState
from llm_router.errors import LlmRouterError, ModelNotReady, RateLimited, ShuttingDown
from llm_router.relay.gate import asking
from llm_router.relay.lease import Upstream
from llm_router.runtime.leases import Leases
from llm_router.runtime.loop import Handle
from llm_router.runtime.patience import Outlook

UPSTREAM = Upstream(instance=1, model="m", host="h", port=1, host_header=b"h")


class Due:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Waiter:
    def __init__(self) -> None:
        self.lease: int | None = None
        self.error: LlmRouterError | None = None

    def granted(self, request: int, upstream: Upstream) -> None:
        self.lease = request

    def refused(self, error: LlmRouterError) -> None:
        self.error = error

    def cut(self, error: LlmRouterError) -> None:
        self.error = error

    @property
    def waits(self) -> bool:
        return self.lease is None and self.error is None


class Desk:
    """Leases on a real scheduler, with a clock of our own; no instance starts by itself."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Due] = []
        self.events: list[Event] = []
        self.handle = Handle(Scheduler({"m": ModelSpec(name="m")}, PolicySpec()), self._carry_out)
        self.leases = Leases(
            post=self.post,
            now=lambda: self.now,
            upstream_of=lambda instance: UPSTREAM,
            progress_of=lambda request: None,
            suspect=lambda instance: None,
            outlook=self._outlook,
            call_later=self._call_later,
        )

    def post(self, event: Event) -> None:
        self.events.append(event)
        self.handle.post(event)

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, GrantRequest):
            self.leases.granted(command)
        elif isinstance(command, RejectRequest):
            self.leases.rejected(command)

    def _outlook(self, model: str) -> Outlook:
        found = self.handle.scheduler.snapshot()
        if any(one.state is InstanceState.READY for one in found.instances):
            return Outlook.THERE
        return Outlook.COMING if found.instances or found.waiting else Outlook.NONE

    def _call_later(self, delay_s: float, callback: Callable[[], None]) -> Due:
        self.timers.append(Due(self.now + delay_s, callback))
        return self.timers[-1]

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= until and not timer.is_cancelled]:
            timer = min(due, key=lambda one: one.at)
            self.timers.remove(timer)
            self.now = timer.at
            timer.callback()
        self.now = until

    def ask(self, request_class: str = "task") -> tuple[int, Waiter]:
        waiter = Waiter()
        return self.leases.open("m", request_class=request_class, waiter=waiter), waiter

    def become_ready(self) -> None:
        self.post(InstanceReady(at=self.now, instance=1))
        self.leases.look()

    @property
    def is_quiet(self) -> bool:
        return all(timer.is_cancelled for timer in self.timers)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_title_that_comes_before_its_chat_is_answered_after_the_load(desk: Desk) -> None:
    _, title = desk.ask()
    desk.pass_time(0.5)
    _, chat = desk.ask("interactive")
    desk.pass_time(60)
    assert title.waits
    desk.become_ready()
    assert chat.lease is not None
    assert title.lease is not None
    desk.leases.close(title.lease)
    assert desk.handle.scheduler.leases_of(1) == (chat.lease,)
    assert desk.is_quiet


def test_where_nobody_causes_a_load_it_is_refused_soon_and_loads_nothing(desk: Desk) -> None:
    _, title = desk.ask()
    desk.pass_time(0.9)
    assert title.waits
    desk.pass_time(0.1)
    assert isinstance(title.error, ModelNotReady)
    assert desk.handle.scheduler.snapshot().instances == ()
    assert desk.is_quiet


def test_a_load_that_goes_on_after_its_chat_was_stopped_is_waited_for_all_the_same(desk: Desk) -> None:
    chat, _ = desk.ask("interactive")
    _, title = desk.ask()
    desk.pass_time(10)
    desk.leases.close(chat)
    desk.become_ready()
    assert title.lease is not None


def test_its_patience_ends(desk: Desk) -> None:
    desk.ask("interactive")
    _, title = desk.ask()
    desk.pass_time(299)
    assert title.waits
    desk.pass_time(3)
    assert isinstance(title.error, ModelNotReady)


def test_so_many_wait_and_no_more(desk: Desk) -> None:
    desk.ask("interactive")
    titles = [desk.ask()[1] for _ in range(65)]
    assert [title.waits for title in titles] == [True] * 64 + [False]


def test_who_leaves_meanwhile_leaves_nothing(desk: Desk) -> None:
    desk.ask("interactive")
    request, title = desk.ask()
    desk.leases.close(request)
    before = len(desk.events)
    desk.pass_time(10)
    assert len(desk.events) == before
    desk.become_ready()
    assert title.waits
    assert desk.is_quiet


def test_what_is_asked_aside_waits_for_nothing(desk: Desk) -> None:
    desk.ask("interactive")
    assert isinstance(desk.ask("aside")[1].error, ModelNotReady)


def test_a_shutdown_is_not_waited_out(desk: Desk) -> None:
    desk.post(LoadRequested(at=desk.now, model="m"))
    _, title = desk.ask()
    desk.post(ShutdownRequested(at=desk.now))
    desk.leases.look()
    assert isinstance(title.error, ShuttingDown)


class TwoEver:
    """A caller who may ask twice."""

    def __init__(self) -> None:
        self.left = 2
        self.open = 0

    def enter(self, model: str) -> None:
        if not self.left:
            raise RateLimited("cannot serve more than two")
        self.left -= 1
        self.open += 1

    def leave(self) -> None:
        self.open -= 1

    def resume(self) -> None:
        self.open += 1

    def may_use(self, model: str) -> bool:
        return True


@pytest.fixture
def caller() -> Iterator[TwoEver]:
    found = TwoEver()
    token = asking.set(found)
    yield found
    asking.reset(token)


def test_however_often_it_asks_it_counts_once(desk: Desk, caller: TwoEver) -> None:
    chat_request, _ = desk.ask("interactive")
    _, title = desk.ask()
    desk.pass_time(20)
    assert sum(isinstance(event, RequestArrived) for event in desk.events) > 5
    assert caller.open == 1, "what only waits for others' load takes nobody's place"
    desk.become_ready()
    assert title.lease is not None
    assert caller.open == 2
    for request in (title.lease, chat_request):
        desk.leases.close(request)
    assert caller.open == 0
