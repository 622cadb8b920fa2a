"""Links lead somewhere, commands exist, configurations are valid: what a reader copies works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pages
import pytest
import typer.main

from llm_router.cli.commands import app
from llm_router.config import check

PAGES = pytest.mark.parametrize("page", pages.pages(), ids=lambda page: str(page.relative_to(pages.ROOT)))
# `acme` is the example of a backend in another package.
# Not once for every page: it takes 50 ms.
COMMANDS = {*typer.main.get_group(app).commands, "--version", "--help", "--url"}
KINDS = {"acme", "llamacpp", "openai", "sglang", "tabbyapi", "tabbyapi-exl2", "vllm"}


@PAGES
def test_every_link_between_pages_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in pages.links(page):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = page if not file else (page.parent / file).resolve()
        assert target.exists(), link
        assert not anchor or anchor in pages.anchors(target), link


@PAGES
def test_every_json_block_with_models_is_a_valid_configuration(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in pages.blocks(page, "json"):
        data = json.loads(block)
        if "models" not in data:
            continue
        for name in set(re.findall(r"\$\{(\w+)\}", block)) - {"PORT", "HOST", "MODEL"}:
            monkeypatch.setenv(name, "x")
        file = tmp_path / "router_config.json"
        file.write_text(block)
        assert check(file, files=False, kinds=KINDS) == []


def test_the_readme_has_the_smallest_configuration_and_a_larger_one() -> None:
    configs: list[Any] = [json.loads(block) for block in pages.blocks(pages.ROOT / "README.md", "json")]
    assert [len(config["models"]) for config in configs] == [1, 6]


@PAGES
def test_every_make_target_named_is_in_the_makefile(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_the_readme_names_the_two_commands() -> None:
    shell = "\n".join(pages.blocks(pages.ROOT / "README.md", "sh"))
    assert "make run" in shell
    assert "make test" in shell


@PAGES
def test_every_command_of_the_router_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"(?:`|^\$ |/)llm-router ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= COMMANDS


def test_the_curl_of_the_readme_is_one_the_router_would_take() -> None:
    [curl] = [block for block in pages.blocks(pages.ROOT / "README.md", "sh") if block.startswith("curl")]
    words = shlex.split(curl)
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "tiny-a"  # it comes with every demo
    assert "Content-Type: application/json" in words


def test_the_example_configuration_names_no_backend_option_that_the_built_in_server_lacks() -> None:
    config = json.loads((pages.ROOT / "config" / "router_config.example.json").read_text())
    assert "llamacpp" not in config.get("backends", {})
