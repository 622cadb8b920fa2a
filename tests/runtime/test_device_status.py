"""What people are shown of the devices."""

from __future__ import annotations

from llm_router.runtime.memory import DeviceView
from llm_router.runtime.status import device_statuses


def view(device: str, *, available_mib: int | None = None, is_there: bool = True) -> DeviceView:
    return DeviceView(
        device=device,
        title="card",
        total_mib=24000,
        free_mib=9000,
        held_mib=8000,
        available_mib=available_mib,
        is_there=is_there,
    )


def test_the_budget_is_what_is_there_of_what_was_configured() -> None:
    budgets = {"0": 20000, "1": 20000, "device": None}
    views = [view("0", available_mib=17000), view("1", available_mib=23000), view("cpu", available_mib=1)]
    found = device_statuses(budgets, views, {})
    assert [(one.device, one.budget_mib) for one in found] == [("0", 17000), ("1", 20000), ("device", None)]
    assert (found[2].total_mib, found[2].is_there) == (None, True)


def test_each_model_is_named_with_what_it_has_reserved() -> None:
    reserved: dict[str, dict[str, int | None]] = {"a": {"0": 5000, "1": 6000}, "b": {"1": None}}
    found = device_statuses({"0": 20000, "1": 20000}, [], reserved)
    assert [one.reserved_mib for one in found] == [{"a": 5000}, {"a": 6000, "b": None}]


def test_of_a_device_that_is_gone_nothing_is_free() -> None:
    (one,) = device_statuses({"0": 20000}, [view("0", is_there=False)], {})
    assert (one.is_there, one.free_mib) == (False, None)
