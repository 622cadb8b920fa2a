"""A llama-swap configuration becomes one of ours that behaves as it did; what can't is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llm_router.config import check
from llm_router.config.llama_swap import convert
from llm_router.config.llama_swap_notes import Imported
from llm_router.config.merge import written
from llm_router.errors import ConfigError

KINDS = {"llamacpp", "openai", "sglang", "tabbyapi", "vllm"}
SERVER = "llama-server --port ${PORT} -m /m/a.gguf"
SOURCE = Path("config.yaml")


def imported(text: str, *, one_line: bool = True) -> Imported:
    return convert(text, SOURCE, one_line=one_line)


def model(body: str, head: str = "") -> dict[str, Any]:
    """What becomes of one model, given its keys."""
    found: dict[str, Any] = imported(f"{head}\nmodels:\n  a:\n" + indented(body, 4)).data["models"]["a"]
    return found


def indented(text: str, depth: int) -> str:
    return "".join(" " * depth + line + "\n" for line in text.strip("\n").split("\n"))


def notes(found: Imported, kind: str) -> dict[str, str]:
    return {note.key: note.message for note in found.notes if note.kind == kind}


# -- commands


def test_a_llama_server_keeps_its_command_and_gets_the_backend_that_knows_it() -> None:
    assert model(f"cmd: {SERVER}") == {"backend": "llamacpp", "command": SERVER}


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("/opt/llama.cpp/build/bin/llama-server-b1 --port ${PORT}", "llamacpp"),
        ("vllm serve /m/x --port ${PORT}", "vllm"),
        ("python3 -m vllm.entrypoints.openai.api_server --port ${PORT}", "vllm"),
        ("/venv/bin/python3.11 -m sglang.launch_server --port ${PORT}", "sglang"),
        ("sglang serve --port ${PORT}", "sglang"),
        ("docker run -p ${PORT}:8080 ghcr.io/ggml-org/llama.cpp:server", "openai"),
        ("python -m tabby --port ${PORT}", "openai"),
        ("vllm bench --port ${PORT}", "openai"),
    ],
)
def test_the_backend_follows_from_the_program(command: str, kind: str) -> None:
    assert model(f"cmd: {command}")["backend"] == kind


COMMAND = """
cmd: |
  # a comment
  llama-server \\
    --port ${PORT}
  # another
  --model '/m/my model.gguf'   --jinja
"""


def test_comments_and_line_ends_of_a_command_go_and_quotes_stay() -> None:
    assert model(COMMAND)["command"] == "llama-server --port ${PORT} --model '/m/my model.gguf'   --jinja"


def test_in_yaml_a_command_keeps_its_lines() -> None:
    found = imported("models:\n  a:\n" + indented(COMMAND, 4), one_line=False)
    lines = ["llama-server", "--port ${PORT}", "--model '/m/my model.gguf'   --jinja"]
    assert found.data["models"]["a"]["command"].split("\n") == lines
    assert "command: |" in written(found.data, Path("c.yaml"))


def test_a_proxy_with_a_fixed_port_is_that_port() -> None:
    assert model("cmd: llama-server --port 9001\nproxy: http://127.0.0.1:9001") == {
        "backend": "llamacpp",
        "command": "llama-server --port 9001",
        "port": 9001,
    }


def test_a_proxy_elsewhere_is_used_there() -> None:
    found = imported("models:\n  a: {cmd: wake-up, proxy: 'http://10.0.0.2:8080'}")
    assert found.data["models"]["a"] == {"backend": "openai", "url": "http://10.0.0.2:8080"}
    assert "nothing starts it" in notes(found, "attention")["models.a.cmd"]


def test_what_can_not_work_by_itself_asks_for_attention() -> None:
    found = imported("models:\n  a: {cmd: serve-it}\n  b: {cmd: serve, proxy: 'http://localhost:81/base'}")
    assert notes(found, "attention").keys() == {"models.a.cmd", "models.b.proxy"}


def test_a_port_that_is_needed_elsewhere_too_is_the_one_it_had() -> None:
    text = (
        "startPort: 7000\nmodels:\n  b: {cmd: 'x ${PORT}', env: ['HERE=${PORT}']}\n  a: {cmd: 'x ${PORT}'}\n"
        "  c: {cmd: 'x ${PORT}', checkEndpoint: '/on/${PORT}'}"
    )
    found = imported(text).data["models"]
    assert list(found) == ["b", "a", "c"]
    assert found["a"]["command"] == "x ${PORT}"
    assert (found["b"]["command"], found["b"]["port"], found["b"]["env"]) == ("x 7001", 7001, {"HERE": "7001"})
    assert (found["c"]["port"], found["c"]["ready_path"]) == (7002, "/on/7002")


# -- macros


MACROS = """
macros:
  bin: /opt/llama-server
  size: 4096
  rest: "--ctx-size ${size} --threads 4"
  server: >
    ${bin} --port ${PORT} ${rest}
models:
  a:
    macros: {size: 16384, extra: "--alias ${MODEL_ID}"}
    cmd: ${server} ${extra}
    ttl: ${size}
  b: {cmd: "${server}", unlisted: "${yes}", macros: {"yes": true}}
"""


def test_macros_use_earlier_ones_and_a_models_own_win() -> None:
    found = imported(MACROS).data["models"]
    words = found["a"]["command"].split()
    assert " ".join(words) == "/opt/llama-server --port ${PORT} --ctx-size 16384 --threads 4 --alias a"
    assert found["b"]["command"].split()[-4:] == ["--ctx-size", "4096", "--threads", "4"]
    assert (found["a"]["idle_timeout"], found["b"]["hidden"]) == (16384, True)


def test_a_macro_nobody_defines_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r'models\.a\.cmd: nobody defines "\$\{gone\}"'):
        imported("models:\n  a: {cmd: 'x ${PORT} ${gone}'}")


def test_a_macro_in_a_comment_of_a_command_is_no_mistake() -> None:
    assert model('cmd: "# ${gone}\\nserve ${PORT}"')["command"] == "serve ${PORT}"


def test_the_environment_stays_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    monkeypatch.setenv("TTL", "60")
    monkeypatch.setenv("HOST", "myhost")
    monkeypatch.setenv("NAME", "qwen")
    text = "models:\n  '${env.NAME}':\n" + indented(
        "cmd: serve ${PORT} --key ${env.SECRET} --at ${env.HOST}\nttl: ${env.TTL}\nenv: ['KEY=${env.SECRET}']", 4
    )
    found = imported(text).data["models"]["qwen"]
    assert found["command"] == "serve ${PORT} --key ${SECRET} --at myhost"  # our own ${HOST} means something else
    assert (found["idle_timeout"], found["env"]) == (60, {"KEY": "${SECRET}"})


def test_a_variable_that_is_needed_now_and_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TTL", raising=False)
    with pytest.raises(ConfigError, match="TTL is not set"):
        model("cmd: serve ${PORT}\nttl: ${env.TTL}")


# -- a model's other keys


@pytest.mark.parametrize(
    ("keys", "ours"),
    [
        ("aliases: [x, y]", {"aliases": ["x", "y"]}),
        ("name: A Name", {"name": "A Name"}),
        ("description: one\n  two", {"description": "one two"}),
        ("env: [A=1, 'B=x=y']", {"env": {"A": "1", "B": "x=y"}}),
        ("useModelName: org/x", {"model_name": "org/x"}),
        ("checkEndpoint: /ready", {"ready_path": "/ready"}),
        ("checkEndpoint: /health", {}),
        ("ttl: 300", {"idle_timeout": 300}),
        ("ttl: 0", {}),
        ("ttl: -1", {}),
        ("unlisted: true", {"hidden": True}),
        ("concurrencyLimit: 0", {}),
        ("concurrencyLimit: 4", {"concurrency": 4}),
        ("capabilities: {in: [text, image], out: [text], tools: true}", {"capabilities": ["chat", "vision", "tools"]}),
        ("capabilities: {in: [text], out: [audio]}", {"capabilities": ["speech"]}),
        ("capabilities: {reranker: true, context: 512}", {"context_length": 512, "capabilities": ["rerank"]}),
        ("filters: {stripParams: 'a, b ,model,,a'}", {"parameters": {"removals": ["a", "b"]}}),
        ("filters: {strip_params: a}", {"parameters": {"removals": ["a"]}}),
        (
            "filters: {stripParams: 'a, b', setParams: {a: 1, model: x, c: {d: [1]}}}",
            {"parameters": {"overrides": {"a": 1, "c": {"d": [1]}}, "removals": ["b"]}},
        ),
        ("filters: {setParamsByID: {'${MODEL_ID}': {a: 1}}}", {"parameters": {"overrides": {"a": 1}}}),
        (
            "filters: {setParamsByID: {a: {k: 1}, 'a:high': {k: 2}}}",
            {"aliases": ["a:high"], "parameters": {"defaults": {"k": 1}}},
        ),
    ],
)
def test_a_key_becomes_its_counterpart(keys: str, ours: dict[str, Any]) -> None:
    found = model(f"cmd: {SERVER}\n{keys}")
    assert found == {"backend": "llamacpp", "command": SERVER, **ours}


def test_a_model_that_never_leaves_says_so_where_others_do() -> None:
    head = "globalTTL: 600"
    assert imported(f"{head}\nmodels:\n  a: {{cmd: x}}").data["idle_timeout"] == 600
    assert model("cmd: x\nttl: 0", head)["idle_timeout"] == "never"


@pytest.mark.parametrize(("given", "taken"), [(500, 500), (3, 15)])
def test_the_limit_of_a_load_is_kept(given: int, taken: int) -> None:
    found = imported(f"healthCheckTimeout: {given}\nmodels:\n  a: {{cmd: x}}")
    assert found.data["model_load_timeout"] == taken


def test_preloads_and_priorities_go_to_their_models() -> None:
    found = imported(
        "models:\n  a: {cmd: x, aliases: [b]}\n  c: {cmd: x}\nhooks: {on_startup: {preload: [b, gone]}}\n"
        "routing: {scheduler: {use: fifo, settings: {fifo: {priority: {c: 7}}}}}"
    )
    assert (found.data["models"]["a"]["preload"], found.data["models"]["c"]["priority"]) == (True, 7)
    assert "gone" in notes(found, "dropped")["hooks.on_startup.preload"]


def test_keys_are_hashed_unless_they_come_from_the_environment() -> None:
    found = imported("models: {a: {cmd: x}}\napiKeys: [sk-short, '${env.KEY}']").data["keys"]
    digest = "fb55d7314783bc0734782ef122dc4efeeffb409eb6b7bf4eee2691f5e4754c70"
    assert found == {"llama-swap-1": {"key": f"sha256:{digest}"}, "llama-swap-2": {"key": "${KEY}"}}


def test_a_selector_is_an_alias_of_its_first_target() -> None:
    found = imported(
        "models:\n  a: {cmd: x}\nselectors:\n  s: {strategy: warm, targets: [gone, a]}\n  n: {targets: [gone]}\n"
        "  p: {strategy: pin, targets: [a]}"
    )
    assert found.data["models"]["a"]["aliases"] == ["s", "p"]
    assert "selectors.n" in notes(found, "dropped")
    assert "selectors.s" in notes(found, "changed")
    assert "selectors.p" not in notes(found, "changed")


def test_peers_become_endpoints_and_single_models_where_their_requests_are_changed() -> None:
    found = imported(
        "models: {a: {cmd: x}}\npeers:\n  lab: {proxy: 'http://10.0.0.1', models: [m/x]}\n"
        "  cloud: {proxy: 'https://c/api', apiKey: '${env.KEY}', models: [q/y], filters: {setParams: {z: 1}}}"
    )
    assert found.data["endpoints"] == {"lab": {"url": "http://10.0.0.1", "prefix": "lab/", "models": ["m/x"]}}
    assert found.data["models"]["cloud/q/y"] == {
        "backend": "openai",
        "url": "https://c/api",
        "api_key": "${KEY}",
        "model_name": "q/y",
        "parameters": {"overrides": {"z": 1}},
    }


# -- who may be loaded together


def together(text: str, names: str = "abcd") -> tuple[set[str], set[str]]:
    """Pairs that are never together and pairs that are allowed to be, as "ab"."""
    found = imported("models:\n" + "".join(f"  {name}: {{cmd: x}}\n" for name in names) + text).data
    assert "memory" not in found
    pairs: dict[str, set[str]] = {"never": set(), "allowed": set()}
    for group in found["groups"].values():
        members = sorted(group["models"])
        pairs[group["together"]] |= {one + other for one in members for other in members if one < other}
    assert not pairs["never"] & pairs["allowed"]
    assert len(pairs["never"] | pairs["allowed"]) == len(names) * (len(names) - 1) // 2
    return pairs["never"], pairs["allowed"]


def test_without_groups_one_model_is_loaded_at_a_time() -> None:
    found = imported("models: {a: {cmd: x}, b: {cmd: x}}")
    assert (found.data["memory"], "groups" in found.data) == ("exclusive", False)
    one = imported("models: {a: {cmd: x}, b: {cmd: x}}\ngroups: {g: {members: [a, b]}}")
    assert (one.data["memory"], "groups" in one.data) == ("exclusive", False)


def test_a_group_that_does_not_swap_is_together_and_apart_from_the_rest() -> None:
    assert together("groups: {g: {swap: false, members: [a, b]}}") == ({"ac", "ad", "bc", "bd", "cd"}, {"ab"})


def test_a_group_that_is_not_exclusive_leaves_the_others_alone() -> None:
    assert together("groups: {g: {exclusive: false, members: [a, b]}}") == ({"ab", "cd"}, {"ac", "ad", "bc", "bd"})


def test_a_persistent_group_stays_and_is_pinned() -> None:
    text = "routing: {router: {settings: {groups: {g: {persistent: true, swap: false, members: [a, b]}}}}}"
    assert together(text) == ({"cd"}, {"ab", "ac", "ad", "bc", "bd"})
    found = imported("models: {a: {cmd: x}, b: {cmd: x}, c: {cmd: x}}\n" + text).data["models"]
    assert [name for name, one in found.items() if one.get("pinned")] == ["a", "b"]


def test_members_that_replace_each_other_are_not_pinned() -> None:
    found = imported("models: {a: {cmd: x}, b: {cmd: x}}\ngroups: {g: {persistent: true, members: [a, b]}}")
    assert "groups.g.persistent" in notes(found, "dropped")
    assert not any("pinned" in one for one in found.data["models"].values())


def test_a_matrix_says_which_sets_are_together() -> None:
    text = "matrix: {vars: {x: a}, evict_costs: {b: 5}, sets: {one: '(x | b) & c', two: '+one & d', alone: b}}"
    assert together(text) == ({"ab"}, {"ac", "bc", "ad", "bd", "cd"})
    routed = "routing: {router: {use: matrix, settings: {matrix: {sets: {one: 'a & b'}}}}}"
    assert together(routed, "abc") == ({"ac", "bc"}, {"ab"})


@pytest.mark.parametrize("text", ["(a", "a &", "a b", "+s", "a | )", " & ".join(["(a|b|c|d)" for _ in range(9)]) + ")"])
def test_a_set_that_can_not_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match='the set "s" can\'t be read'):
        together(f"matrix: {{sets: {{s: '{text}'}}}}")


# -- the whole file


EVERYTHING = """
healthCheckTimeout: 300
logLevel: debug
logTimeFormat: rfc3339
logToStdout: both
logRequests: true
store: {path: /x.sqlite}
metricsMaxInMemory: 10
captureBuffer: 5
ui: {activity: {session_id: []}}
performance: {disabled: true}
startPort: 6000
sendLoadingState: true
includeAliasesInList: true
globalTTL: 900
unloadTimeout: 20
apiKeys: [sk-x]
upstream: {ignorePaths: ['.*']}
profiles: {p: {pins: {x: a}}}
x-mine: 1
macros: {bin: llama-server}
models:
  a:
    cmd: ${bin} --port ${PORT}
    cmdStop: kill ${PID}
    unloadTimeout: 5
    compat: {ignoreWebsockets: true}
    metadata: {port: '${PORT}', n: 1}
    sendLoadingState: false
    timeouts: {connect: 5}
    checkEndpoint: none
    concurrencyLimit: 2
    capabilities: {in: [text], out: [text, image]}
  b: {cmd: "${bin} --port ${PORT}", ttl: 5, useModelName: m, unlisted: true, name: B, description: d, aliases: [bb]}
  c: {cmd: "${bin} --port ${PORT}"}
  empty: {name: nothing}
selectors: {s: {strategy: spillover, targets: [b], settings: {spillover: 2}}}
hooks: {on_startup: {preload: [a]}}
groups: {g: {swap: false, exclusive: false, persistent: true, members: [b, c]}}
peers: {lab: {proxy: 'http://10.0.0.1', models: [m], timeouts: {connect: 1}}}
"""


@pytest.mark.parametrize("name", ["c.json", "c.yaml"])
def test_what_is_written_has_no_problems(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(written(imported(EVERYTHING).data, file))
    assert check(file, files=False, kinds=KINDS) == []


def test_everything_without_a_counterpart_is_listed_with_a_reason() -> None:
    found = imported(EVERYTHING)
    top = "logLevel logTimeFormat logToStdout logRequests store metricsMaxInMemory captureBuffer ui performance "
    top += "startPort includeAliasesInList unloadTimeout upstream profiles x-mine"
    names = "cmdStop unloadTimeout compat metadata sendLoadingState timeouts"
    own = {f"models.a.{key}" for key in names.split()}
    assert notes(found, "dropped").keys() == {*top.split(), *own, "models.empty", "peers.lab.timeouts"}
    changed = {"", "apiKeys", "sendLoadingState", "groups", "selectors.s", "peers.lab"}
    assert notes(found, "changed").keys() == changed | {"models.a.checkEndpoint", "models.a.concurrencyLimit"}
    assert all(re.match(r"(changed|dropped|attention): .+", str(note)) for note in found.notes)


@pytest.mark.parametrize("text", ["", "[]", "models: []", "a: 1", "models: {a: {name: x}}"])
def test_what_is_no_configuration_of_llama_swap_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot import config\.yaml"):
        imported(text)


def test_a_mistake_in_its_form_is_shown_with_the_line() -> None:
    with pytest.raises(ConfigError, match="line 2"):
        imported("models:\n  a: [")
    with pytest.raises(ConfigError, match="close the quote"):
        model("cmd: x 'y")
