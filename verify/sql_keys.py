"""Keys as a condition in SQL: what an incremental snapshot is told to read again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa

from verify.columns import Column
from verify.source import SourceTable
from verify.texts import readable

KEYS_AT_ONCE = 200
"""Keys of one condition."""


@dataclass(frozen=True)
class Dialect:
    """How a database writes identifiers, the expression whose text is that of a column in the lake, a literal of bytes
    (`{}` stands for their hexadecimal digits), and whether a backslash escapes in its texts."""

    quoted: Callable[[str], str]
    text_of: Callable[[Column], str]
    bytes_as: str
    backslash_escapes: bool = False


def key_filter(table: SourceTable, keys: pa.Table, dialect: Dialect) -> str:
    """`id IN (…)`, or `(a, b) IN ((…), …)`, for keys at the sink's types; `FALSE` for none.

    Keys with a date or time that no sink holds (infinity) are left out, as they are dead letters for good; so are those
    whose text is none of the database's (`-0043-03-15`).
    """
    columns = [[readable(value) for value in keys.column(name)] for name in table.key]
    temporal = [_is_temporal(table, keys.schema.field(name)) for name in table.key]
    rows = [
        [_literal(value, dialect) for value in row]
        for row in zip(*columns, strict=True)
        if not any(out and _is_odd(value) for out, value in zip(temporal, row, strict=True))
    ]
    if not rows:
        return "FALSE"
    names = [_operand(table, keys.schema.field(name), dialect) for name in table.key]
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


def exact(table: SourceTable, keys: pa.Table) -> bool:
    """Whether a condition finds rows by these keys without fail: not so for floats, whose literals are others, for
    dates and times, some of which have none, and for numbers that became others on the way."""
    tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_decimal)
    return all(
        any(test(field.type) for test in tests) and not _is_temporal(table, field) and not _is_wrapped(table, field)
        for field in keys.schema
    )


def findable(table: SourceTable, keys: pa.Table) -> bool:
    """Whether a condition holds for the rows with these keys: not so for floats, for dates and times that have no
    literal, and for numbers that became others on the way."""
    return not any(
        pa.types.is_floating(field.type)
        or _is_wrapped(table, field)
        or (_is_temporal(table, field) and any(_is_odd(readable(value)) for value in keys.column(field.name)))
        for field in keys.schema
    )


def _is_temporal(table: SourceTable, field: pa.Field) -> bool:
    column = table.column(field.name)
    return pa.types.is_temporal(field.type) or (column is not None and column.temporal)


def _is_wrapped(table: SourceTable, field: pa.Field) -> bool:
    """Whether it is a `bigint unsigned` whose upper half is negative in the lake."""
    column = table.column(field.name)
    return (
        pa.types.is_int64(field.type)
        and column is not None
        and column.source.type.startswith("bigint")
        and ("unsigned" in column.source.type)
    )


def _is_odd(value: Any) -> bool:
    return isinstance(value, str) and not re.match(r"\d{1,4}[-:]", value)


def _operand(table: SourceTable, field: pa.Field, dialect: Dialect) -> str:
    column = table.column(field.name)
    if column is None or column.temporal or not pa.types.is_string(field.type):
        return dialect.quoted(field.name)
    return dialect.text_of(column)


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
