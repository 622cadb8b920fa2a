"""The keys of clients: where they may stand, how they are kept, and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llm_router.config import Config, check, keys, load
from llm_router.config.keys import ClientKey
from llm_router.errors import ConfigError

PLAIN = "a-key-of-some-length"
DIGEST = hashlib.sha256(PLAIN.encode()).digest()
MODELS = {"m": {"backend": "openai", "command": "/bin/sh"}}


def read(variables: dict[str, str] | None = None, **sections: dict[str, Any]) -> list[ClientKey]:
    found, mistakes = keys.read(Config.model_validate({"models": MODELS, "keys": sections}), variables or {})
    assert mistakes == []
    return found


def written(tmp_path: Path, **keys: Any) -> Path:
    file = tmp_path / "router_config.json"
    file.write_text(json.dumps({"models": MODELS, **keys}, indent=1))
    return file


def test_a_key_stands_in_the_file_as_it_is_or_as_its_hash() -> None:
    found = read(plain={"key": PLAIN})[0]
    assert found == ClientKey(
        name="plain", digest=DIGEST, admin=False, models=("*",), requests_per_minute=None, concurrency=None
    )
    assert read(hashed={"key": f"sha256:{DIGEST.hex()}"})[0].digest == DIGEST


def test_a_key_stands_in_a_file_or_in_a_credential(tmp_path: Path) -> None:
    (tmp_path / "k").write_text(PLAIN + "\n")
    variables = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read(a={"file": str(tmp_path / "k")})[0].digest == DIGEST
    assert read(variables, a={"credential": "k"})[0].digest == DIGEST


def test_a_new_key_is_long_and_its_hash_is_its_own() -> None:
    key, hashed = keys.new()
    assert len(key) > 40
    assert read(a={"key": hashed})[0].digest == hashlib.sha256(key.encode()).digest()
    assert keys.new() != (key, hashed)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"key": "short"}, "keys.a.key: a key has at least 16 ASCII characters"),
        ({"key": "sha256:beef"}, "keys.a.key: this is no SHA-256 hash: write what `llm-router keys new NAME` prints"),
        ({"file": "/nowhere/key"}, "keys.a.file: /nowhere/key can't be read: No such file or directory"),
        ({"credential": "k"}, "keys.a.credential: systemd passes no credentials to this process"),
        ({}, "keys.a: it isn't said what the key is"),
        ({"key": PLAIN, "file": "/f"}, "keys.a.file: it must be said once what the key is"),
        ({"kay": PLAIN}, 'did you mean "key"?'),
    ],
)
def test_what_is_wrong_with_a_key_is_said_without_it(
    section: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    told = "\n".join(map(str, check(written(tmp_path, keys={"a": section}))))
    assert words in told
    assert PLAIN not in told
    assert '"short"' not in told


def test_a_wrong_type_is_not_shown_either(tmp_path: Path) -> None:
    told = "\n".join(map(str, check(written(tmp_path, keys={"a": [PLAIN], "b": {"key": [PLAIN]}}))))
    assert "keys.a" in told
    assert PLAIN not in told


def test_two_names_for_one_key_are_refused(tmp_path: Path) -> None:
    both = {"a": {"key": PLAIN}, "b": {"key": f"sha256:{DIGEST.hex()}"}}
    assert 'it is the same key as "a"' in str(check(written(tmp_path, keys=both))[0])


def test_an_address_for_other_machines_wants_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="llm-router keys new NAME"):
        load(written(tmp_path, host="0.0.0.0"))
    assert load(written(tmp_path, host="0.0.0.0", keys={"a": {"key": PLAIN}})).host == "0.0.0.0"


def test_a_key_is_not_shown_with_the_configuration() -> None:
    config = Config.model_validate({"models": MODELS, "keys": {"a": {"key": PLAIN}}})
    assert PLAIN not in repr(config) + config.model_dump_json()
