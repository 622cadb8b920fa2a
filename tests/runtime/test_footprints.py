"""What a model will take, from what is known about it: earlier loads, its server's habits, its files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import scripted
from devices import KeptHistory

from llm_router.backends.base import LaunchRequest
from llm_router.hardware.base import DeviceReading
from llm_router.runtime import footprints
from llm_router.runtime.footprints import footprint_mib
from llm_router.runtime.instances import Launch

HOST = {"cpu": DeviceReading(device="cpu", total_mib=64000, free_mib=60000)}
CARDS = {
    "0": DeviceReading(device="0", total_mib=24000, free_mib=20000),
    "1": DeviceReading(device="1", total_mib=48000, free_mib=40000),
    **HOST,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claiming(scripted.Backend):
    """Takes half of each GPU, or all of one that has less than 24000 MiB."""

    def claim(self, request: LaunchRequest) -> float | None:
        assert request.device_mib is not None
        return 0.5 if request.device_mib >= 24000 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Modest(scripted.Backend):
    """Takes what its model needs."""

    def claim(self, request: LaunchRequest) -> float | None:
        return None


def launch(*, claims: bool = False, path: str | None = None) -> Launch:
    plain = scripted.launch()
    request = replace(plain.request, path=path)
    return replace(plain, backend=Claiming() if claims else Modest(), request=request)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bool]]:
    """What the files were asked for; they say 500 MiB on a GPU, 700 altogether."""
    found: list[tuple[Path, bool]] = []

    def estimate(path: Path, *, context_length: int | None, args: tuple[str, ...], gpu: bool) -> int:
        found.append((path, gpu))
        return 500 if gpu else 700

    monkeypatch.setattr(footprints, "estimate", estimate)
    return found


def test_what_was_measured_goes_before_everything_else(asked: list[tuple[Path, bool]]) -> None:
    history = KeptHistory()
    model = launch(claims=True, path="m.gguf")
    history.note_peak("m", model.key, {"0": 9000, "1": 8000})
    assert footprint_mib(model, None, CARDS, history) == 17000
    assert asked == []
    history.note_peak("m", "another launch", {"0": 1})
    assert footprint_mib(model, None, CARDS, history) == 17000


def test_what_was_measured_elsewhere_is_not_added(asked: list[tuple[Path, bool]]) -> None:
    history = KeptHistory()
    model = launch(path="m.gguf")
    history.note_peak("m", model.key, {"0": 9000, "cpu": 800})
    assert footprint_mib(model, None, CARDS, history) == 9000
    assert footprint_mib(model, ("0",), CARDS, history) == 9000
    assert footprint_mib(model, ("0", "cpu"), CARDS, history) == 9800
    assert footprint_mib(model, ("cpu",), CARDS, history) == 800
    assert footprint_mib(model, None, HOST, history) == 800
    history.note_peak("m", model.key, {"cpu": 800})
    assert footprint_mib(model, None, CARDS, history) == 500, "its files know better what it takes of a GPU"


def test_a_server_that_claims_its_share_takes_it_of_each_device_it_is_told_to_use() -> None:
    model = launch(claims=True, path="m.gguf")
    assert footprint_mib(model, ("0", "1"), CARDS, KeptHistory()) == 36000
    assert footprint_mib(model, ("0",), CARDS, KeptHistory()) == 12000
    assert footprint_mib(model, None, CARDS, KeptHistory()) == 24000, "of the largest, where it may choose"


def test_otherwise_the_files_are_asked(asked: list[tuple[Path, bool]]) -> None:
    model = launch(path="m.gguf")
    assert footprint_mib(model, None, CARDS, KeptHistory()) == 500
    assert footprint_mib(model, ("cpu",), CARDS, KeptHistory()) == 700
    assert footprint_mib(model, None, HOST, KeptHistory()) == 700
    assert asked == [(Path("m.gguf"), True), (Path("m.gguf"), False), (Path("m.gguf"), False)]


def test_on_the_host_nothing_is_claimed(asked: list[tuple[Path, bool]]) -> None:
    assert footprint_mib(launch(claims=True, path="m.gguf"), None, HOST, KeptHistory()) == 700


def test_of_what_has_no_files_nobody_knows() -> None:
    assert footprint_mib(launch(), None, CARDS, KeptHistory()) is None
