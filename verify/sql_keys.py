"""Keys as a condition in SQL: what an incremental snapshot is told to read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa

from verify.source import SourceTable
from verify.texts import OUT_OF_RANGE, readable

KEYS_AT_ONCE = 200
"""Keys of one condition."""


@dataclass(frozen=True)
class Dialect:
    """How a database writes identifiers, a literal of bytes (`{}` stands for their hexadecimal digits), and whether a
    backslash escapes in its texts."""

    quoted: Callable[[str], str]
    bytes_as: str
    backslash_escapes: bool = False


def key_filter(table: SourceTable, keys: pa.Table, dialect: Dialect) -> str:
    """`id IN (…)`, or `(a, b) IN ((…), …)`, for keys at the sink's types; `FALSE` for none.

    Keys with a date or time that no sink holds (infinity) are left out: they are dead letters for good.
    """
    columns = [[readable(value) for value in keys.column(name)] for name in table.key]
    temporal = [pa.types.is_temporal(keys.schema.field(name).type) for name in table.key]
    rows = [
        [_literal(value, dialect) for value in row]
        for row in zip(*columns, strict=True)
        if not any(out and value == OUT_OF_RANGE for out, value in zip(temporal, row, strict=True))
    ]
    if not rows:
        return "FALSE"
    names = [dialect.quoted(name) for name in table.key]
    if len(names) == 1:
        return f"{names[0]} IN ({', '.join(row[0] for row in rows)})"
    listed = ", ".join(f"({', '.join(row)})" for row in rows)
    return f"({', '.join(names)}) IN ({listed})"


def in_parts(keys: pa.Table, key: Sequence[str]) -> Iterator[pa.Table]:
    """Different keys in their order, so many as a condition takes."""
    frame = pl.from_arrow(keys)
    assert isinstance(frame, pl.DataFrame)
    sorted_keys = frame.unique().sort(list(key)).to_arrow().cast(keys.schema)
    for first in range(0, len(sorted_keys), KEYS_AT_ONCE):
        yield sorted_keys.slice(first, KEYS_AT_ONCE)


def exact(keys: pa.Table) -> bool:
    """Whether a condition finds rows by these keys without fail: not so for floats, whose literals are others, and for
    dates and times that have none."""
    tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_decimal)
    return all(any(test(kind) for test in tests) for kind in keys.schema.types)


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
