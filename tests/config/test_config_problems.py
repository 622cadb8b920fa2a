"""Every mistake is reported with its file, line and key, and with what to write instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_router.config import ConfigUnreadable, check, examine, load
from llm_router.errors import ConfigError

KINDS = {"llamacpp", "sglang", "tabbyapi", "vllm", "openai"}
ONE = '"models": {"qwen": {"backend": "openai", "url": "http://localhost:1"}}'
_QWEN = '"backend": "llamacpp", "path": "/models/qwen.gguf"'

# The mistake stands on line 2 (QWEN: a correct start); key, words of the message, words of the remedy.
MISTAKES = [
    ('"router_prt": 1', "router_prt", "no such key", 'did you mean "router_port"'),
    ('"colour": 1', "colour", "no such key", "use one of"),
    ('"router_port": "x"', "router_port", '"x" is not a whole number', "8002"),
    ('"router_port": 70000', "router_port", "out of range", "at most 65535"),
    ('"queue_limit": 0', "queue_limit", "out of range", "at least 1"),
    ('"allow_insecure": "maybe"', "allow_insecure", "not true or false", "write true"),
    ('"host": "0.0.0.0"', "host", "without a key", '"allow_insecure": true'),
    ('"host": "lab.example"', "host", "without a key", '"127.0.0.1"'),
    ('"host": 7.5', "host", "without a key", '"127.0.0.1"'),
    ('"model_load_timeout": "3 minutes"', "model_load_timeout", "not a duration", '"3m"'),
    ('"patience": -1', "patience", "negative", '"90s"'),
    ('"patience": []', "patience", "not a duration", '"90s"'),
    ('"patience": true', "patience", "a duration", '"90s"'),
    ('"idle_timeout": 0', "idle_timeout", "at once", '"never"'),
    ('"park_after": 0', "park_after", "at once", '"never"'),
    ('"models": {"a": {QWEN, "park_after": "5m"}}', "models.a.park_after", "llamacpp can't park", '"idle_timeout"'),
    (
        '"models": {"a": {"backend": "tabbyapi", "path": "/a", "park_after": 9}}',
        "models.a.park_after",
        "can't park",
        "its server stays for the next",
    ),
    (
        '"models": {"a": {"backend": "vllm", "url": "http://x", "park_after": 9}}',
        "models.a.park_after",
        "elsewhere can't be parked",
        "where that server is started",
    ),
    (
        '"models": {"a": {"backend": "vllm", "path": "/a", "park_after": "5m", "idle_timeout": "5m"}}',
        "models.a.park_after",
        "a would be unloaded first, after 300s",
        'shorter than "idle_timeout"',
    ),
    (
        '"models": {"a": {"backend": "sglang", "path": "/a", "idle_timeout": 60}}, "park_after": "5m"',
        "park_after",
        "a would be unloaded first, after 60s",
        '"never"',
    ),
    ('"memory": 22', "memory", "needs its unit", '"22GiB"'),
    ('"memory": "22"', "memory", "not a size", '"22GiB"'),
    ('"memory": {"0": 22}', "memory", "needs its unit", '"22GiB"'),
    ('"memory": "alone"', "memory", "not a size", '"exclusive"'),
    ('"memory": ["22GiB"]', "memory", "needs its unit", "a size for each device"),
    ('"groups": {"g": {"models": ["qwen", "x"], "together": "never"}}', "groups.g.models[1]", 'no model "x"', "qwen"),
    ('"groups": {"g": {"models": ["qwen"]}}', "groups.g.together", "missing", '"never" or "allowed"'),
    ('"groups": {"g": {"models": [], "together": "maybe"}}', "groups.g.together", "not one of", '"never" or "allowed"'),
    ('"groups": {"g": {"model": [], "models": [], "together": "never"}}', "groups.g.model", "no such key", '"models"'),
    ('"backends": {"tabbyapi": {"admin_key": ["s3cret"]}}', "backends.tabbyapi.admin_key", "this is not text", "quot"),
    ('"concurrency": 0', "concurrency", "out of range", "at least 1"),
    ('"max_body": "big"', "max_body", "not a size", '"22GiB"'),
    ('"status": "contents"', "status", "not one of the choices", '"content"'),
    ('"on_exit": "keep"', "on_exit", "not one of the choices", '"stop" or "leave"'),
    ('"backends": {"llamacp": {}}', "backends.llamacp", "no backend", 'did you mean "llamacpp"'),
    ('"backends": {"llamacpp": {"prot": 1}}', "backends.llamacpp.prot", "no such key", '"port"'),
    ('"backends": {"llamacpp": {"port": 8002}}', "backends.llamacpp.port", "itself listens", "another port"),
    ('"backends": {"llamacpp": {"api_key": "${UNSET_A}"}}', "backends.llamacpp.api_key", "UNSET_A is not", "set "),
    ('"backends": {"llamacpp": {"api_key": ["s3cret"]}}', "backends.llamacpp.api_key", "this is not text", "quotes"),
    ('"models": {}', "models", "no models", "add one"),
    ('"models": []', "models", "not a section", "braces"),
    ('"models": {"a": 3}', "models.a", "not a section", "braces"),
    ('"models": {"a": {"path": "/a"}}', "models.a.backend", "missing", '"llamacpp"'),
    ('"models": {"a": {"backend": "lama", "path": "/a"}}', "models.a.backend", 'no backend "lama"', '"llamacpp"'),
    ('"models": {"a": {"backend": "vllm"}}', "models.a", "how the model starts", '"path", "command"'),
    ('"models": {"a": {QWEN, "url": "http://x"}}', "models.a.url", '"path", "url"', "keep one"),
    ('"models": {"a": {QWEN, "pth": 1}}', "models.a.pth", "no such key", '"path"'),
    ('"models": {"a": {QWEN, "args": "it\'s"}}', "models.a.args", "open quote", "close it"),
    ('"models": {"a": {QWEN, "args": 3}}', "models.a.args", "3 is not a list", "brackets"),
    ('"models": {"a": {QWEN, "aliases": "b"}}', "models.a.aliases", "not a list", "brackets"),
    ('"models": {"a": {QWEN, "port": 8002}}', "models.a.port", "itself listens", "another port"),
    ('"models": {"a": {"backend": "openai", "url": "http://localhost:8002"}}', "models.a.url", "itself", "anot"),
    ('"endpoints": {"e": {"url": ["http://x", "http://127.0.0.1:8002"]}}', "endpoints.e.url", "itself listens", "anot"),
    ('"models": {"a": {QWEN, "ready_path": "health"}}', "models.a.ready_path", "not a path", '"/health"'),
    ('"models": {"a": {QWEN, "parameters": {"removal": []}}}', "models.a.parameters.removal", "no such", "removals"),
    ('"models": {"a": {QWEN, "capabilities": ["chats"]}}', "models.a.capabilities[0]", "not one", '"chat"'),
    ('"models": {"a": {"backend": "openai", "url": "x:1"}}', "models.a.url", "not a base URL", '"http://"'),
    ('"models": {"a": {"backend": "openai", "url": []}}', "models.a.url", "not a base URL", "a list of them"),
    ('"models": {"a": {QWEN, "request_class": "task"}}', "models.a.request_class", "not one of", '"background"'),
    ('"models": {"a": {QWEN}, "b": {QWEN, "aliases": ["a"]}}', "models.b.aliases[0]", "already", "own"),
    ('"models": {"a": {QWEN}, "a": {QWEN}}', "models.a", "already given on line 2", "keep one"),
]  # fmt: skip


def written(folder: Path, content: str, name: str = "router_config.json") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(("line", "key", "message", "remedy"), MISTAKES, ids=[mistake[0][:60] for mistake in MISTAKES])
def test_a_mistake_is_reported_with_line_key_and_remedy(
    tmp_path: Path, line: str, key: str, message: str, remedy: str
) -> None:
    rest = "" if line.startswith('"models"') else f",\n  {ONE}"
    path = written(tmp_path, f"{{\n  {line.replace('QWEN', _QWEN)}{rest}\n}}\n")
    (problem,) = check(path, kinds=KINDS, files=False)
    assert (problem.file, problem.line, problem.key, problem.fatal) == (path, 2, key, True)
    assert message in problem.message
    assert remedy in problem.remedy
    assert "s3cret" not in str(problem)
    with pytest.raises(ConfigError, match="one mistake"):
        load(path, kinds=KINDS)


def test_all_mistakes_are_reported_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """{
  "router_prt": 8002,
  "host": "0.0.0.0",
  "memory": "24GiB",
  "models": {
    "a": {"backend": "lamacpp", "path": "/a.gguf"},
    "b": {"backend": "llamacpp",
          "memory": "10GiB",
          "aliases": ["x",
                      "a"]}
  }
}""",
    )
    problems = check(path, kinds=KINDS)
    assert [(problem.line, problem.key) for problem in problems] == [
        (2, "router_prt"),
        (3, "host"),
        (6, "models.a.backend"),
        (7, "models.b"),
        (10, "models.b.aliases[1]"),
    ]
    with pytest.raises(ConfigError) as raised:
        load(path, kinds=KINDS)
    assert "5 mistakes" in raised.value.message
    assert all(str(problem) in raised.value.message for problem in problems)
    assert str(problems[0]) == f'{path}:2: router_prt: there is no such key: did you mean "router_port"?'


def test_a_conflict_that_shows_only_in_the_values_is_reported_too(tmp_path: Path) -> None:
    path = written(tmp_path, '{"router_port": 9000.0, "models": {"a": {%s, "port": 9000}}}'.replace("%s", _QWEN))
    (problem,) = check(path, files=False)
    assert problem.fatal
    assert "models.a.port" in problem.remedy


def test_missing_files_and_units_spoil_only_their_own_model(tmp_path: Path) -> None:
    plain = written(tmp_path, "#!/bin/sh\n", "plain.sh")
    good = written(tmp_path, "#!/bin/sh\n", "good.sh")
    good.chmod(0o755)
    path = written(
        tmp_path,
        """{"backends": {"llamacpp": {"binary": "/nowhere/llama-server"}}, "models": {
  "gone":    {"backend": "llamacpp", "path": "gone.gguf"},
  "nobody":  {"backend": "llamacpp", "script": "./nobody.sh"},
  "plain":   {"backend": "llamacpp", "script": "./plain.sh"},
  "unit":    {"backend": "llamacpp", "script": "./good.sh", "service": "x.service"},
  "command": {"backend": "openai", "command": "no-such-program --port ${PORT}"},
  "shell":   {"backend": "openai", "command": ["sh", "-c", "true"]},
  "hub":     {"backend": "vllm", "path": "Qwen/Qwen2.5-0.5B"},
  "good":    {"backend": "llamacpp", "script": "good.sh"}
}}""",
    )
    examined = examine(path, kinds=KINDS)
    assert examined.config is not None
    assert [(problem.line, problem.key, problem.fatal) for problem in examined.problems] == [
        (1, "backends.llamacpp.binary", False),
        (2, "models.gone.path", False),
        (3, "models.nobody.script", False),
        (4, "models.plain.script", False),
        (6, "models.command.command", False),
    ]
    by_key = {problem.key: problem for problem in examined.problems}
    assert by_key["models.plain.script"].remedy == f"run `chmod +x {plain}`"


def test_a_mistake_hides_no_other_one(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """{"drain_timeout": "soon",
 "backends": {"vllm": {"binary": []}, "llamacpp": {"binary": "/nowhere/x"}},
 "models": {
  "wrong":  {"backend": "llamacpp", "path": "/nowhere/a.gguf", "context_length": -1},
  "gone":   {"backend": "llamacpp", "path": "/nowhere/b.gguf"},
  "parked": {"backend": "llamacpp", "path": "org/hub", "park_after": 5}
}}""",
    )
    examined = examine(path, kinds=KINDS)
    assert examined.config is None
    assert [(problem.key, problem.fatal) for problem in examined.problems] == [
        ("drain_timeout", True),
        ("backends.vllm.binary", True),
        ("backends.llamacpp.binary", False),
        ("models.wrong.context_length", True),
        ("models.gone.path", False),
        ("models.parked.park_after", True),
    ]


@pytest.mark.parametrize("models", ['{"a": 5}', "[]", "{}"])
def test_where_nothing_is_right_only_that_is_said(tmp_path: Path, models: str) -> None:
    (problem,) = check(written(tmp_path, f'{{"models": {models}}}'))
    assert problem.key.startswith("models")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_model_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    written(tmp_path, "GGUF", "a.gguf").chmod(0)
    path = written(tmp_path, '{"models": {"a": {"backend": "llamacpp", "path": "./a.gguf"}}}')
    (problem,) = check(path)
    assert "can't be read" in problem.message


@pytest.mark.parametrize("url", ["http://localhost:8003/v1", "http://192.168.1.20:8002/v1", "http://localhost:x"])
def test_a_server_elsewhere_may_have_the_same_port_or_the_same_host(tmp_path: Path, url: str) -> None:
    path = written(tmp_path, '{"models": {"a": {"backend": "openai", "url": "URL"}}}'.replace("URL", url))
    assert not any("itself listens" in problem.message for problem in check(path))


def test_the_routers_address_is_the_one_it_is_started_with(tmp_path: Path) -> None:
    path = written(tmp_path, '{"models": {"a": {"backend": "openai", "url": "http://127.0.0.1:8003"}}}')
    assert examine(path).config is not None
    assert examine(path, overrides={"router_port": 8003}).config is None


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("c.json", '{\n  "models": {,}\n}', 2, "not JSON: "),
        ("c.json", '{"models":' * 5000 + "1" + "}" * 5000, 0, "nested too deeply"),
        ("c.yaml", "[" * 600 + "]" * 600, 0, "nested too deeply"),
        ("c.json", "{\n  \"host\": 'x'\n}", 2, "at column 11"),
        ("c.json", "[]", 0, "isn't a section"),
        ("c.yaml", "models:\n  a: [\n", 3, "not YAML: "),
        ("c.yaml", "models: \x00", 0, "not YAML: "),
        ("c.yaml", "", 0, "isn't a section"),
    ],
)
def test_broken_syntax_is_one_problem_with_its_place(
    tmp_path: Path, name: str, content: str, line: int, message: str
) -> None:
    (problem,) = check(written(tmp_path, content, name))
    assert (problem.line, problem.key) == (line, "")
    assert message in problem.message
    assert problem.remedy


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("", "null"),
        ("~", "null"),
        ("7", "7"),
        ("1.5", "1.5"),
        ("true", "true"),
        ("None", "None"),
        ("2001-01-01", "2001-01-01"),
    ],
)
def test_a_key_of_yaml_is_a_word_whatever_it_looks_like(tmp_path: Path, key: str, word: str) -> None:
    models = f'models:\n {key}: {{backend: openai, url: "http://x"}}\n'
    examined = examine(written(tmp_path, models, "c.yaml"), kinds=KINDS)
    assert examined.config is not None, examined.problems
    assert list(examined.config.models) == [word]
    (problem,) = check(written(tmp_path, f"{models}backends:\n {key}: {{}}\n", "c.yaml"), kinds=KINDS)
    assert problem.key == f"backends.{word}"
    assert f'there is no backend "{word}"' in problem.message


def test_the_home_of_a_user_who_isnt_there_is_a_missing_file(tmp_path: Path) -> None:
    path = written(tmp_path, '{"models": {"a": {"backend": "llamacpp", "path": "~nobody-here/a.gguf"}}}')
    (problem,) = check(path)
    assert (problem.key, problem.message) == ("models.a.path", "~nobody-here/a.gguf doesn't exist")


def test_tabs_in_json_cost_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, '{\n\t"router_prt": 1,\n\t"models": {"a":\t{"backend":\t"openai", "url": "http://x"}}\n}')
    assert [(problem.line, problem.key) for problem in check(path)] == [(2, "router_prt")]


def test_a_file_that_cannot_be_read_is_another_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable, match=r"No such file.*--config"):
        check(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"models": "\xe4"}')
    with pytest.raises(ConfigUnreadable, match="UTF-8"):
        load(tmp_path / "latin.json")
