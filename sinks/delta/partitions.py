"""The values of a Delta table's partition columns: as the log's texts, as folders' names, and back.

The log says each file's values (Delta protocol, "Partition Value Serialization"). Readers should take them from there,
but Polars takes them from the folders' names, which therefore are as Hive and Spark write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import RecordsRefused, UnsupportedChange
from sinks.base import Batch
from sources.changes import CDC_OFFSET, CDC_OP

Values = Mapping[str, str | None]
"""The text of each partition column's value; None is null."""

_UNSAFE = frozenset("\"#%'*/:=?\\{}[]^\x7f" + "".join(map(chr, range(32))))
"""Characters that a folder's name has in hexadecimal, as Hive and Spark have it."""

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def refuse_empty_texts(table: str, names: Sequence[str], batch: Batch, *, upsert: bool) -> None:
    """The empty text means null to Delta's readers (Delta protocol, "Partition Value Serialization"). Raises
    RecordsRefused for records that have it in one of the partition columns `names`."""
    records: dict[tuple[str, int, int], str] = {}
    for change in batch.changes:
        for name in names:
            if name not in change.rows.column_names or not _is_text(change.rows.column(name).type):
                continue
            empty = pc.fill_null(pc.equal(change.rows.column(name), ""), fill_value=False)
            if upsert:  # a delete brings no row
                empty = pc.and_(empty, pc.not_equal(change.rows.column(CDC_OP), "d"))
            for offset in change.rows.filter(empty).column(CDC_OFFSET).to_pylist():
                records[change.topic, change.partition, offset] = (
                    f"{change.topic}/{change.partition}: at offset {offset} the column {name}, by which Delta table"
                    f" {table} is partitioned, holds the empty text, which Delta's readers take for null; partition the"
                    " table by other columns"
                )
    if records:
        raise RecordsRefused(records)


def split(rows: pa.Table, names: Sequence[str]) -> Iterator[tuple[Values, pa.Table]]:
    """Rows of each partition of the table, without the partition columns, which aren't kept in the files."""
    if not names:
        yield {}, rows
        return
    texts = {f"v{n}": _texts(name, rows.column(name)) for n, name in enumerate(names)}
    places = pl.DataFrame({name: pl.from_arrow(column) for name, column in texts.items()}).with_row_index("row")
    inner = rows.drop_columns(list(names))
    for values, group in places.group_by(list(texts), maintain_order=True):
        found = {name: None if value is None else str(value) for name, value in zip(names, values, strict=True)}
        yield found, inner.take(pa.array(group["row"].to_numpy()))


def folder(values: Values) -> str:
    """The folder of a partition, with a slash behind it; empty for a table without partitions."""
    parts = [f"{_escaped(name)}={_HIVE_NULL if value is None else _escaped(value)}/" for name, value in values.items()]
    return "".join(parts)


def columns(values: Values, schema: pa.Schema, count: int) -> dict[str, pa.Array]:
    """The partition columns of a file with `count` rows."""
    return {name: _parsed(value, schema.field(name).type, count) for name, value in values.items()}


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _texts(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_floating(kind):
        raise UnsupportedChange(
            f"partition_by: column {name} is {kind}, whose values Lakeward can't keep as the name of a partition; with"
            " upserts: deletion_vectors a table is partitioned by texts, whole numbers, decimals, booleans, dates or"
            " timestamps. Partition it by another column, or set upserts: merge"
        )
    if pa.types.is_timestamp(kind):
        # Arrow writes a Z behind a time with zone; without it, and in UTC, is what all versions of Delta read
        column = column.cast(pa.timestamp("us"))
    return column.cast(pa.string())  # none is empty: see `refuse_empty_texts`


def _parsed(value: str | None, kind: pa.DataType, count: int) -> pa.Array:
    if value is None or value == "":
        return pa.nulls(count, kind)
    if pa.types.is_timestamp(kind):
        naive = value.removesuffix("Z").replace("T", " ")
        scalar = pa.scalar(naive).cast(pa.timestamp("us")).cast(kind)
    else:
        scalar = pa.scalar(value).cast(kind)
    return pa.repeat(scalar, count)


def _escaped(text: str) -> str:
    return "".join(f"%{ord(character):02X}" if character in _UNSAFE else character for character in text)
