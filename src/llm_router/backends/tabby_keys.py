"""Reads the text of TabbyAPI's `api_tokens.yml`, which it writes into its own folder at its first start. Pure: whoever
makes launch requests reads the file (`directory`/`FILE`) and passes the keys on where the configuration has none."""

from __future__ import annotations

from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

FILE = "api_tokens.yml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """`api`: for requests, the first where there are several. `admin`: for loading and unloading. None: not there."""

    api: str | None = field(default=None, repr=False)
    admin: str | None = field(default=None, repr=False)


def read_keys(text: str) -> Keys:
    """Never raises: what isn't a key is no key."""
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError):
        return Keys()
    if not isinstance(data, dict):
        return Keys()
    api = data.get("api_key")
    return Keys(api=_key(api[0] if isinstance(api, list) and api else api), admin=_key(data.get("admin_key")))


def _key(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
