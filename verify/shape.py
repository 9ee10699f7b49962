"""Which columns are compared, at which types, and which can't be."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from sources.changes import CDC_NAMES
from verify.lake import LakeVersion
from verify.report import Unclear
from verify.source import SourceReader, SourceTable
from verify.texts import canonical_json


@dataclass(frozen=True)
class Shape:
    """What both sides are brought into. `columns`: those that are compared, at the types that the lake's table has.
    `notes`: which aren't, and why."""

    key: tuple[str, ...]
    columns: pa.Schema
    json: frozenset[str]
    notes: tuple[str, ...]

    def of(self, rows: pa.Table) -> pa.Table:
        """`rows` with their JSON in one way of writing."""
        for name in self.json & set(rows.column_names):
            place = rows.column_names.index(name)
            rows = rows.set_column(place, rows.schema.field(name), canonical_json(rows.column(name).combine_chunks()))
        return rows


def shape_of(table: SourceTable, lake: LakeVersion | None, source: SourceReader) -> Shape:
    """The columns that both sides have; of a lake table that isn't there yet, the key as text.

    Raises Unclear if rows can't be told apart.
    """
    if not table.key:
        raise Unclear("the source table has no primary key to compare rows by; source.key_columns can name one")
    found = lake.columns if lake is not None else pa.schema([(name, pa.string()) for name in table.key])
    columns, json, notes = [], set(), []
    for field in found:
        if field.name in CDC_NAMES:
            continue
        column = table.column(field.name)
        if column is None:
            notes.append(f"column {field.name} isn't compared: the source has none of that name any more")
        elif not source.readable(column, field.type):
            notes.append(
                f"column {field.name} isn't compared: it isn't known how {column.type} is represented as {field.type}"
            )
        else:
            columns.append(field)
            if source.is_json(column) and pa.types.is_string(field.type):
                json.add(field.name)
    if lake is not None:
        notes += [
            f"column {column.name} isn't compared: the sink's table has none of that name (yet)"
            for column in table.columns
            if column.name not in found.names
        ]
    compared = {field.name for field in columns}
    lacking = [name for name in table.key if name not in compared]
    if lacking:
        raise Unclear(f"the key's column {', '.join(lacking)} can't be compared; {'; '.join(notes)}")
    return Shape(table.key, pa.schema(columns), frozenset(json), tuple(notes))
