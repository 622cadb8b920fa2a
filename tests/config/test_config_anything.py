"""Whatever stands in a configuration, and wherever: it is told what is wrong, and nothing breaks."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.config.load import examine

KINDS = {"llamacpp", "vllm", "openai"}
ALL: dict[str, Any] = {
    "host": "127.0.0.1",
    "router_port": 8002,
    "allow_insecure": False,
    "allowed_hosts": ["router.lan"],
    "memory": {"0": "20GiB", "host": "30GiB"},
    "memory_reserve": "1GiB",
    "drain_timeout": 5,
    "idle_timeout": 60,
    "park_after": "never",
    "max_body": "1MiB",
    "keys": {"a": {"key": "sk-0123456789abcdef", "models": ["m"]}, "b": {"key": "sk-fedcba9876543210", "admin": True}},
    "backends": {"vllm": {"binary": "vllm", "args": ["-x"]}, "llamacpp": {"directory": "/x", "port": 9100}},
    "endpoints": {"far": {"url": "http://127.0.0.1:9/v1", "prefix": "far/"}},
    "groups": {"g": {"models": ["m", "n"], "together": "never"}},
    "models": {
        "m": {"backend": "llamacpp", "path": "/x.gguf", "aliases": ["q"], "memory": "3GiB", "devices": ["0"]},
        "n": {"backend": "vllm", "path": "a/b", "park_after": 4, "parameters": {"defaults": {"top_k": 1}}},
        "o": {"backend": "openai", "url": ["http://127.0.0.1:9/v1"], "capabilities": ["embedding"]},
        "p": {"backend": "openai", "command": "sh -c true", "env": {"A": "b"}, "pinned": True},
        "s": {"backend": "llamacpp", "service": "x.service"},
    },
}
Place = tuple[str | int, ...]


def keys_of(value: Any) -> Any:
    return value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    for key in keys_of(value):
        yield (*path, key)
        yield from places(value[key], (*path, key))


PLACES = list(places(ALL))
NAMES = st.sampled_from([*sorted({str(key) for place in PLACES for key in place}), "", "x"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | NAMES
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


def changed(changes: list[tuple[Place, Any]]) -> dict[str, Any]:
    """The configuration with other values in some places. Those that an earlier change took away are passed over."""
    config = copy.deepcopy(ALL)
    for place, value in changes:
        inner: Any = config
        for key in place[:-1]:
            inner = inner[key] if key in keys_of(inner) else None
        if place[-1] in keys_of(inner):
            inner[place[-1]] = copy.deepcopy(value)
    return config


def looked_through(file: Path, config: dict[str, Any]) -> None:
    file.write_text(json.dumps(config))
    examined = examine(file, kinds=KINDS)
    assert (examined.config is None) == any(problem.fatal for problem in examined.problems)
    for problem in examined.problems:
        assert problem.message
        assert problem.remedy
        assert "\n" not in str(problem)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "router_config.json"


def test_as_it_stands_it_can_be_used(file: Path) -> None:
    file.write_text(json.dumps(ALL))
    examined = examine(file, kinds=KINDS)
    assert examined.config is not None, examined.problems


@pytest.mark.parametrize("value", [None, [], {}, "x", -1], ids=repr)
def test_a_wrong_value_in_any_one_place_is_told(file: Path, value: Any) -> None:
    for place in PLACES:
        looked_through(file, changed([(place, value)]))


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=4))
def test_wrong_values_in_several_places_are_told(file: Path, changes: list[tuple[Place, Any]]) -> None:
    looked_through(file, changed(changes))
