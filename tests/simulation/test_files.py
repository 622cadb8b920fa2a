"""Our own trace format: what is written is read again, and a mistake is told with its file, its line and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router.core.events import RequestClass
from llm_router.core.specs import ANY_DEVICE
from llm_router.simulation import files
from llm_router.simulation.builtin import BUILTIN
from llm_router.simulation.files import TraceError
from llm_router.simulation.trace import Call, Profile

MACHINE = '{"devices": {"gpu0": "24GiB"}, "models": {"m": {"memory": "6GiB", "load_s": 4, "devices": ["gpu0"]}}}'
CALL = '{"at": 1.5, "model": "m", "prompt_tokens": 10, "output_tokens": 2}'


def written(folder: Path, *lines: str) -> Path:
    file = folder / "requests.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_the_first_line_is_the_machine_and_each_further_one_a_request(tmp_path: Path) -> None:
    trace = files.read(written(tmp_path, MACHINE, CALL, "", CALL))
    assert trace.name == "requests"
    assert trace.devices == {"gpu0": 24 * 1024}
    assert trace.models == {"m": Profile(footprint_mib=6 * 1024, load_s=4, devices=("gpu0",))}
    assert trace.calls == [Call("m", 10, 2, 1.5)] * 2


def test_a_request_may_follow_its_client(tmp_path: Path) -> None:
    line = '{"client": "c", "think_s": 2, "model": "m", "prompt_tokens": 1, "output_tokens": 0, "class": "background"}'
    [call] = files.read(written(tmp_path, MACHINE, line)).calls
    assert call == Call("m", 1, 0, 0.0, "c", 2.0, RequestClass.BACKGROUND)


def test_without_a_machine_models_take_turns_on_one_device(tmp_path: Path) -> None:
    trace = files.read(written(tmp_path, CALL))
    assert trace.devices == {ANY_DEVICE: None}
    assert trace.models == {"m": Profile()}


def test_a_machine_in_a_file_of_its_own_replaces_the_first_line(tmp_path: Path) -> None:
    machine = tmp_path / "machine.json"
    machine.write_text('{"devices": {"a": "1GiB", "b": null},\n "models": {"m": {}}}')
    trace = files.read(written(tmp_path, MACHINE, CALL), machine)
    assert trace.devices == {"a": 1024, "b": None}
    assert len(trace.calls) == 1


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_trace_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    made = BUILTIN[name](3)
    assert files.read(written(tmp_path, *files.lines(made))) == made


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "truncated"),
        ('{"at": "soon", "model": "m", "prompt_tokens": 1, "output_tokens": 1}', "`$.at`"),
        ('{"at": 1, "modell": "m", "prompt_tokens": 1, "output_tokens": 1}', "modell"),
        ('{"at": 1, "model": "m", "prompt_tokens": 1}', "output_tokens"),
        ('{"at": -1, "model": "m", "prompt_tokens": 1, "output_tokens": 1}', "0 or more"),
        ('{"model": "m", "prompt_tokens": 1, "output_tokens": 1, "class": "vip"}', "vip"),
    ],
)
def test_a_bad_line_is_named_with_what_is_expected(line: str, why: str, tmp_path: Path) -> None:
    file = written(tmp_path, MACHINE, CALL, line)
    with pytest.raises(TraceError) as told:
        files.read(file)
    assert told.value.message.startswith(f"cannot read {file}:3: ")
    assert why in told.value.message
    assert '"prompt_tokens": 1200' in told.value.message


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        ('{"devices": {"gpu0": "24"}, "models": {"m": {}}}', '"24" is not a size'),
        ('{"models": {"m": {"memory": "6GiB", "devices": ["gpu7"]}}}', "gpu7"),
        ('{"models": {"m": {"concurrency": 0}}}', "above 0"),
        ('{"models": {"m": {"load_s": -1}}}', "0 or more"),
        ('{"models": {"m": {"speed": 1}}}', "speed"),
    ],
)
def test_a_bad_machine_is_named_with_what_is_expected(machine: str, why: str, tmp_path: Path) -> None:
    file = written(tmp_path, machine, CALL)
    with pytest.raises(TraceError) as told:
        files.read(file)
    assert told.value.message.startswith(f"cannot read {file}:1: ")
    assert why in told.value.message
    assert '"devices": {"gpu0": "24GiB"}' in told.value.message


def test_a_model_that_the_machine_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"asks for other, which isn't among its models \(m\)"):
        files.read(written(tmp_path, MACHINE, CALL.replace('"m"', '"other"')))


def test_a_trace_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="it has no requests"):
        files.read(written(tmp_path, MACHINE))
