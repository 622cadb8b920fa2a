"""What is said of programs, ports, units and files of models."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from llm_router.doctor import engines
from llm_router.doctor.engines import Said
from llm_router.doctor.finding import Verdict
from llm_router.errors import LaunchError


def program(folder: Path, says: str, *, mode: int = 0o755) -> str:
    path = folder / "llama-server"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(mode)
    return str(path)


def test_a_program_that_is_there_tells_its_version(tmp_path: Path) -> None:
    path = program(tmp_path, "version: 6710 (3df2244d)")
    [found] = engines.programs({path: ["qwen", "gemma"]})
    assert (found.verdict, found.message) == (Verdict.OK, f"{path}, 6710 (3df2244d) (qwen, gemma)")


def test_a_program_that_does_not_know_its_version_is_still_there(tmp_path: Path) -> None:
    path = program(tmp_path, "usage: whatever")
    [found] = engines.programs({path: ["qwen"]})
    assert (found.verdict, found.message) == (Verdict.OK, f"{path} (qwen)")


def test_a_program_that_is_missing_names_who_cannot_start() -> None:
    [found] = engines.programs({"no-such-engine": ["a", "b", "c", "d", "e"]})
    assert found.verdict is Verdict.PROBLEM
    assert found.message == "no-such-engine was not found: a, b, c, d and 1 more can't start"
    assert '"binary"' in found.remedy


def test_a_program_that_is_not_executable_is_told_from_a_missing_one(tmp_path: Path) -> None:
    path = program(tmp_path, "", mode=0o644)
    [found] = engines.programs({path: ["qwen"]})
    assert found.remedy == f"`chmod +x {path}`"


def test_the_built_in_server_has_a_version() -> None:
    [found] = engines.built_in(["qwen"])
    assert (found.about, found.verdict) == ("llama.cpp", Verdict.OK)
    assert list(engines.built_in([])) == []


def test_a_machine_without_a_built_in_server_needs_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    [found] = engines.built_in(["qwen"])
    assert found.verdict is Verdict.PROBLEM
    assert '"binary"' in found.remedy


def test_a_command_that_cannot_be_run_answers_nothing() -> None:
    assert engines.ask(("/no/such/program",)).status is None


def test_a_port_that_is_taken_says_by_whom() -> None:
    def ensure_free(port: int) -> None:
        if port == 30000:
            raise LaunchError("cannot use port 30000: pid 7 (nginx) listens on it; end it or configure another port")

    [found] = engines.ports({30000: ["a"], 5000: ["b"]}, ensure_free, is_running=False)
    assert (found.about, found.verdict) == ("port 30000", Verdict.WARNING)
    assert "pid 7 (nginx)" in found.message


def test_ports_of_a_router_that_runs_are_its_own_business() -> None:
    def ensure_free(port: int) -> None:
        raise LaunchError("cannot use it")

    [found] = engines.ports({30000: ["a"]}, ensure_free, is_running=True)
    assert found.verdict is Verdict.OK


def test_free_ports_are_named_and_none_at_all_need_no_word() -> None:
    [found] = engines.ports({30000: ["a"], 5000: ["b"]}, lambda _: None, is_running=False)
    assert found.message == "30000, 5000: free"
    assert list(engines.ports({}, lambda _: None, is_running=False)) == []


def units(answers: dict[str, Said]) -> list[tuple[str, Verdict]]:
    """Answers by manager."""

    def ask(argv: Sequence[str]) -> Said:
        assert argv[3:] == ("sglang.service", "--property=LoadState")[: len(argv) - 3]
        return answers[argv[1]]

    return [(one.message, one.verdict) for one in engines.units({"sglang.service": ["qwen"]}, ask)]


NONE = Said(status=0, output="LoadState=not-found")
DEAF = Said(status=1, output="Failed to connect to bus")


def test_a_unit_may_be_the_systems_or_the_users() -> None:
    loaded = Said(status=0, output="LoadState=loaded\n")
    for answers in ({"--system": loaded, "--user": DEAF}, {"--system": NONE, "--user": loaded}):
        assert units(answers) == [("is known to systemd (qwen)", Verdict.OK)]


def test_a_unit_that_nobody_knows_is_a_problem() -> None:
    assert units({"--system": NONE, "--user": DEAF}) == [("systemd says not-found: qwen can't start", Verdict.PROBLEM)]


def test_without_systemd_a_unit_is_a_problem() -> None:
    [(message, verdict)] = units({"--system": DEAF, "--user": Said(status=None, output="")})
    assert verdict is Verdict.PROBLEM
    assert "can't be asked" in message


def test_files_that_never_fit_into_memory_are_read_from_the_disk_each_time() -> None:
    large, sizes = engines.files({"big": 200_000, "small": 1024}, {"small": 1.0}, 65536)
    assert (large.verdict, "big" in large.message, "small" in large.message) == (Verdict.WARNING, True, False)
    assert sizes.message == "196.3 GiB together of 64 GiB memory; in memory now: small"


def test_without_files_of_ours_there_is_nothing_to_say() -> None:
    assert list(engines.files({}, {}, 65536)) == []


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"\0" * 1024**2)
    assert [engines.size_mib(path) for path in (tmp_path, tmp_path / "a", tmp_path / "none")] == [2, 1, 0]
