"""Adding to a configuration file: everything else stays as it was, byte for byte; what is written works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_router.config import load
from llm_router.config.merge import merged, written
from llm_router.config.save import save
from llm_router.config.text import parse
from llm_router.errors import ConfigError

KINDS = {"llamacpp", "openai"}
NEW = {"models": {"new": {"backend": "llamacpp", "path": "/m/new.gguf", "args": ["--mmproj", "/m/eyes.gguf"]}}}
JSON, YAML = Path("c.json"), Path("c.yaml")


def without(after: str, before: str) -> str:
    """What was put in between; fails if anything else changed."""
    start = next((at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), len(before))
    tail = len(before) - start
    assert before[:start] + before[start:] == after[:start] + after[len(after) - tail :]
    return after[start : len(after) - tail]


@pytest.mark.parametrize(
    "before",
    [
        '{"models": {"a": {"backend": "openai", "url": "http://h"}}}',
        '{\n  "models": {\n    "a": {"backend": "openai", "url": "http://h"}\n  },\n  "router_port": 1\n}\n',
        '{\n    "models" : {\n        "a": {\n            "backend": "openai"\n,   "url": "http://h"}\n    }\n}',
        '{"models": {}}',
        '{\n  "models": {\n  }\n}\n',
        '{\r\n  "router_port": 1,\r\n  "models": {"ü": {"backend": "openai", "url": "http://\\u00fc/\\ud83d\\ude00"}}\r\n}',
    ],
)
def test_json_keeps_its_form(before: str) -> None:
    after = merged(before, JSON, NEW).text
    wanted = json.loads(before)
    wanted["models"].update(NEW["models"])
    assert json.loads(after) == wanted
    assert list(json.loads(after)) == list(json.loads(before))
    if '"models": {}' not in before and "{\n  }" not in before:
        assert '"new"' in without(after, before)


def test_json_looks_as_if_it_had_been_written_by_the_same_hand() -> None:
    before = '{\n    "models": {\n        "a": {"backend": "openai", "url": "http://h"}\n    }\n}\n'
    assert merged(before, JSON, NEW).text == (
        '{\n    "models": {\n        "a": {"backend": "openai", "url": "http://h"},\n        "new": '
        '{"backend": "llamacpp", "path": "/m/new.gguf", "args": ["--mmproj", "/m/eyes.gguf"]}\n    }\n}\n'
    )


def test_json_with_tabs_is_written_anew() -> None:
    before = '{\n\t"models":\t{\n\t\t"a": {"backend": "openai", "url": "http://h"}\n\t}\n}\n'
    assert set(json.loads(merged(before, JSON, NEW).text)["models"]) == {"a", "new"}


YAMLS = [
    "models:\n  a:\n    backend: openai\n    url: http://h  # ours\n",
    "# head\nmodels:\n    a:   # first\n        backend:   openai\n        url: http://h\n\n# port\nrouter_port: 1\n",
    "router_port: 1\nmodels:\n  a: {backend: openai, url: http://h}\n  # the end of the models\n\nmemory: exclusive",
    "models:\n  a:\n    backend: openai\n    command: |\n      one\n      two\n\nrouter_port: 1\n",
    "models:\n  a:\n    backend: openai\n    url: http://h\n    aliases:\n    - x\n    - y",
    "models: {a: {backend: openai, url: http://h}}\n",
    "---\nmodels:\n  a:\n    backend: openai\n    url: http://h\n...\n",
]


@pytest.mark.parametrize("before", YAMLS)
def test_yaml_keeps_its_comments_its_order_and_its_blanks(before: str) -> None:
    after = merged(before, YAML, NEW).text
    wanted = parse(before, YAML).data
    assert isinstance(wanted, dict)
    wanted["models"].update(NEW["models"])
    assert parse(after, YAML).data == wanted
    assert "new" in without(after, before)


def test_yaml_gets_blocks_with_short_lists_on_one_line() -> None:
    before = "models:\n   a:\n     backend: openai\n     url: http://h\n"
    assert merged(before, YAML, NEW).text == before + (
        "   new:\n     backend: llamacpp\n     path: /m/new.gguf\n     args: [--mmproj, /m/eyes.gguf]\n"
    )


def test_a_section_that_ends_in_an_alias_is_written_right_all_the_same() -> None:
    before = "x: &b\n  backend: openai\n  url: http://h\nmodels:\n  one: *b\n  two: *b\n"
    data = parse(merged(before, YAML, NEW).text, YAML).data
    assert isinstance(data, dict)
    assert (list(data["models"]), data["models"]["two"]["url"]) == (["one", "two", "new"], "http://h")


@pytest.mark.parametrize("before", ["models:\n", "models: {}\n", "{}\n", "router_port: 1\n", "# nothing yet\n"])
def test_a_section_that_is_empty_or_not_there_is_made(before: str) -> None:
    after = merged(before, YAML, NEW).text
    data = parse(after, YAML).data
    assert isinstance(data, dict)
    assert data["models"] == NEW["models"]
    assert after.startswith(before) or "#" not in before


def test_what_is_there_already_stays_as_it_is() -> None:
    before = '{"memory": "exclusive", "models": {"new": {"backend": "openai", "url": "http://h"}}}'
    data = {"memory": "8GiB", "idle_timeout": 60, **NEW}
    outcome = merged(before, JSON, data)
    assert (outcome.kept, outcome.added) == (["memory", "models.new"], ["idle_timeout"])
    assert json.loads(outcome.text) == {**json.loads(before), "idle_timeout": 60}


@pytest.mark.parametrize("name", ["c.json", "c.yaml", "c.yml"])
def test_a_new_file_reads_back_as_what_was_meant(name: str) -> None:
    data = {**NEW, "memory": "exclusive", "groups": {}}
    data["models"]["new"]["command"] = "one \\\n  two: '#'"
    assert parse(written(data, Path(name)), Path(name)).data == data


def test_a_file_whose_name_says_no_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"end its name in \.json or \.yaml"):
        written(NEW, Path("c.toml"))


# -- files


GOOD = '{"models": {"a": {"backend": "openai", "url": "http://h"}}}'


def test_the_old_file_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(GOOD)
    file.chmod(0o666)
    assert save(file, GOOD + "\n", kinds=KINDS) == tmp_path / "c.json.bak"
    assert save(file, GOOD + "\n\n", kinds=KINDS) == tmp_path / "c.json.bak2"
    assert (file.read_text(), (tmp_path / "c.json.bak").read_text()) == (GOOD + "\n\n", GOOD)
    assert file.stat().st_mode & 0o777 == 0o666
    assert len(list(tmp_path.iterdir())) == 3


def test_what_the_router_would_refuse_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(GOOD)
    with pytest.raises(ConfigError, match=r"c\.json:1: prt: there is no such key"):
        save(file, GOOD.replace('{"models"', '{"prt": 1, "models"'), kinds=KINDS)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]
    assert file.read_text() == GOOD


def test_a_folder_that_is_not_there_is_made_and_a_link_stays_one(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "c.json"
    assert save(file, GOOD, kinds=KINDS) is None
    link = tmp_path / "link.json"
    link.symlink_to(file)
    save(link, GOOD + "\n", kinds=KINDS)
    assert (link.is_symlink(), load(file).models["a"].backend) == (True, "openai")
    assert file.read_text() == GOOD + "\n"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*; name another file"):
        save(tmp_path / "file" / "c.json", GOOD, kinds=KINDS)
