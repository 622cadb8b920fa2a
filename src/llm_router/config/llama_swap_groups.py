"""Which models llama-swap lets be loaded together, by its groups or its matrix, in our words. Pure.

Counterpart: `llama_swap`. After llama-swap's internal/config (config.go, matrix.go), August 2026: without either, one
model at a time. With groups, a member of a swapping group unloads the other members, and one of an exclusive group
unloads all other groups but the persistent ones. With a matrix, only the models of one set are together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from llm_router.errors import ConfigError

_TOKEN = re.compile(r"\s*(?:([&|()])|\+([\w.-]+)|([^\s&|()+]+))")
_MOST_SETS = 1000

Data = Mapping[str, Any]
Pair = frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    name: str
    swap: bool
    exclusive: bool
    persistent: bool
    members: tuple[str, ...]


def read(section: Data, models: Collection[str]) -> list[Group]:
    """The groups, and one more for the models in none. Members that aren't models are passed over."""
    found = [
        Group(
            name=str(name),
            swap=bool(group.get("swap", True)),
            exclusive=bool(group.get("exclusive", True)),
            persistent=bool(group.get("persistent", False)),
            members=tuple(str(one) for one in group.get("members") or () if str(one) in models),
        )
        for name, group in section.items()
        if isinstance(group, Mapping)
    ]
    placed = {member for group in found for member in group.members}
    rest = tuple(name for name in models if name not in placed)
    return [*found, Group(name="others", swap=True, exclusive=True, persistent=False, members=rest)]


def pairs_of_groups(groups: Sequence[Group]) -> set[Pair]:
    """Who may be loaded together, in whatever order they come."""
    found: set[Pair] = set()
    for group in groups:
        if not group.swap:
            found |= {frozenset(pair) for pair in combinations(group.members, 2)}
    for one, other in combinations(groups, 2):
        stays = not one.exclusive or other.persistent or not other.exclusive or one.persistent
        if stays:
            found |= {frozenset(pair) for pair in product(one.members, other.members)}
    return found


def pairs_of_matrix(matrix: Data, models: Collection[str]) -> set[Pair]:
    """Raises: ConfigError for a set that can't be read."""
    names = {str(short): str(name) for short, name in (matrix.get("vars") or {}).items()}
    written = {str(name): str(text) for name, text in (matrix.get("sets") or {}).items()}
    found: set[Pair] = set()
    for name, text in written.items():
        for members in _Sets(name, text, written).all():
            known = {names.get(one, one) for one in members} & set(models)
            found |= {frozenset(pair) for pair in combinations(sorted(known), 2)}
    return found


def groups(models: Sequence[str], together: Collection[Pair], named: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Groups of ours that say exactly this about every two models. A group whose members are those of one there keeps
    its name."""
    known = {frozenset(group.members): group.name for group in named}
    found: dict[str, dict[str, Any]] = {}
    for kind, wanted in (("never", lambda pair: pair not in together), ("allowed", lambda pair: pair in together)):
        for number, members in enumerate(_cliques(models, wanted), start=1):
            name = known.get(frozenset(members), f"{kind} {number}")
            found[name if name not in found else f"{kind} {number}"] = {"models": list(members), "together": kind}
    return found


def _cliques(models: Sequence[str], related: Callable[[Pair], bool]) -> Iterator[list[str]]:
    """Sets of models, all of them related to each other, until every related two are in one of them."""
    covered: set[Pair] = set()
    for pair in combinations(models, 2):
        if frozenset(pair) in covered or not related(frozenset(pair)):
            continue
        members = list(pair)
        for other in models:
            if other not in members and all(related(frozenset((other, one))) for one in members):
                members.append(other)
        covered |= {frozenset(one) for one in combinations(members, 2)}
        yield [name for name in models if name in members]


class _Sets:
    """The language of a matrix: `a & b`, `a | b`, parentheses, and `+name` for another set's text."""

    def __init__(self, name: str, text: str, written: Mapping[str, str], depth: int = 0) -> None:
        self._name, self._written, self._depth = name, written, depth
        self._tokens = [found.groups() for found in _TOKEN.finditer(text)]
        self._at = 0
        if depth > len(written):
            raise self._wrong("it contains itself")

    def all(self) -> list[frozenset[str]]:
        found = self._either()
        if self._at < len(self._tokens):
            raise self._wrong("something is left over at its end")
        return found

    def _either(self) -> list[frozenset[str]]:
        found = self._both()
        while self._takes("|"):
            found = [*found, *self._both()]
        return self._bounded(found)

    def _both(self) -> list[frozenset[str]]:
        found = self._one()
        while self._takes("&"):
            found = self._bounded([one | other for one, other in product(found, self._one())])
        return found

    def _one(self) -> list[frozenset[str]]:
        if self._takes("("):
            found = self._either()
            if not self._takes(")"):
                raise self._wrong("a parenthesis is not closed")
            return found
        sign, reference, name = self._tokens[self._at] if self._at < len(self._tokens) else (None, None, None)
        self._at += 1
        if reference is not None and reference in self._written:
            return _Sets(reference, self._written[reference], self._written, self._depth + 1).all()
        if name is None:
            raise self._wrong(f'a model is expected before "{sign or reference or "its end"}"')
        return [frozenset((name,))]

    def _takes(self, sign: str) -> bool:
        there = self._at < len(self._tokens) and self._tokens[self._at][0] == sign
        self._at += there
        return there

    def _bounded(self, found: list[frozenset[str]]) -> list[frozenset[str]]:
        if len(found) > _MOST_SETS:
            raise self._wrong(f"it stands for more than {_MOST_SETS} sets")
        return list(dict.fromkeys(found))

    def _wrong(self, why: str) -> ConfigError:
        return ConfigError(f'cannot import the matrix: the set "{self._name}" can\'t be read: {why}; correct it there')
