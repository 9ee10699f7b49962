"""Which columns are compared, at which types, and which can't be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from sources.changes import CDC_NAMES
from verify.columns import Column, Reading
from verify.lake import LakeVersion
from verify.lake_types import plain_type
from verify.report import Unclear
from verify.source import SourceReader, SourceTable

_NOT_YET = "the sink's table has none of that name (yet)"


@dataclass(frozen=True)
class Shape:
    """What both sides are brought into. `readings`: the columns that are compared, at the types that the lake's table
    has, and how the source's are read. `notes`: which aren't, and why."""

    key: tuple[str, ...]
    readings: Mapping[pa.Field, Reading]
    notes: tuple[str, ...]

    @property
    def columns(self) -> pa.Schema:
        """The columns that are compared."""
        return pa.schema(list(self.readings))

    def of(self, rows: pa.Table) -> pa.Table:
        """`rows` with values that may be written in several ways in one."""
        for field, reading in self.readings.items():
            if reading.alike is not None and field.name in rows.column_names:
                place = rows.column_names.index(field.name)
                values = reading.alike(rows.column(place).combine_chunks())
                rows = rows.set_column(place, rows.schema.field(place), values)
        return rows


def shape_of(table: SourceTable, lake: LakeVersion | None, source: SourceReader) -> Shape:
    """The columns that both sides have; of a lake table that isn't there yet, the key.

    Raises Unclear if rows can't be told apart.
    """
    if not table.key:
        raise Unclear("the source table has no primary key to compare rows by; source.key_columns can name one")
    readings, notes = {}, []
    for field in _columns(table) if lake is None else lake.columns:
        if field.name in CDC_NAMES:
            continue
        column = table.column(field.name)
        reading = None if column is None else source.reading(column, field.type)
        if reading is not None:
            readings[field] = reading
        else:
            notes.append(f"column {field.name} isn't compared: {_unknown(column, field.type)}")
    if lake is not None:
        notes += [
            f"column {column.name} isn't compared: {column.why or _NOT_YET}"
            for column in table.columns
            if column.name not in lake.columns.names
        ]
    compared = {field.name for field in readings}
    lacking = [name for name in table.key if name not in compared]
    if lacking:
        raise Unclear(f"the key's column {', '.join(lacking)} can't be compared; {'; '.join(notes)}")
    return Shape(table.key, readings, tuple(notes))


def _columns(table: SourceTable) -> pa.Schema:
    """The key as a sink's table would have it."""
    columns = [column for column in table.columns if column.name in table.key]
    return pa.schema([(column.name, plain_type(column.stored or pa.null())) for column in columns])


def _unknown(column: Column | None, kind: pa.DataType) -> str:
    if column is None:
        return "the source has none of that name any more"
    if column.stored is None:
        return column.why
    if not column.fits(kind):
        return (
            f"the sink's table has it as {kind}, and as the connector and source.columns are set, {column.source.type}"
            f" becomes {column.stored}"
        )
    return f"it isn't known how {column.source.type} is represented as {kind}"
