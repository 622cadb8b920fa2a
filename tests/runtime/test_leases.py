"""Requests of callers with limits: counted while they wait or run, however they end, and refused beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from llm_router.core.commands import GrantRequest, Refusal, RejectRequest
from llm_router.core.events import Event
from llm_router.errors import LlmRouterError, RateLimited
from llm_router.relay.gate import asking
from llm_router.relay.lease import Upstream
from llm_router.runtime.leases import Leases
from llm_router.runtime.patience import Outlook, Timer


class OneAtATime:
    def __init__(self) -> None:
        self.open = self.entered = self.resumed = 0

    def enter(self, model: str) -> None:
        if self.open:
            raise RateLimited("cannot serve more than one")
        self.open += 1
        self.entered += 1

    def leave(self) -> None:
        self.open -= 1

    def resume(self) -> None:
        self.resumed += 1
        self.open += 1

    def may_use(self, model: str) -> bool:
        return True


class Waiter:
    def __init__(self) -> None:
        self.error: LlmRouterError | None = None

    def granted(self, request: int, upstream: Upstream) -> None: ...

    def refused(self, error: LlmRouterError) -> None:
        self.error = error

    def cut(self, error: LlmRouterError) -> None:
        self.error = error


@pytest.fixture
def caller() -> Iterator[OneAtATime]:
    found = OneAtATime()
    token = asking.set(found)
    yield found
    asking.reset(token)


class Desk:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.leases = Leases(
            post=self.events.append,
            now=lambda: 1.0,
            upstream_of=_nothing,
            progress_of=lambda request: None,
            suspect=lambda instance: None,
            outlook=lambda model: Outlook.NONE,
            call_later=_never,
        )

    def open(self) -> tuple[int, Waiter]:
        waiter = Waiter()
        return self.leases.open("m", request_class="normal", waiter=waiter), waiter


def _never(delay_s: float, callback: Callable[[], None]) -> Timer:
    raise AssertionError("nothing is to happen later")


def _nothing(instance: int) -> Upstream:
    raise RuntimeError("no such instance")


def test_beyond_the_limit_the_scheduler_hears_of_nothing(caller: OneAtATime) -> None:
    desk = Desk()
    first, _ = desk.open()
    second, refused = desk.open()
    assert isinstance(refused.error, RateLimited)
    assert len(desk.events) == 1
    desk.leases.close(second)
    assert caller.open == 1
    desk.leases.close(first)
    desk.leases.close(first)
    assert (caller.open, len(desk.events)) == (0, 2)


def _reject(desk: Desk, request: int) -> None:
    desk.leases.rejected(RejectRequest(request=request, refusal=Refusal.QUEUE_FULL, detail="full", retry_after_s=None))


def _fail(desk: Desk, request: int) -> None:
    with pytest.raises(RuntimeError):
        desk.leases.granted(GrantRequest(request=request, instance=7))


@pytest.mark.parametrize("end", [_reject, _fail])
def test_whatever_ends_a_request_it_counts_no_longer(caller: OneAtATime, end: Callable[[Desk, int], None]) -> None:
    desk = Desk()
    end(desk, desk.open()[0])
    assert caller.open == 0


def test_who_lost_his_lease_and_asks_again_at_once_is_counted_once(caller: OneAtATime) -> None:
    desk = Desk()
    request, waiter = desk.open()
    desk.leases.close(request, lost=True)
    other = asking.set(OneAtATime())  # the connection that broke was opened for somebody else's request
    again = desk.leases.open("m", request_class="normal", waiter=waiter)
    asking.reset(other)
    assert (caller.open, caller.entered, caller.resumed) == (1, 1, 1)
    desk.leases.close(again)
    assert caller.open == 0


def test_who_had_no_limits_has_none_the_second_time(caller: OneAtATime) -> None:
    desk = Desk()
    nobody = asking.set(None)
    request, waiter = desk.open()
    asking.reset(nobody)
    desk.leases.close(request, lost=True)
    desk.leases.open("m", request_class="normal", waiter=waiter)
    assert caller.entered == 0


def test_who_asks_later_or_without_a_loss_is_counted(caller: OneAtATime) -> None:
    desk = Desk()
    first, waiter = desk.open()
    desk.leases.close(first, lost=True)
    second, _ = desk.open()
    desk.leases.close(second)
    third = desk.leases.open("m", request_class="normal", waiter=waiter)
    desk.leases.close(third)
    desk.leases.open("m", request_class="normal", waiter=waiter)
    assert (caller.entered, caller.resumed) == (4, 0)


def test_nobody_with_limits_is_never_refused() -> None:
    desk = Desk()
    assert [desk.open()[1].error for _ in range(3)] == [None] * 3
