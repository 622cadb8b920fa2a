"""Puts sections into a configuration's text and leaves the rest as it is, byte for byte: comments, order, blanks.

Counterparts: `text`, which reads; `save`, which writes files. Pure. New text goes after the last entry of its section,
in the file's own style; where that can't be done (such as in a section whose last value is an alias of YAML's), the
file is written anew from its data, YAML with its comments.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.scalarstring import LiteralScalarString

from llm_router.config.text import parse
from llm_router.errors import ConfigError

_WIDTH = 120
_UNFOLDED = 100_000

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """`added`, `kept`: keys such as "models.qwen". What was kept was there already, and stays as it was."""

    text: str
    added: list[str]
    kept: list[str]


def is_yaml(file: Path) -> bool:
    """Raises: ConfigError for a name that says neither."""
    if file.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"cannot tell the format of {file}: end its name in .json or .yaml")
    return file.suffix != ".json"


def written(data: Data, file: Path) -> str:
    """The text of a new file. Raises: ConfigError for a name that says no format."""
    return _block(data) if is_yaml(file) else _json(data, 0, 2) + "\n"


def merged(text: str, file: Path, data: Data) -> Merged:
    """`text` with everything of `data` that it lacks: a top-level key, or an entry of a section such as `models`.

    Raises: BadSyntax for what is no JSON or YAML; ConfigError for a name that says no format.
    """
    as_yaml = is_yaml(file)
    there = parse(text, file).data
    existing: dict[str, Any] = dict(there) if isinstance(there, Mapping) else {}
    added: list[str] = []
    kept: list[str] = []
    for key, value in data.items():
        section = existing.get(key)
        if key not in existing:
            text = _with(text, file, (), str(key), value, as_yaml=as_yaml)
            added += [f"{key}.{name}" for name in value] if isinstance(value, Mapping) else [key]
        elif isinstance(value, Mapping) and (section is None or isinstance(section, Mapping)):
            for name, entry in value.items():
                if name in (section or {}):
                    kept.append(f"{key}.{name}")
                else:
                    text = _with(text, file, (key,), str(name), entry, as_yaml=as_yaml)
                    added.append(f"{key}.{name}")
        else:
            kept.append(key)
    return Merged(text=text, added=added, kept=kept)


def _with(text: str, file: Path, section: tuple[str, ...], name: str, value: Any, *, as_yaml: bool) -> str:
    """With one more entry in a section, () for the file itself."""
    wanted = parse(text, file).data or {}
    assert isinstance(wanted, dict)
    place = wanted
    for key in section:
        place[key] = place[key] or {}
        place = place[key]
    place[name] = value
    spliced = _spliced(text, section, name, value)
    if spliced is not None and parse(spliced, file).data == wanted:
        return spliced
    return _anew(text, section, name, value) if as_yaml else json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"


def _spliced(text: str, section: tuple[str, ...], name: str, value: Any) -> str | None:
    """None: it can't be done that way."""
    try:
        node = YAML(typ="rt").compose(text)
    except YAMLError:  # such as tabs between the tokens of a JSON file
        return None
    if node is None and not section:  # comments at most
        return (text if text.endswith("\n") or not text else text + "\n") + _block({name: value})
    root = node
    for key in section:
        inner = [one for known, one in node.value if known.value == key] if isinstance(node, MappingNode) else []
        node = inner[0] if inner else None
    if not isinstance(node, MappingNode):
        return None
    if node.flow_style:
        return _in_flow(text, node, name, value, step=_step(root))
    return _in_block(text, node, name, value) if node.value else None


def _in_block(text: str, node: MappingNode, name: str, value: Any) -> str:
    indent = " " * node.value[0][0].start_mark.column
    end = _last(node).end_mark
    at = end.index
    if end.column:  # it ended within a line: what follows there is at most a comment
        line_end = text.find("\n", at)
        if line_end < 0:
            text, line_end = text + "\n", len(text)
        at = line_end + 1
    elif not text[:at].endswith("\n"):
        text = text[:at] + "\n" + text[at:]
        at += 1
    lines = _block({name: value}).splitlines(keepends=True)
    return text[:at] + "".join(indent + line if line.strip() else line for line in lines) + text[at:]


def _last(node: Node) -> Node:
    """The last thing that is written in a block; its own end lies behind the comments that follow."""
    while isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, MappingNode) else node.value[-1]
    return node


def _in_flow(text: str, node: MappingNode, name: str, value: Any, *, step: int) -> str:
    """Between braces, as JSON: on one line where all others are on one."""
    start, end = node.start_mark, node.end_mark
    if node.value and node.value[0][0].start_mark.line == start.line:
        at = node.value[-1][1].end_mark.index
        return text[:at] + f", {json.dumps(name, ensure_ascii=False)}: {_one_line(value)}" + text[at:]
    if node.value:
        column = node.value[0][0].start_mark.column
        at, comma, after = node.value[-1][1].end_mark.index, ",", ""
    else:
        line = text[: start.index].rpartition("\n")[2]
        outer = len(line) - len(line.lstrip())
        column = outer + step
        text = text[: start.index + 1] + text[end.index - 1 :]  # whatever blanks were between the braces
        at, comma, after = start.index + 1, "", "\n" + " " * outer
    indent = " " * column
    siblings_on_a_line = all(known.start_mark.line == one.end_mark.line for known, one in node.value) and node.value
    head = f"{indent}{json.dumps(name, ensure_ascii=False)}: "
    compact = _one_line(value)
    fits = siblings_on_a_line and len(head) + len(compact) <= _WIDTH
    body = compact if fits else _json(value, column, step)
    return f"{text[:at]}{comma}\n{head}{body}{after}{text[at:]}"


def _step(root: Node | None) -> int:
    """How far the file indents."""
    if isinstance(root, MappingNode) and root.value and root.value[0][0].start_mark.line > root.start_mark.line:
        return int(root.value[0][0].start_mark.column) or 2
    return 2


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json(value: Any, column: int, step: int) -> str:
    """Sections on lines of their own, lists of plain values on one."""
    if isinstance(value, Mapping) and value:
        inner = " " * (column + step)
        entries = [f"{inner}{json.dumps(str(key))}: {_json(one, column + step, step)}" for key, one in value.items()]
        return "{\n" + ",\n".join(entries) + "\n" + " " * column + "}"
    return _one_line(value)


def _block(data: Data) -> str:
    out = io.StringIO()
    _yaml().dump(_styled(data), out)
    return out.getvalue()


def _anew(text: str, section: tuple[str, ...], name: str, value: Any) -> str:
    yaml = _yaml()
    data = yaml.load(text)
    place = data
    for key in section:
        place[key] = place[key] or {}
        place = place[key]
    place[name] = _styled(value)
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = _UNFOLDED
    yaml.allow_unicode = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _styled(value: Any) -> Any:
    """Lists of plain values on one line, texts of several lines as such."""
    if isinstance(value, Mapping):
        return {str(key): _styled(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        found = CommentedSeq(_styled(one) for one in value)
        if not any(isinstance(one, Mapping | list | tuple) for one in value):
            found.fa.set_flow_style()
        return found
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value
