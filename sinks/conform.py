"""Changes brought to the columns of an evolved table: some go to another column, to another type, or nowhere.

Whole columns are moved and cast; most changes pass as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl
import pyarrow as pa

from config.errors import UnsupportedChange
from sinks.widening import beside
from sources.changes import CDC_UNCHANGED, UNCHANGED_FIELD, ChangeBatch, TableSchema


@dataclass(frozen=True)
class Place:
    """Where a column of a change goes: into this column of the table (None: it is left out), at this type."""

    column: str | None
    type: pa.DataType


Places = Mapping[str, Place]
"""By source column; one that isn't named goes to its own name as it is."""


def conformed(
    change: ChangeBatch, places: Places, columns: Mapping[str, pa.DataType], key: tuple[str, ...]
) -> ChangeBatch:
    """`change` as a table with these `columns` and this `key` takes it.

    Raises UnsupportedChange for a value that doesn't fit the type that its column is to have.
    """
    schema = change.schema
    wanted = key if key and set(key) == set(schema.key) else schema.key
    kin = _kin(change, columns) if change.lacks_values else {}
    if not places and not kin:
        return change if wanted == schema.key else replace(change, schema=replace(schema, key=wanted))
    fields: list[pa.Field] = []
    arrays: list[pa.ChunkedArray] = []
    for field in schema.columns:
        place = places.get(field.name, Place(field.name, field.type))
        if place.column is not None:
            fields.append(pa.field(place.column, place.type, field.nullable))
            arrays.append(_cast(change, field, place.type))
    there = {field.name for field in fields}
    for name in dict.fromkeys(name for names in kin.values() for name in names if name not in there):
        fields.append(pa.field(name, columns[name]))
        arrays.append(pa.chunked_array([pa.nulls(change.rows.num_rows, columns[name])]))
    own = list(fields)
    for name in change.rows.column_names[len(schema.columns) :]:
        column = change.rows.column(name)
        if name == CDC_UNCHANGED:
            left_out = {name: () for name, place in places.items() if place.column is None}
            column = _renamed(column, {**kin, **left_out})
        fields.append(change.rows.schema.field(name))
        arrays.append(column)
    rows = pa.table(arrays, schema=pa.schema([field.with_nullable(True) for field in fields]))
    return replace(change, schema=TableSchema(pa.schema(own), wanted, schema.id), rows=rows)


def _cast(change: ChangeBatch, field: pa.Field, kind: pa.DataType) -> pa.ChunkedArray:
    column = change.rows.column(field.name)
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise UnsupportedChange(
            f"topic {change.topic} partition {change.partition}, offsets {change.first} to {change.next - 1}: column"
            f" {field.name} has a value that doesn't fit {kind}, the type that the table keeps: {error}. Let"
            " schema_evolution.widen be `evolve` or `lenient`, or repair the value at the source"
        ) from error


def _kin(change: ChangeBatch, columns: Mapping[str, pa.DataType]) -> dict[str, tuple[str, ...]]:
    """Source columns that the table keeps at several types: a value that wasn't sent is in one of them."""
    found = {}
    for name in change.schema.columns.names:
        kin = tuple(n for n, kind in columns.items() if n == name or n == beside(name, kind))
        if kin != (name,):
            found[name] = kin
    return found


def _renamed(unchanged: pa.ChunkedArray, to: Mapping[str, tuple[str, ...]]) -> pa.ChunkedArray:
    """The lists of columns whose values weren't sent, with each of these names replaced by others."""
    if not to:
        return unchanged
    lists = pl.DataFrame({"names": pl.Series(pl.from_arrow(unchanged), dtype=pl.List(pl.String))}).with_row_index("row")
    pairs = [(name, other) for name, others in to.items() for other in others]
    replaced = pl.DataFrame(pairs, schema={"names": pl.String, "to": pl.String}, orient="row")
    single = lists.explode("names").drop_nulls("names")
    kept = single.filter(~pl.col("names").is_in(list(to))).with_columns(to=pl.col("names"))
    both = pl.concat([kept, single.join(replaced, on="names", how="inner").select(kept.columns)])
    grouped = both.group_by("row").agg(pl.col("to"))
    column = lists.join(grouped, on="row", how="left", maintain_order="left")["to"]
    return pa.chunked_array([column.to_arrow().cast(UNCHANGED_FIELD.type)])
