import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from imagined import ImaginedMachine

from llm_router.install import plan, wanted
from llm_router.install.errors import InstallError
from llm_router.install.layout import Layout, for_machine, for_user
from llm_router.install.steps import File, Folder, Link, Step, UnitFile
from llm_router.install.wanted import Wanted

CONFIG = '{"models": {"a": {"backend": "llamacpp", "script": "/a.sh", "service": "llamacpp.service"}}}'


def goal(root: Path, **changes: object) -> Wanted:
    release = root / "opt/llm-router/releases/1"
    release.mkdir(parents=True, exist_ok=True)
    return Wanted(config=CONFIG, units={"llamacpp.service": "llamacpp"}, release=release, **changes)  # type: ignore[arg-type]


def applied(layout: Layout, machine: ImaginedMachine, steps: Sequence[Step]) -> int:
    return plan.Plan(steps, layout.record).apply(machine, lambda _: None)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


class TestInstalling:
    def test_everything_is_in_its_place(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        assert files(tmp_path) == {
            "opt/llm-router/current",
            "opt/llm-router/install.json",
            "opt/llm-router/releases/1/.installed",
            "usr/local/bin/llm-router",
            "etc/llm-router/router_config.json",
            "etc/polkit-1/rules.d/50-llm-router.rules",
            "etc/systemd/system/llamacpp.service",
            "etc/systemd/system/llm-router.service",
        }

    def test_the_router_may_write_its_state_and_only_read_its_configuration(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        assert machine.owners[str(layout.state)] == "llm-router:llm-router"
        assert machine.owners[str(layout.config_dir)] == "root:llm-router"
        assert layout.config.stat().st_mode & 0o777 == 0o640

    def test_the_user_is_in_the_groups_that_there_are(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        assert machine.users["llm-router"] == {"llm-router", "video", "systemd-journal"}

    def test_the_service_is_started_last(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        assert machine.changes()[-2:] == ["systemctl enable llm-router.service", "systemctl restart llm-router.service"]

    def test_for_one_user_there_is_neither_an_account_nor_a_rule(self, tmp_path: Path) -> None:
        layout, machine = for_user(tmp_path), ImaginedMachine(root=False)
        release = layout.releases / "1"
        release.mkdir(parents=True)
        applied(layout, machine, wanted.steps(layout, Wanted(config=CONFIG, release=release)))
        assert machine.users == {}
        assert all(line.startswith("systemctl --user ") for line in machine.changes())

    def test_a_second_time_nothing_is_done(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        machine.ran.clear()
        assert applied(layout, machine, wanted.steps(layout, goal(tmp_path, is_current=True))) == 0
        assert machine.changes() == []

    def test_an_upgrade_keeps_the_configuration(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        layout.config.write_text("mine")
        newer = layout.releases / "2"
        newer.mkdir()
        again = Wanted(config=None, units={"llamacpp.service": "llamacpp"}, release=newer)
        applied(layout, machine, wanted.steps(layout, again))
        assert layout.config.read_text() == "mine"
        assert layout.current.readlink() == newer

    def test_another_configuration_leaves_the_old_one_beside_it(self, tmp_path: Path) -> None:
        machine, path = ImaginedMachine(), tmp_path / "c.json"
        path.write_text("old")
        File(path=str(path), text="new").do(machine)
        assert (path.read_text(), (tmp_path / "c.json.before").read_text()) == ("new", "old")

    def test_a_step_that_fails_says_which_and_the_next_run_goes_on_there(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        machine.refuses = "systemctl restart"
        with pytest.raises(InstallError, match=r"cannot start llm-router\.service"):
            applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        machine.refuses = ""
        assert applied(layout, machine, wanted.steps(layout, goal(tmp_path))) == 1

    def test_a_unit_of_somebody_elses_making_is_left_alone(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        theirs = layout.units / "llamacpp.service"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("[Service]\nExecStart=/usr/local/bin/mine\n")
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        plan.undo_all(layout.record, machine, lambda _: None)
        assert theirs.read_text() == "[Service]\nExecStart=/usr/local/bin/mine\n"

    def test_a_program_in_the_links_place_is_not_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "llm-router").write_text("another program")
        with pytest.raises(InstallError, match="something else is there"):
            Link(path=str(tmp_path / "llm-router"), target="/x").do(ImaginedMachine())


class TestPreview:
    def test_shows_each_step_with_its_undo_and_changes_nothing(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path / "root"), ImaginedMachine()
        steps = wanted.steps(layout, Wanted(config=CONFIG, units={"llamacpp.service": "llamacpp"}))
        lines = list(plan.Plan(steps, layout.record).preview(machine))
        assert len(lines) == 2 * len(steps)
        assert all(line.startswith("    undo: ") for line in lines[1::2])
        assert not (tmp_path / "root").exists()
        assert machine.changes() == []


class TestUninstalling:
    def test_leaves_nothing(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        (layout.state / "history.sqlite").write_text("…")
        (layout.config_dir / "notes").write_text("…")
        assert plan.undo_all(layout.record, machine, lambda _: None) == []
        assert files(tmp_path) == set()
        assert not layout.prefix.exists()
        assert (machine.users, machine.active) == ({}, set())

    def test_leaves_what_was_there_before(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        machine.users["llm-router"] = {"llm-router", "video", "systemd-journal"}
        layout.config_dir.mkdir(parents=True)
        (layout.config_dir / "theirs").write_text("…")
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        plan.undo_all(layout.record, machine, lambda _: None)
        assert (layout.config_dir / "theirs").exists()
        assert "llm-router" in machine.users

    def test_what_cant_be_undone_is_told_and_the_rest_is_undone(self, tmp_path: Path) -> None:
        layout, machine = for_machine(tmp_path), ImaginedMachine()
        applied(layout, machine, wanted.steps(layout, goal(tmp_path)))
        machine.refuses = "userdel"
        (failure,) = plan.undo_all(layout.record, machine, lambda _: None)
        assert failure.startswith("cannot remove the user llm-router: ")
        assert not layout.state.exists()
        machine.refuses = ""
        assert plan.undo_all(layout.record, machine, lambda _: None) == []

    def test_without_an_installation_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(InstallError, match="cannot uninstall: there is no record"):
            plan.recorded(tmp_path / "install.json")

    def test_a_record_of_another_version_is_not_guessed_at(self, tmp_path: Path) -> None:
        record = tmp_path / "install.json"
        record.write_text(json.dumps({"format": 99, "done": []}))
        with pytest.raises(InstallError, match="another version's"):
            plan.recorded(record)

    def test_the_record_holds_no_secret(self, tmp_path: Path) -> None:
        machine, record = ImaginedMachine(), tmp_path / "install.json"
        steps = [File(path=str(tmp_path / "c.json"), text="sk-secret"), Folder(path=str(tmp_path / "f"))]
        plan.Plan(steps, record).apply(machine, lambda _: None)
        assert "sk-secret" not in record.read_text()

    def test_a_units_drop_ins_go_with_it(self, tmp_path: Path) -> None:
        machine, path = ImaginedMachine(), tmp_path / "x.service"
        UnitFile(path=str(path), text="# llm-router install\n").do(machine)
        (tmp_path / "x.service.d").mkdir()
        (tmp_path / "x.service.d" / "override.conf").write_text("")
        UnitFile(path=str(path)).undo(machine)
        assert list(tmp_path.iterdir()) == []
