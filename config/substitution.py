"""`${VAR}` and `${VAR:-default}` in the strings of a file; `$${` stands for a plain `${`.

The default counts when the variable is unset or empty, as in a shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config.model import Location, Problem

_REFERENCE = re.compile(r"\$(?P<escape>\$)?\{(?P<body>[^}]*)(?P<end>\})?")
_BODY = re.compile(r"^(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?$", re.DOTALL)


@dataclass
class Substitution:
    """The data with all references replaced; which variables each place took; what was wrong."""

    data: Any = None
    variables: dict[Location, tuple[str, ...]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def substitute(data: Any, environ: Mapping[str, str]) -> Substitution:
    """Replace the references in all strings of a tree of mappings and lists (keys are left alone)."""
    result = Substitution()
    result.data = _tree(data, (), environ, result)
    return result


def _tree(data: Any, location: Location, environ: Mapping[str, str], result: Substitution) -> Any:
    if isinstance(data, dict):
        return {key: _tree(value, (*location, key), environ, result) for key, value in data.items()}
    if isinstance(data, list):
        return [_tree(value, (*location, index), environ, result) for index, value in enumerate(data)]
    if isinstance(data, str) and "${" in data:
        return _text(data, location, environ, result)
    return data


def _text(text: str, location: Location, environ: Mapping[str, str], result: Substitution) -> str:
    def replace(match: re.Match[str]) -> str:
        if match["escape"]:
            return match[0][1:]
        body = _BODY.match(match["body"])
        if not match["end"] or body is None or "${" in match["body"]:
            form = "write ${VAR} or ${VAR:-default} (not nested), and $${ for a plain ${"
            result.problems.append((location, f"a reference that can't be read; {form}"))
            return match[0]
        name, default = body["name"], body["default"]
        result.variables[location] = (*result.variables.get(location, ()), name)
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            message = f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            result.problems.append((location, message))
            return match[0]
        return value

    return _REFERENCE.sub(replace, text)
