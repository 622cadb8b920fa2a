from pathlib import Path

import pytest
import typer
from imagined import ImaginedMachine

from llm_router.cli.install import Installer
from llm_router.install.errors import InstallError
from llm_router.install.layout import Layout, for_machine
from llm_router.install.machine import Result

CONFIG = '{"models": {"a": {"backend": "llamacpp", "script": "/a.sh", "service": "llamacpp"}}}'


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return for_machine(tmp_path / "root")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(CONFIG)
    return path


def release(layout: Layout, name: str = "1") -> Path:
    path = layout.releases / name
    path.mkdir(parents=True)
    return path


def unattended(layout: Layout, machine: ImaginedMachine | None = None) -> Installer:
    return Installer(layout, machine or ImaginedMachine(), asks=False)


def test_questions_need_a_terminal(layout: Layout) -> None:
    with pytest.raises(InstallError, match=r"no terminal; answer them all with --yes"):
        Installer(layout, ImaginedMachine(), asks=True)


def test_unattended_it_installs_the_given_configuration_and_says_whats_next(
    layout: Layout, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unattended(layout).install(config, release(layout), is_dry=False, proven=False)
    assert layout.config.read_text() == CONFIG
    assert '"llamacpp.service"' in (layout.polkit or Path()).read_text()
    said = capsys.readouterr().out
    assert "http://127.0.0.1:8002/v1" in said
    assert "sudo llm-router install --uninstall" in said


def test_an_upgrade_leaves_one_release_and_the_configuration(layout: Layout, config: Path) -> None:
    machine = ImaginedMachine()
    unattended(layout, machine).install(config, release(layout, "1"), is_dry=False, proven=False)
    unattended(layout, machine).install(None, release(layout, "2"), is_dry=False, proven=False)
    assert [path.name for path in layout.releases.iterdir()] == ["2"]
    assert layout.config.read_text() == CONFIG


def test_where_the_new_program_doesnt_start_the_one_before_goes_on(
    layout: Layout, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(ImaginedMachine):
        def ask(self, *argv: str) -> Result:
            if "restart" in argv and layout.current.readlink().name == "2":
                return Result(status=1, output="it doesn't start")
            return super().ask(*argv)

    machine = Failing()
    unattended(layout, machine).install(config, release(layout, "1"), is_dry=False, proven=False)
    with pytest.raises(InstallError, match="it doesn't start"):
        unattended(layout, machine).install(None, release(layout, "2"), is_dry=False, proven=False)
    assert layout.current.readlink().name == "1"
    assert machine.active == {"llm-router.service"}
    assert "going back to" in capsys.readouterr().out


def test_a_second_run_says_that_everything_is_there(
    layout: Layout, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = ImaginedMachine()
    unattended(layout, machine).install(config, release(layout), is_dry=False, proven=False)
    unattended(layout, machine).install(None, None, is_dry=False, proven=False)
    assert "Everything was there already." in capsys.readouterr().out


def test_a_configuration_with_mistakes_changes_nothing(layout: Layout, config: Path) -> None:
    config.write_text('{"models": {"a": {"backend": "llamacpp"}}}')
    with pytest.raises(InstallError, match=r"it has mistakes\n.*how the model starts"):
        unattended(layout).install(config, None, is_dry=False, proven=False)
    assert not layout.prefix.parent.exists()


def test_what_is_missing_is_told_before_anything_changes(layout: Layout, config: Path) -> None:
    with pytest.raises(InstallError, match=r"cannot install:\n .*sudo \./install\.sh"):
        unattended(layout, ImaginedMachine(root=False)).install(config, None, is_dry=False, proven=False)


def test_with_a_polkit_that_knows_no_rules_no_unit_is_promised_and_no_right_given(layout: Layout, config: Path) -> None:
    machine = ImaginedMachine()
    machine.polkit = "pkaction version 0.105"
    with pytest.raises(InstallError, match=r"polkit 0\.105 can't tell one unit from another: .*--user"):
        unattended(layout, machine).install(config, None, is_dry=False, proven=False)
    assert machine.changes() == []
    assert not layout.prefix.parent.exists()


def test_what_runs_in_no_unit_takes_no_right_and_so_any_polkit(layout: Layout, config: Path) -> None:
    machine = ImaginedMachine()
    machine.polkit = "pkaction version 0.105"
    config.write_text('{"models": {"a": {"backend": "llamacpp", "script": "/a.sh"}}}')
    unattended(layout, machine).install(config, release(layout), is_dry=False, proven=False)
    assert machine.active == {"llm-router.service"}
    assert layout.polkit is not None
    assert not layout.polkit.parent.exists()


def test_a_dry_run_changes_nothing(layout: Layout, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = ImaginedMachine()
    unattended(layout, machine).install(config, None, is_dry=True, proven=False)
    said = capsys.readouterr().out
    assert said.count("    undo: ") == 8
    assert not layout.prefix.parent.exists()
    assert machine.changes() == []


def test_files_that_the_routers_user_cant_read_are_named(
    layout: Layout, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = ImaginedMachine()
    machine.refuses = "runuser"
    unattended(layout, machine).install(config, release(layout), is_dry=False, proven=False)
    assert "can't read /a.sh; allow it with `setfacl -m u:llm-router:rX /a.sh`" in capsys.readouterr().out


def test_uninstalling_says_what_couldnt_be_undone_and_fails(
    layout: Layout, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = ImaginedMachine()
    unattended(layout, machine).install(config, release(layout), is_dry=False, proven=False)
    machine.refuses = "userdel"
    with pytest.raises(typer.Exit) as exit_:
        unattended(layout, machine).uninstall(is_dry=False)
    assert exit_.value.exit_code == 1
    assert "cannot remove the user" in capsys.readouterr().err
