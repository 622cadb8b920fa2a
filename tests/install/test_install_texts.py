"""What the installer writes: units, the polkit rule, a configuration and scripts for what was found."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from imagined import ImaginedMachine

from llm_router.config import examine
from llm_router.install import findings, needs, polkit, unit, wanted
from llm_router.install.findings import Engine
from llm_router.install.layout import for_machine, for_user
from llm_router.models.local import LocalModel

LAYOUTS = [for_machine(), for_user(Path("/home/bob"))]
BACKENDS = ["llamacpp", "sglang", "tabbyapi", "vllm"]


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=["machine", "user"])
class TestUnits:
    def test_nothing_is_left_to_fill_in(self, layout: wanted.Layout) -> None:
        texts = [unit.router_unit(layout), *(unit.engine_unit(layout, one, "x.service") or "" for one in BACKENDS)]
        assert all(texts)
        assert not [line for text in texts for line in text.splitlines() if re.search(r"@[A-Z]+@", line)]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_an_engines_unit_runs_the_stable_path(self, layout: wanted.Layout, backend: str) -> None:
        found = settings(unit.engine_unit(layout, backend, "mine.service") or "")
        assert found["ExecStart"] == [f"{layout.state}/active/mine.service"]
        assert found["EnvironmentFile"] == [f"-{layout.state}/active/mine.service.env"]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_what_may_turn_the_link_is_who_the_unit_runs_as(self, layout: wanted.Layout, backend: str) -> None:
        router, engine = settings(unit.router_unit(layout)), settings(unit.engine_unit(layout, backend, "m") or "")
        assert engine.get("User") == router.get("User") == ([layout.user] if layout.user else None)

    def test_servers_outlive_a_crash_of_the_router(self, layout: wanted.Layout) -> None:
        found = settings(unit.router_unit(layout))
        assert found["KillMode"] == ["process"]
        assert found["OOMPolicy"] == ["continue"]
        assert "PrivateTmp" not in found

    def test_nothing_keeps_servers_from_the_gpu(self, layout: wanted.Layout) -> None:
        for text in (unit.router_unit(layout), unit.engine_unit(layout, "vllm", "vllm.service") or ""):
            hindering = {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "MemoryDenyWriteExecute"}
            assert not hindering & settings(text).keys()


def test_a_backend_without_a_template_has_no_unit() -> None:
    assert unit.engine_unit(for_machine(), "openai", "x.service") is None


class TestThePolkitRule:
    def test_names_the_units_of_the_configuration(self) -> None:
        assert 'var units = ["a.service", "b.service"];' in polkit.rule("llm-router", ["b.service", "a.service"])

    def test_a_name_stays_a_name_whatever_is_in_it(self) -> None:
        assert polkit.read(polkit.rule("llm-router", ["b.service", "a.service"])) == (
            "llm-router",
            frozenset({"a.service", "b.service"}),
        )
        assert polkit.read("polkit.addRule(function() {});") is None
        wild = 'a"]; polkit.Result.YES; ["\n.service'
        line = next(line for line in polkit.rule("llm-router", [wild]).splitlines() if "units =" in line)
        assert json.loads(line.partition("=")[2].strip().removesuffix(";")) == [wild]

    def test_leaves_everything_else_to_other_rules(self) -> None:
        assert polkit.rule("llm-router", ["a.service"]).count("polkit.Result.YES") == 1

    @pytest.mark.parametrize(
        ("said", "version", "is_heeded"),
        [
            ("pkaction version 0.105", "0.105", False),
            ("pkaction version 0.106", "0.106", True),
            ("pkaction version 0.117", "0.117", True),
            ("pkaction version 122", "122", True),
        ],
    )
    def test_a_version_heeds_the_rule_or_knows_no_rules(self, said: str, version: str, is_heeded: bool) -> None:
        assert polkit.version(said) == version
        assert polkit.reads_rules(version) is is_heeded


class TestConfiguration:
    MODEL = LocalModel(path=Path("/m/big model.gguf"), name="big-model", title="Big", use="chat", size_bytes=1)

    @pytest.mark.parametrize("in_units", [False, True], ids=["processes", "units"])
    def test_is_one_that_the_router_accepts(self, tmp_path: Path, *, in_units: bool) -> None:
        engines = [Engine(backend="llamacpp", key="binary", path="/usr/bin/llama-server")]
        text, _ = wanted.configuration(
            engines, [self.MODEL, self.MODEL], port=9000, layout=for_machine(), in_units=in_units
        )
        path = tmp_path / "router_config.json"
        path.write_text(text)
        config = examine(path, kinds=BACKENDS, look_at_files=False).config
        assert config is not None
        assert (config.router_port, sorted(config.models)) == (9000, ["big-model", "big-model-2"])

    def test_models_in_units_have_scripts_that_a_shell_understands(self, tmp_path: Path) -> None:
        text, scripts = wanted.configuration([], [self.MODEL], port=1, layout=for_machine(), in_units=True)
        (name,) = scripts
        assert json.loads(text)["models"]["big-model"]["script"] == f"/etc/llm-router/scripts/{name}"
        path = tmp_path / name
        path.write_text(scripts[name])
        subprocess.run(["sh", "-n", path], check=True)
        assert "'/m/big model.gguf'" in scripts[name]
        assert "/opt/llm-router/current/bin/python -m llm_router.engine.llamacpp" in scripts[name]

    def test_units_are_those_that_models_name(self) -> None:
        models = {"a": {"backend": "vllm", "service": "x"}, "b": {"backend": "vllm", "path": "/m"}}
        assert wanted.units_of(models) == {"x.service": "vllm"}


class TestFindings:
    def test_engines_are_found_where_people_put_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        server = tmp_path / "bob/llama.cpp/build/bin/llama-server"
        server.parent.mkdir(parents=True)
        server.touch(0o755)
        (tmp_path / "bob/tabbyAPI").mkdir()
        (tmp_path / "bob/tabbyAPI/main.py").touch()
        found = {(engine.backend, engine.key): engine.path for engine in findings.engines([tmp_path / "bob"])}
        assert found == {
            ("llamacpp", "binary"): str(server),
            ("tabbyapi", "directory"): str(tmp_path / "bob/tabbyAPI"),
        }


class TestNeeds:
    def test_a_machine_with_all_of_it_needs_nothing_but_a_gpu(self) -> None:
        missing = needs.missing(for_machine(), ImaginedMachine(), has_units=True)
        assert [need.is_fatal for need in missing] == [False]
        assert "GPU driver" in missing[0].message

    @pytest.mark.parametrize(
        ("machine", "words"),
        [
            (ImaginedMachine(root=False), "sudo ./install.sh"),
            (type("Bare", (ImaginedMachine,), {"exists": lambda *_: False})(), "systemd isn't running"),
        ],
    )
    def test_what_is_missing_is_told_with_its_remedy(self, machine: ImaginedMachine, words: str) -> None:
        fatal = [str(need) for need in needs.missing(for_machine(), machine, has_units=True) if need.is_fatal]
        assert len(fatal) == 1
        assert words in fatal[0]

    def test_a_polkit_that_cant_tell_units_apart_is_told_only_where_units_are_used(self) -> None:
        machine = ImaginedMachine()
        machine.polkit = "pkaction version 0.105"
        assert any("0.105" in need.message for need in needs.missing(for_machine(), machine, has_units=True))
        assert not any("0.105" in need.message for need in needs.missing(for_machine(), machine, has_units=False))
