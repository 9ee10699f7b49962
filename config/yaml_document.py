"""YAML as data that remembers its lines.

Numbers, booleans and null follow YAML 1.2: `no` is a word, `0123` is text that keeps its zero, not an octal number.
Messages of the parser are shortened where they quote the file: what they quote may be a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import ReaderError

from config.model import Location, Problem

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own table


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_MERGE, r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


@dataclass
class Document:
    """A parsed file: plain data, the line of every key and item, and what was wrong on the way."""

    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, location: Location) -> int | None:
        """The line of a place, or of the nearest place around it that the file holds."""
        for end in range(len(location), -1, -1):
            if location[:end] in self.lines:
                return self.lines[location[:end]]
        return None


def parse_yaml(text: str) -> Document:
    """Parse one document; what can't be parsed is among its `problems`, with its line."""
    document = Document()
    try:
        loader = _Loader(text)
    except ReaderError as error:
        document.lines[()] = text.count("\n", 0, error.position) + 1
        document.problems = [((), f"is not sound YAML: the character U+{ord(text[error.position]):04X} can't be in it")]
        return document
    try:
        node = loader.get_single_node()
        if node is not None:
            document.data = _build(loader, node, (), document, ())
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is not None:
            document.lines[()] = error.problem_mark.line + 1
        document.problems = [((), f"is not sound YAML: {_without_quotes(error.problem or str(error.context))}")]
    finally:
        loader.dispose()
    return document


def _without_quotes(problem: str) -> str:
    if "undefined alias" in problem:
        return "an alias (*…) without its anchor; a value that begins with * goes in quotes"
    if "constructor for the tag" in problem:
        return "a tag (!…) without a meaning here; a value that begins with ! goes in quotes"
    return re.sub(r"'[^']{2,}'", "'…'", problem)


def _build(loader: _Loader, node: yaml.Node, location: Location, document: Document, above: tuple[int, ...]) -> Any:
    if id(node) in above:
        raise yaml.MarkedYAMLError(problem="an anchor that holds itself", problem_mark=node.start_mark)
    document.lines.setdefault(location, node.start_mark.line + 1)
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, location, document, above)
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*location, index), document, above) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except ValueError:
        # an explicit tag that the text doesn't fit, such as `!!int abc`
        raise yaml.MarkedYAMLError(problem="a value doesn't fit its tag (!!…)", problem_mark=node.start_mark) from None


def _mapping(
    loader: _Loader, node: yaml.MappingNode, location: Location, document: Document, above: tuple[int, ...]
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    merged: list[yaml.Node] = []
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == _MERGE:
            merged.extend(value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node])
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key that is not a word", problem_mark=key_node.start_mark)
        key = str(key_node.value)
        place = (*location, key)
        if key in mapping:
            text = f"is there twice (line {document.lines[place]} and line {line}); only one can count"
            document.problems.append((place, text))
            continue
        document.lines[place] = line
        mapping[key] = _build(loader, value_node, place, document, above)
    for other in merged:
        if not isinstance(other, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="<< takes mappings only", problem_mark=other.start_mark)
        for key, value in _mapping(loader, other, location, Document(), (*above, id(other))).items():
            document.lines.setdefault((*location, key), other.start_mark.line + 1)
            mapping.setdefault(key, value)
    return mapping
