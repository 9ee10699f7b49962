"""Keys as a condition in SQL: what an incremental snapshot is told to read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from verify.source import SourceTable


@dataclass(frozen=True)
class Dialect:
    """How a database writes identifiers, a literal of bytes (`{}` stands for their hexadecimal digits), and whether a
    backslash escapes in its texts."""

    quoted: Callable[[str], str]
    bytes_as: str
    backslash_escapes: bool = False


def key_filter(table: SourceTable, keys: pa.Table, dialect: Dialect) -> str:
    """`id IN (…)`, or `(a, b) IN ((…), …)`, for keys at the sink's types."""
    columns = [[_literal(value, dialect) for value in keys.column(name).to_pylist()] for name in table.key]
    names = [dialect.quoted(name) for name in table.key]
    if len(names) == 1:
        return f"{names[0]} IN ({', '.join(columns[0])})"
    rows = ", ".join(f"({', '.join(row)})" for row in zip(*columns, strict=True))
    return f"({', '.join(names)}) IN ({rows})"


def _literal(value: Any, dialect: Dialect) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, bytes):
        return dialect.bytes_as.format(value.hex())
    if isinstance(value, datetime):
        value = value.replace(tzinfo=None)  # the connectors' sessions are in UTC
    text = str(value).replace("'", "''")
    return "'" + (text.replace("\\", "\\\\") if dialect.backslash_escapes else text) + "'"
