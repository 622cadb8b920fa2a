"""The reader that other tests script: it must itself tell the truth."""

from scripted_reader import ScriptedReader

from llm_router.hardware.base import Reader


def test_a_foreign_process_takes_memory_and_a_model_grows() -> None:
    devices = ScriptedReader(gpus=(24_000, 12_000))
    reader: Reader = devices
    devices.take("0", 100, 8_000)
    devices.take("0", 999, 3_000)
    devices.take("0", 100, 9_000)
    assert (reader.read()["0"].free_mib, reader.read()["0"].held_mib) == (12_000, {100: 9_000, 999: 3_000})
    assert reader.read()["1"].free_mib == 12_000


def test_memory_can_come_back_late() -> None:
    devices = ScriptedReader(gpus=(24_000,))
    devices.take("0", 100, 20_000)
    devices.release(100, late=True)
    assert (devices.read()["0"].free_mib, devices.read()["0"].held_mib) == (4_000, {})
    devices.settle()
    assert devices.read()["0"].free_mib == 24_000


def test_a_device_vanishes() -> None:
    devices = ScriptedReader(gpus=(24_000, 24_000))
    devices.vanish("0")
    assert sorted(devices.read()) == ["1", "cpu"]


def test_host_memory_is_asked_by_process() -> None:
    devices = ScriptedReader(cpu=16_000)
    devices.take("cpu", 7, 500)
    devices.take("cpu", 8, 300)
    assert devices.resident_mib(frozenset({7, 8, 9})) == 800
    assert (devices.read()["cpu"].free_mib, devices.read()["cpu"].held_mib) == (15_200, {})
