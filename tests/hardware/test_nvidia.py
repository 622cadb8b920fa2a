"""NVIDIA GPUs: numbers that stay, gaps for those that are lost, silence without a driver."""

from __future__ import annotations

from scripted_nvml import Gpu, ScriptedNvml

from llm_router.hardware.nvidia import Nvidia


def test_numbers_go_by_bus_whatever_the_library_s_order() -> None:
    nvml = ScriptedNvml(
        Gpu("00000000:C1:00.0", uuid="GPU-late"), Gpu("00000000:01:00.0", uuid="GPU-early", total_mib=12_000)
    )
    readings = Nvidia(nvml).read()
    assert {name: (one.device, one.uuid, one.total_mib) for name, one in readings.items()} == {
        "0": ("0", "GPU-early", 12_000),
        "1": ("1", "GPU-late", 24_564),
    }
    assert readings["0"].title == "NVIDIA GeForce RTX 4090"


def test_free_and_held_memory_follow_the_driver() -> None:
    gpu = Gpu("00000000:01:00.0", used_mib=10_000, computing=[(100, 9_000)], drawing=[(200, 500)])
    reader = Nvidia(ScriptedNvml(gpu))
    assert reader.read()["0"].free_mib == 14_564
    assert reader.read()["0"].held_mib == {100: 9_000, 200: 500}
    gpu.used_mib, gpu.computing = 20_000, [(100, 19_000)]
    assert (reader.read()["0"].free_mib, reader.read()["0"].held_mib[100]) == (4_564, 19_000)


def test_a_program_in_both_lists_counts_once_and_the_parts_of_a_split_gpu_are_added() -> None:
    gpu = Gpu("00000000:01:00.0", computing=[(100, 300), (7, 1_000), (7, 2_000)], drawing=[(100, 300), (8, None)])
    assert Nvidia(ScriptedNvml(gpu)).read()["0"].held_mib == {100: 300, 7: 3_000}


def test_a_driver_that_does_not_list_processes_still_tells_its_memory() -> None:
    gpu = Gpu("00000000:01:00.0", used_mib=564, tells_processes=False, drawing=[(5, 64)])
    reading = Nvidia(ScriptedNvml(gpu)).read()["0"]
    assert (reading.free_mib, reading.held_mib) == (24_000, {5: 64})


def test_a_gpu_that_falls_off_the_bus_leaves_a_gap_and_comes_back_under_its_number() -> None:
    first, second = Gpu("00000000:01:00.0", uuid="a"), Gpu("00000000:02:00.0", uuid="b")
    reader = Nvidia(ScriptedNvml(first, second))
    reader.read()
    first.lost = True
    assert {name: one.uuid for name, one in reader.read().items()} == {"1": "b"}
    first.lost = False
    assert sorted(reader.read()) == ["0", "1"]


def test_without_a_driver_there_are_no_gpus_until_it_is_loaded() -> None:
    nvml = ScriptedNvml(Gpu("00000000:01:00.0"), driver=False)
    reader = Nvidia(nvml)
    assert reader.read() == {}
    nvml.driver = True
    assert sorted(reader.read()) == ["0"]


def test_a_driver_that_was_exchanged_is_opened_anew() -> None:
    nvml = ScriptedNvml(Gpu("00000000:01:00.0"))
    reader = Nvidia(nvml)
    reader.read()
    nvml.driver = False
    assert reader.read() == {}
    nvml.driver, nvml.gpus = True, [Gpu("00000000:01:00.0", total_mib=48_000)]
    assert reader.read()["0"].total_mib == 48_000
    reader.close()
    reader.close()
    assert nvml.opened == 0


def test_the_real_library_is_silent_where_there_is_no_driver() -> None:
    reader = Nvidia()
    for reading in reader.read().values():  # on a machine with a GPU
        assert 0 <= reading.free_mib <= reading.total_mib
    reader.close()
