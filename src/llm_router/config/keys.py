"""The keys that clients send: read from wherever they are, and kept as hashes alone. And how one is made.

Counterpart: `api.auth`, which knows a caller by them.

One round of SHA-256 is enough for a key of high entropy: trying all of them is hopeless however fast each try is. It
would not be for a password, which is why short keys are refused.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_router.config.rules import Key, Mistake
from llm_router.config.schema import Config, KeyConfig

_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")
_LEAST = 16
_ENTROPY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKey:
    """`digest`: SHA-256 of the key. `models`: patterns, as in a shell. None: no limit."""

    name: str
    digest: bytes
    admin: bool
    models: tuple[str, ...]
    requests_per_minute: int | None
    concurrency: int | None


def read(config: Config, variables: Mapping[str, str]) -> tuple[list[ClientKey], list[Mistake]]:
    """Every key that can be read, and what is wrong with the others. `variables`: the environment."""
    found: list[ClientKey] = []
    mistakes: list[Mistake] = []
    owners: dict[bytes, str] = {}
    for name, section in config.keys.items():
        key: Key = ("keys", name)
        try:
            digest = _digest(_text(section, variables))
        except _Unusable as error:
            mistakes.append(Mistake(key=(*key, error.source), message=error.message, remedy=error.remedy))
            continue
        owner = owners.setdefault(digest, name)
        if owner != name:
            mistakes.append(
                Mistake(key=key, message=f'it is the same key as "{owner}"', remedy="give each its own, or remove one")
            )
            continue
        found.append(
            ClientKey(
                name=name,
                digest=digest,
                admin=section.admin,
                models=section.models,
                requests_per_minute=section.requests_per_minute,
                concurrency=section.concurrency,
            )
        )
    return found, mistakes


def new() -> tuple[str, str]:
    """A key nobody can guess, and how it stands in a configuration."""
    key = f"llmr-{secrets.token_urlsafe(_ENTROPY_BYTES)}"
    return key, f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


class _Unusable(Exception):
    def __init__(self, source: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.source, self.message, self.remedy = source, message, remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    source: str
    text: str


def _text(section: KeyConfig, variables: Mapping[str, str]) -> _Said:
    """Raises: _Unusable."""
    if section.key is not None:
        return _Said(source="key", text=section.key.get_secret_value())
    if section.file is not None:
        return _Said(source="file", text=_content("file", Path(section.file)))
    assert section.credential is not None, "the rules want one of them"
    folder = variables.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise _Unusable(
            "credential",
            "systemd passes no credentials to this process",
            f'add LoadCredential={section.credential}:PATH to the unit, or use "file"',
        )
    return _Said(source="credential", text=_content("credential", Path(folder) / Path(section.credential).name))


def _content(source: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise _Unusable(
            source, f"{path} can't be read: {reason}", "write the key into it, readable for the router"
        ) from (error)


def _digest(said: _Said) -> bytes:
    """Raises: _Unusable."""
    if said.text.startswith("sha256:"):
        hashed = _HASHED.fullmatch(said.text)
        if hashed is None:
            raise _Unusable(said.source, "this is no SHA-256 hash", "write what `llm-router keys new NAME` prints")
        return bytes.fromhex(hashed[1])
    if len(said.text) < _LEAST or not (said.text.isascii() and said.text.isprintable()) or " " in said.text:
        raise _Unusable(
            said.source,
            f"a key has at least {_LEAST} ASCII characters and no space",
            "make one with `llm-router keys new NAME`",
        )
    return hashlib.sha256(said.text.encode()).digest()
