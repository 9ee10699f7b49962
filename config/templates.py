"""Names with placeholders: `{prefix}`, `{schema}` and `{table}` stand for the parts of the source table's topic."""

from __future__ import annotations

import re

PLACEHOLDERS = ("prefix", "schema", "table")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def check_template(template: str) -> str:
    """The template itself. Raises ValueError for an unknown placeholder or a lonely brace."""
    unknown = [name for name in _PLACEHOLDER.findall(template) if name not in PLACEHOLDERS]
    allowed = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    if unknown:
        raise ValueError(f"unknown placeholder {{{unknown[0]}}}; allowed: {allowed}")
    if re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        raise ValueError(f"a brace without its partner; placeholders are {allowed}")
    return template


def resolve_template(template: str, *, prefix: str, schema: str, table: str) -> str:
    """The template with its placeholders replaced; it was checked before."""
    values = {"prefix": prefix, "schema": schema, "table": table}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)
