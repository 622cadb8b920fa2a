"""Reads a configuration file's text: its data, and on which line each key stands.

YAML and JSON go the same way, since JSON is YAML; only a JSON file's syntax errors are JSON's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from llm_router.config.rules import Key, Mistake


class BadSyntax(Exception):
    """The text is not JSON, or not YAML. `line` counts from 1."""

    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.line, self.message, self.remedy = line, message, remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """`lines`: line of each key and list element, from 1. `mistakes`: keys given twice."""

    data: object
    lines: dict[Key, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def line(self, key: Key) -> int:
        """The line of a key, or of the nearest section around it that exists; 0: none does."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 0)


def parse(content: str, file: Path) -> Text:
    """Raises: BadSyntax."""
    try:
        return _parsed(content, file)
    except RecursionError as error:
        raise BadSyntax(0, "it is nested too deeply", "write only keys that the reference has") from error


def _parsed(content: str, file: Path) -> Text:
    if file.suffix == ".json":
        data = _parse_json(content)
    try:
        node = YAML(typ="rt").compose(content)
        if file.suffix != ".json":
            data = _with_words_for_keys(_plain_yaml().load(content))
    except YAMLError as error:
        if file.suffix == ".json":  # such as tabs in odd places: fine in JSON, and only the line numbers are lost
            return Text(data=data)
        raise _bad_yaml(error) from error
    text = Text(data=data)
    if node is not None:
        _walk(node, (), text)
    return text


def _parse_json(content: str) -> object:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise BadSyntax(
            error.lineno,
            f"this is not JSON: {error.msg} at column {error.colno}",
            "look for a missing quote, comma or brace there, or a comma too many just before it",
        ) from error


def _plain_yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True  # reported with their lines by _walk
    return yaml


def _with_words_for_keys(value: object) -> object:
    """JSON's keys are words; YAML's may be numbers, nothing at all, or whole lists."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else _word(key): _with_words_for_keys(value[key]) for key in value}
    return [_with_words_for_keys(inner) for inner in value] if isinstance(value, list) else value


def _word(key: object) -> str:
    return json.dumps(key) if key is None or isinstance(key, bool) else str(key)


def _bad_yaml(error: YAMLError) -> BadSyntax:
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f" at column {mark.column + 1}" if mark else ""
        return BadSyntax(
            mark.line + 1 if mark else 0,
            f"this is not YAML: {error.problem or error.context}{where}",
            "look at the indentation and quotes there",
        )
    return BadSyntax(0, f"this is not YAML: {error}", "write plain text in UTF-8")


def _walk(node: Node, key: Key, text: Text) -> None:
    if isinstance(node, MappingNode):
        for name_node, value in node.value:
            inner = (*key, str(name_node.value))
            line = name_node.start_mark.line + 1
            if inner in text.lines:
                message = f"it was already given on line {text.lines[inner]}"
                text.mistakes.append(Mistake(key=inner, message=message, remedy="keep one of the two"))
                _forget(inner, text)
            text.lines[inner] = line
            _walk(value, inner, text)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            text.lines[*key, index] = value.start_mark.line + 1
            _walk(value, (*key, index), text)


def _forget(key: Key, text: Text) -> None:
    """Drop the lines inside a section that a later one of the same name replaces."""
    for known in [known for known in text.lines if known[: len(key)] == key]:
        del text.lines[known]
