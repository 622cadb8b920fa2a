"""What is wrong with groups of models. Works on plain data, as `rules` does. Counterpart: `seats`, which uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from llm_router.config.rules import Data, Key, Mistake


def conflicts(data: Data) -> Iterator[Mistake]:
    """Groups of unknown models, and models that one group wants together and another never."""
    groups, models = data.get("groups"), data.get("models")
    if not isinstance(groups, Mapping) or not isinstance(models, Mapping):
        return
    owners = _owners(models)
    pairs: dict[str, dict[frozenset[str], str]] = {"never": {}, "allowed": {}}
    for group, section in groups.items():
        members = section.get("models") if isinstance(section, Mapping) else None
        if not isinstance(members, list | tuple):
            continue
        for index, member in enumerate(members):
            if str(member) not in owners:
                yield _unknown(("groups", str(group), "models", index), str(member), models)
        known = sorted({owners[str(member)] for member in members if str(member) in owners})
        for pair in combinations(known, 2):
            pairs.get(str(section.get("together")), {})[frozenset(pair)] = str(group)
    for both in sorted(pairs["never"].keys() & pairs["allowed"].keys(), key=sorted):
        yield _contradiction(both, pairs["never"][both], pairs["allowed"][both])
    yield from _pinned_apart(pairs["never"], models)


def _owners(models: Data) -> dict[str, str]:
    owners = {str(name): str(name) for name in models}
    for name, model in models.items():
        aliases = model.get("aliases") if isinstance(model, Mapping) else None
        for alias in aliases if isinstance(aliases, list | tuple) else ():
            owners.setdefault(str(alias), str(name))
    return owners


def _unknown(key: Key, member: str, models: Data) -> Mistake:
    known = sorted(map(str, models))
    return Mistake(
        key=key, message=f'there is no model "{member}"', remedy="remove it, or write one of " + ", ".join(known)
    )


def _contradiction(pair: frozenset[str], never: str, allowed: str) -> Mistake:
    one, other = sorted(pair)
    return Mistake(
        key=("groups", never),
        message=f'"{one}" and "{other}" are never together here, and the group "{allowed}" allows it',
        remedy="take one of them out of one of the groups",
    )


def _pinned_apart(never: Mapping[frozenset[str], str], models: Data) -> Iterator[Mistake]:
    for pair, group in never.items():
        one, other = sorted(pair)
        if all(isinstance(model := models.get(name), Mapping) and model.get("pinned") is True for name in pair):
            yield Mistake(
                key=("groups", group),
                message=f'"{one}" and "{other}" are both pinned, so the second could never be loaded',
                remedy='remove "pinned" from one of them, or take one out of the group',
            )
