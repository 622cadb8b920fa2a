"""What is learned from loads, and what becomes of it over time."""

from __future__ import annotations

import pytest

from llm_router.history.base import History, LoadRecord
from llm_router.history.store import Store

DAY = 24 * 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(None, clock=clock)


def load(
    store: Store,
    took_s: float = 10.0,
    *,
    model: str = "qwen",
    key: str = "k",
    warm: bool = False,
    error: str | None = None,
    at: float = 1_000_000_000.0,
    **peak_mib: int,
) -> None:
    peak = {device.removeprefix("gpu"): size for device, size in peak_mib.items()}
    store.add_load(LoadRecord(at=at, model=model, launch_key=key, took_s=took_s, warm=warm, peak_mib=peak, error=error))


def test_what_was_never_loaded_is_not_known(store: Store) -> None:
    history: History = store
    assert history.load_s("qwen", "k", warm=True) is None
    assert history.footprint_mib("qwen", "k") is None


def test_the_time_of_a_load_is_the_median_of_the_last_five(store: Store) -> None:
    for took_s in (900, 900, 900, 10, 11, 12, 300, 13):
        load(store, took_s)
    assert store.load_s("qwen", "k", warm=False) == 12


def test_warm_and_cold_loads_are_told_apart_and_stand_in_for_each_other(store: Store) -> None:
    load(store, 60, warm=False)
    assert store.load_s("qwen", "k", warm=True) == 60
    load(store, 8, warm=True)
    load(store, 10, warm=True)
    assert (store.load_s("qwen", "k", warm=True), store.load_s("qwen", "k", warm=False)) == (9, 60)


def woken(store: Store, took_s: float, *, error: str | None = None, **peak_mib: int) -> None:
    peak = {device.removeprefix("gpu"): size for device, size in peak_mib.items()}
    store.add_load(
        LoadRecord(
            at=1_000_000_000.0,
            model="qwen",
            launch_key="k",
            took_s=took_s,
            warm=False,
            woken=True,
            peak_mib=peak,
            error=error,
        )
    )


def test_waking_is_learned_apart_from_loading(store: Store) -> None:
    load(store, 60)
    assert store.wake_s("qwen", "k") is None
    for took_s in (2, 40, 3):
        woken(store, took_s)
    woken(store, 0.1, error="its server isn't ready")
    assert store.wake_s("qwen", "k") == 3
    assert store.load_s("qwen", "k", warm=False) == store.load_s("qwen", "k", warm=True) == 60
    assert store.wake_s("qwen", "-c 8192") is None


def test_being_woken_says_nothing_about_what_a_load_needs(store: Store) -> None:
    """A load may need more on the way than it holds in the end."""
    load(store, gpu0=9_000)
    for _ in range(60):
        woken(store, 2, gpu0=5_000)
    assert store.footprint_mib("qwen", "k") == {"0": 9_000}
    store.note_peak("qwen", "k", {"0": 9_500})
    assert store.footprint_mib("qwen", "k") == {"0": 9_500}
    assert store.load_s("qwen", "k", warm=False) == 10


def test_another_launch_tells_nothing(store: Store) -> None:
    load(store, 60, key="-c 4096", gpu0=5_000)
    assert store.load_s("qwen", "-c 8192", warm=False) is None
    assert store.footprint_mib("qwen", "-c 8192") is None
    assert store.footprint_mib("other", "-c 4096") is None


def test_how_long_a_failed_load_took_doesn_t_count(store: Store) -> None:
    load(store, 1, error="out of memory")
    assert store.load_s("qwen", "k", warm=False) is None
    load(store, 20)
    load(store, 1, error="out of memory")
    assert store.load_s("qwen", "k", warm=False) == 20


def test_a_footprint_is_the_most_of_the_last_loads_by_device(store: Store) -> None:
    load(store, gpu0=8_000, gpu1=9_000)
    load(store, gpu0=8_500, gpu1=7_000, cpu=900)
    assert store.footprint_mib("qwen", "k") == {"0": 8_500, "1": 9_000, "cpu": 900}


def test_a_model_that_grows_after_its_load_raises_it(store: Store) -> None:
    load(store, gpu0=8_000)
    store.note_peak("qwen", "k", {"0": 9_500})
    store.note_peak("qwen", "k", {"0": 9_000})
    assert store.footprint_mib("qwen", "k") == {"0": 9_500}


def test_it_falls_only_when_newer_loads_held_less(store: Store) -> None:
    load(store, gpu0=20_000)
    for _ in range(4):
        load(store, gpu0=14_000)
        assert store.footprint_mib("qwen", "k") == {"0": 20_000}
    load(store, gpu0=14_000)
    assert store.footprint_mib("qwen", "k") == {"0": 14_000}


def test_loads_that_were_not_measured_change_nothing(store: Store) -> None:
    load(store, gpu0=20_000)
    for _ in range(8):
        load(store)
    assert store.footprint_mib("qwen", "k") == {"0": 20_000}


def test_a_failed_load_can_only_raise_it(store: Store) -> None:
    load(store, error="wrong option", gpu0=300)
    assert store.footprint_mib("qwen", "k") is None
    load(store, gpu0=8_000)
    load(store, error="killed", gpu0=200)
    assert store.footprint_mib("qwen", "k") == {"0": 8_000}
    load(store, error="out of memory", gpu0=11_000)
    assert store.footprint_mib("qwen", "k") == {"0": 11_000}


def test_what_is_noted_after_a_failed_load_counts_by_itself(store: Store) -> None:
    load(store, error="out of memory", gpu0=11_000)
    store.note_peak("qwen", "k", {"0": 12_500})
    assert store.footprint_mib("qwen", "k") == {"0": 12_500}
    assert store.load_s("qwen", "k", warm=False) is None


def test_an_instance_of_an_earlier_run_can_be_measured_too(store: Store) -> None:
    store.note_peak("qwen", "k", {"0": 7_000})
    store.note_peak("qwen", "k", {"0": 7_500, "cpu": 100})
    assert store.footprint_mib("qwen", "k") == {"0": 7_500, "cpu": 100}


def test_a_model_that_fails_all_night_keeps_what_is_known_of_it(store: Store) -> None:
    load(store, 20, gpu0=8_000)
    for _ in range(1000):
        load(store, 1, error="no such file")
    assert store.load_s("qwen", "k", warm=False) == 20
    assert store.footprint_mib("qwen", "k") == {"0": 8_000}


def test_what_is_older_than_three_months_is_forgotten(store: Store, clock: Clock) -> None:
    load(store, 60, at=clock.now, gpu0=8_000)
    clock.now += 89 * DAY
    load(store, model="other", at=clock.now)
    assert store.load_s("qwen", "k", warm=False) == 60
    clock.now += 2 * DAY
    load(store, model="other", at=clock.now)
    assert store.load_s("qwen", "k", warm=False) is None
    assert store.footprint_mib("qwen", "k") is None


def test_of_many_models_those_loaded_last_are_kept(store: Store) -> None:
    for number in range(600):
        load(store, model=f"m{number}")
        load(store, model="always")
    known = [number for number in range(600) if store.load_s(f"m{number}", "k", warm=False) is not None]
    assert known == list(range(101, 600))
    assert store.load_s("always", "k", warm=False) == 10
